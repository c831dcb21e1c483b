"""Commands of the datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layergrad.cli.app import app
from layergrad.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from layergrad.plan import Plan


@app.command()
def build(
    study: Annotated[Path, typer.Option(help="Configuration of the study.")],
    dataset: Annotated[str, typer.Option(help="Name of the dataset in the study.")],
    output: Annotated[Path, typer.Option(help="Parquet file to write.")],
    key: Annotated[str | None, typer.Option(help="Key the caller expects.")] = None,
) -> None:
    """Build a dataset: choose the samples, write every response under every control."""
    from layergrad.config import load_study
    from layergrad.datasets.build import build_dataset
    from layergrad.plan import Plan, check_key
    from layergrad.tables import DATASET, write_table

    plan = Plan(load_study(study))
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
    study: Annotated[Path, typer.Option(help="Configuration of the study.")],
    dataset: Annotated[
        list[str] | None, typer.Option(help="Only this dataset; may be repeated.")
    ] = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option(help="Built dataset; may be repeated. Without any, datasets are built."),
    ] = None,
    model_receipt: Annotated[
        list[Path] | None,
        typer.Option(help="Receipt of a fetched model whose tokens to count; may be repeated."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Parquet file to write.")] = None,
    key: Annotated[str | None, typer.Option(help="Key the caller expects.")] = None,
) -> None:
    """Audit datasets: duplicates, answers, leaks, form, and tokens of fetched models."""
    import polars as pl

    from layergrad.config import load_study
    from layergrad.datasets.audit import audit as audit_text
    from layergrad.datasets.audit import wide
    from layergrad.datasets.build import build_dataset
    from layergrad.plan import Plan, check_key
    from layergrad.tables import AUDIT, DATASET, conform, read_table, write_table

    plan = Plan(load_study(study))
    check_key("audit", plan.audit_key, key)
    names = dataset or [spec.name for spec in plan.study.datasets]
    frames = (
        [read_table(path, DATASET) for path in samples]
        if samples
        else [build_dataset(plan.study, name)[0] for name in names]
    )
    built = pl.concat(frames).filter(pl.col("dataset").is_in(names))
    parts = [audit_text(built), *_token_audits(plan, built, model_receipt or [])]
    table = conform(pl.concat(parts), AUDIT)
    if output is not None:
        write_table(table, AUDIT, output, {"key": plan.audit_key})
    _print_table(wide(table))
    if model_receipt:
        _print_table(wide(table, tokens=True))


def _token_audits(plan: Plan, built: pl.DataFrame, receipts: list[Path]) -> list[pl.DataFrame]:
    from layergrad.datasets.audit import audit_tokens
    from layergrad.spectra.pair import make_encoder, read_receipt

    audits = []
    for path in receipts:
        receipt = read_receipt(path)
        encoder = make_encoder(plan, receipt["model"], receipt["path"])
        audits.append(audit_tokens(built, receipt["model"], encoder))
    return audits


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
    study: Annotated[Path, typer.Option(help="Configuration of the study.")],
    dataset: Annotated[str, typer.Option(help="Name of the dataset in the study.")],
    output: Annotated[Path, typer.Option(help="File of responses to write (.jsonl).")],
    samples: Annotated[
        int | None, typer.Option(help="How many to ask for; by default the study's samples.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the estimate and ask for nothing.")] = False,
) -> None:
    """Have a teacher write slow responses: the file goes under `added` of the dataset."""
    from layergrad.config import load_study
    from layergrad.datasets import teacher
    from layergrad.datasets.pool import choose
    from layergrad.datasets.sources import load_source

    loaded = load_study(study)
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
