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
    return text + "".join(f"; {n} rows refused: {why}" for why, n in facts["refused"].items())


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
    from layergrad.results import audited_parts
    from layergrad.tables import AUDIT, conform, read_table, write_table

    plan = plan_of(study)
    check_key("audit", plan.audit_key, key)
    names = dataset or [s.name for s in plan.study.datasets if f"{s.name}/" in plan.audit_parts]
    given = _given(plan, samples or [])
    encoders = _encoders(plan, model_receipt or [])
    parts = audited_parts(plan, output) if output else {}
    tables = [read_table(output, AUDIT).filter(_part().is_in(list(parts)))] if parts else []
    for name in names:
        asked = [model for model in ("", *encoders) if f"{name}/{model}" not in parts]
        if asked:
            tables += _audits(_built(plan, name, given), asked, encoders)
            parts |= {part: plan.audit_parts[part] for part in (f"{name}/{m}" for m in asked)}
    table = conform(pl.concat([pl.DataFrame(schema=AUDIT.schema), *tables]), AUDIT)
    if output is not None:
        write_table(table, AUDIT, output, {"key": hash_of("audit", parts), "parts": parts})
    shown = table.filter(pl.col("dataset").is_in(names))
    if shown.is_empty():
        typer.echo("there is no text to audit")
        return
    _print_table(wide(shown))
    if shown.filter(pl.col("model") != "").height:
        _print_table(wide(shown, tokens=True))
    measured = shown["measure"].unique()
    typer.echo("\n".join(f"{name}: {told}" for name, told in MEASURES.items() if name in measured))
    typer.echo("\n".join(["", *(problems(shown) or ["nothing found that should not be"])]))


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


def _built(plan: Plan, name: str, given: dict[str, Path]) -> pl.DataFrame:
    """Return a dataset: read if its file is given, else built here."""
    from layergrad.tables import DATASET, read_table

    if name in given:
        return read_table(given[name], DATASET)
    from layergrad.datasets.build import build_dataset

    return build_dataset(plan.study, name)[0]


def _audits(built: pl.DataFrame, models: list[str], encoders: dict[str, Any]) -> list[pl.DataFrame]:
    """Return the audits of a dataset's text (for the model named '') and of its tokens."""
    from layergrad.datasets import audit

    return [
        audit.audit_tokens(built, model, encoders[model]) if model else audit.audit(built)
        for model in models
    ]


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
    dry_run: Annotated[bool, typer.Option(help="Print the estimate and ask for nothing.")] = False,
) -> None:
    """Have a teacher write slow responses: the file goes under `added` of the dataset."""
    from layergrad.datasets import teacher
    from layergrad.datasets.pool import choose
    from layergrad.datasets.sources import load_source

    loaded = plan_of(study).study
    settings = loaded.teacher
    pool = load_source(loaded.dataset(dataset))
    chosen = choose(pool, samples or loaded.samples, loaded.seed)
    with teacher.opened_store(teacher.store_of(output)) as stored:
        typer.echo(f"{dataset}: {teacher.estimate(settings, chosen, set(stored))}", err=True)
    if dry_run:
        return
    counts, problem = teacher.teach(settings, chosen, output)
    told = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
    typer.echo(f"{dataset}: {told}", err=True)
    if problem:
        raise UserError(f"{dataset}: {problem}")
