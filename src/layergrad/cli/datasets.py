"""Commands of the datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layergrad.cli.app import app
from layergrad.cli.options import Dataset, Key, ParquetFile, Study, plan_of
from layergrad.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from layergrad.plan import Plan


@app.command()
def build(
    study: Study,
    dataset: Dataset,
    output: ParquetFile,
    key: Key = None,
) -> None:
    """Build a dataset: choose the samples, write every response under every control."""
    from layergrad.datasets.build import build_dataset
    from layergrad.plan import check_key
    from layergrad.tables import DATASET, write_table

    plan = plan_of(study)
    planned = plan.dataset_key(dataset)
    check_key(f"dataset {dataset}", planned, key)
    frame, facts = build_dataset(plan.study, dataset)
    provenance = {
        "key": planned,
        "dataset": plan.study.dataset(dataset).model_dump(mode="json"),
        "seed": plan.study.seed,
        **facts,
    }
    write_table(frame, DATASET, output, provenance)
    typer.echo(_summary(dataset, facts), err=True)


def _summary(dataset: str, facts: dict[str, Any]) -> str:
    text = f"{dataset}: {facts['samples']} samples of {facts['source_rows']} in the source"
    if facts["samples"] < facts["samples_wanted"]:
        text += f" ({facts['samples_wanted']} were asked for)"
    return "; ".join([text, *_left_out(facts)])


def _left_out(facts: dict[str, Any]) -> list[str]:
    """Return a line per reason for which rows of a source were left out."""
    from layergrad.datasets.pool import told_refusals

    return told_refusals(facts["refused"], facts["first_refused"])


@app.command()
def audit(
    study: Study,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Only this dataset; may be repeated.")
    ] = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option(help="Built dataset; may be repeated. Those that are needed else are built."),
    ] = None,
    model_receipt: Annotated[
        list[Path] | None,
        typer.Option(help="Receipt of a fetched model whose tokens to count; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Parquet file to write; what is right in it is kept.")
    ] = None,
    key: Key = None,
) -> None:
    """Audit datasets: duplicates, answers, leaks, form, and tokens of the models given."""
    import polars as pl

    from layergrad.datasets.audit import MEASURES, problems, wide
    from layergrad.plan import check_key
    from layergrad.provenance import key as hash_of
    from layergrad.provenance import read_provenance
    from layergrad.results import audited_parts
    from layergrad.tables import AUDIT, conform, read_table, write_table

    plan = plan_of(study)
    check_key("audit", plan.audit_key, key)
    names = dataset or [s.name for s in plan.study.datasets if f"{s.name}/" in plan.audit_parts]
    given = _given(plan, samples or [])
    encoders = _encoders(plan, model_receipt or [])
    parts = audited_parts(plan, output) if output else {}
    tables = [read_table(output, AUDIT).filter(_part().is_in(list(parts)))] if parts else []
    kept = (read_provenance(output) or {}).get("left_out", {}) if parts else {}
    left_out = {name: lines for name, lines in kept.items() if f"{name}/" in parts}
    for name in names:
        asked = [model for model in ("", *encoders) if f"{name}/{model}" not in parts]
        if asked:
            built, facts = _built(plan, name, given)
            tables += _audits(built, facts, asked, encoders)
            left_out[name] = _left_out(facts)
            parts |= {part: plan.audit_parts[part] for part in (f"{name}/{m}" for m in asked)}
    table = conform(pl.concat([pl.DataFrame(schema=AUDIT.schema), *tables]), AUDIT)
    if output is not None:
        record = {"key": hash_of("audit", parts), "parts": parts, "left_out": left_out}
        write_table(table, AUDIT, output, record)
    shown = table.filter(pl.col("dataset").is_in(names))
    if shown.is_empty():
        typer.echo("there is no text to audit")
        return
    _print_table(wide(shown))
    if shown.filter(pl.col("model") != "").height:
        _print_table(wide(shown, tokens=True))
    measured = shown["measure"].unique()
    typer.echo("\n".join(f"{name}: {told}" for name, told in MEASURES.items() if name in measured))
    told = [f"{name}: {line}" for name in names for line in left_out[name]]
    found = problems(shown) or ["no problems found"]
    typer.echo("\n".join(["", *told, *found]))


def _part() -> pl.Expr:
    """Return the part of an audit that a row belongs to."""
    import polars as pl

    return pl.concat_str("dataset", "model", separator="/")


def _encoders(plan: Plan, receipts: list[Path]) -> dict[str, Any]:
    """Return the encoders of fetched models, by name."""
    if not receipts:
        return {}  # without torch
    from layergrad.spectra.pair import make_encoder, read_receipt

    read = map(read_receipt, receipts)
    return {r["model"]: make_encoder(plan, r["model"], r["path"]) for r in read}


def _given(plan: Plan, samples: list[Path]) -> dict[str, Path]:
    """Return the file of each dataset that is given; refuse one of another configuration."""
    from layergrad.provenance import recorded_key

    keys = {plan.dataset_key(spec.name): spec.name for spec in plan.study.datasets}
    given = {recorded_key(path): path for path in samples}
    for found, path in given.items():
        if found not in keys:
            raise UserError(f"{path}: no dataset of this study, or of another configuration of it")
    return {keys[found]: path for found, path in given.items()}


def _built(plan: Plan, name: str, given: dict[str, Path]) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return a dataset and the facts of its build: read if its file is given, else built here."""
    from layergrad.provenance import read_provenance
    from layergrad.tables import DATASET, read_table

    if name in given:
        return read_table(given[name], DATASET), read_provenance(given[name])
    from layergrad.datasets.build import build_dataset

    return build_dataset(plan.study, name)


def _audits(
    built: pl.DataFrame, facts: dict[str, Any], models: list[str], encoders: dict[str, Any]
) -> list[pl.DataFrame]:
    """Return the audits of a dataset's text (for the model named '') and of its tokens."""
    from layergrad.datasets import audit

    found = []
    for model in models:
        if model:
            found.append(audit.audit_tokens(built, model, encoders[model]))
        else:
            left_out = sum(facts["refused"].values())
            found += [audit.audit(built), audit.audit_source(built, left_out)]
    return found


def _print_table(frame: pl.DataFrame) -> None:
    """Print a table whole, however wide the terminal; whole numbers without decimals."""
    import polars as pl

    numbers = pl.selectors.float()
    whole = [c.name for c in frame.select(numbers) if (c.drop_nulls() % 1 == 0).all()]
    with pl.Config(
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=300,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        float_precision=2,
    ):
        typer.echo(frame.with_columns(pl.col(whole).cast(pl.Int64)))


@app.command()
def teach(
    study: Study,
    dataset: Dataset,
    output: Annotated[Path, typer.Option(help="File of responses to write (.jsonl).")],
    samples: Annotated[
        int | None, typer.Option(help="How many to ask for; by default the study's samples.")
    ] = None,
    again: Annotated[
        list[str] | None,
        typer.Option(help="Ask again for answers in this state, such as refused; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the estimate and ask for nothing.")] = False,
) -> None:
    """Have a teacher write slow responses: the file goes under `added` of the dataset."""
    from layergrad.datasets import teacher
    from layergrad.datasets.pool import choose
    from layergrad.datasets.sources import load_source

    unknown = set(again or ()) - set(teacher.STATES)
    if unknown:
        raise UserError(
            f"--again {unknown.pop()}: no such state; one of {', '.join(teacher.STATES)}"
        )
    loaded = plan_of(study).study
    settings = loaded.teacher
    pool = load_source(loaded.dataset(dataset))
    chosen = choose(pool, samples or loaded.samples, loaded.seed)
    store = teacher.store_of(output)
    with teacher.opened_store(store) as stored:
        estimate = teacher.estimate(settings, chosen, stored, again or ())
        typer.echo(f"{dataset}: {estimate}", err=True)
    if dry_run:
        return
    counts, problem = teacher.teach(settings, chosen, output, again or ())
    with teacher.opened_store(store) as stored:
        for line in teacher.told_states(settings, chosen, stored):
            typer.echo(f"{dataset}: {line}", err=True)
    told = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
    typer.echo(f"{dataset}: {told}", err=True)
    if problem:
        raise UserError(f"{dataset}: {problem}")
