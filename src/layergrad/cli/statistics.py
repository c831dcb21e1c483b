"""Commands of the statistics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layergrad.cli.app import app
from layergrad.cli.options import Dataset, Key, Model, Study, plan_of

if TYPE_CHECKING:
    import polars as pl


@app.command()
def aggregate(
    study: Study,
    model: Model,
    dataset: Dataset,
    index: Annotated[Path, typer.Option(help="Index of the pair's spectra.")],
    output_dir: Annotated[Path, typer.Option(help="Folder for the pair's tables.")],
    key: Key = None,
) -> None:
    """Compute metrics, curves, MAD and RD of one model on one dataset."""
    from layergrad.plan import check_key
    from layergrad.statistics.pair import aggregate as write_pair

    plan = plan_of(study)
    plan.study.model(model), plan.study.dataset(dataset)
    check_key(f"statistics of {model} on {dataset}", plan.statistics_key(model, dataset), key)
    write_pair(plan, model, dataset, index, output_dir)


@app.command()
def collect(
    study: Study,
    output_dir: Annotated[Path, typer.Option(help="Folder for the tables over all pairs.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Option(help="Folders of the pairs' tables; where the plan says, if none is given."),
    ] = None,
    more_inputs: Annotated[
        list[Path] | None, typer.Argument(help="Further folders: `--inputs A B C` is read so.")
    ] = None,
    key: Key = None,
) -> None:
    """Join the tables of all models and datasets of a study."""
    from layergrad.plan import check_key
    from layergrad.statistics.study import collect as write_study

    plan = plan_of(study)
    check_key("tables of the study", plan.tables_key, key)
    write_study(plan, [*(inputs or []), *(more_inputs or [])], output_dir)


@app.command()
def import_published(
    folder: Annotated[Path, typer.Argument(help="Folder of the published *.jsonl files.")],
    output_dir: Annotated[Path, typer.Option(help="Folder for tables and study.json.")] = Path(
        "data/raw/published"
    ),
    model: Annotated[
        str | None, typer.Option(help="Model of files that lie in no folder named after one.")
    ] = None,
) -> None:
    """Import the statistics that the paper's authors publish, as a study of their own."""
    from layergrad.statistics.published import import_published as write_published

    path = write_published(folder, output_dir, model)
    print(
        f"the study of these statistics is {path}; for its report, without a model or a GPU:\n"
        f"  snakemake --cores 2 --configfile {path}"
    )


@app.command()
def compare(
    ours: Annotated[Path, typer.Argument(help="Table of curves, or data/statistics.")],
    theirs: Annotated[Path, typer.Argument(help="The same of the other study.")],
    output: Annotated[Path, typer.Option(help="Table to write: .parquet or .csv.")] = Path(
        "comparison.csv"
    ),
    same: Annotated[
        list[str] | None, typer.Option(help="OURS=THEIRS: models that are the same.")
    ] = None,
) -> None:
    """Set the curves of a study beside those of another, layer by layer."""
    from layergrad.errors import UserError
    from layergrad.statistics.compare import compare as write_comparison
    from layergrad.statistics.compare import summary

    pairs = [pair.partition("=") for pair in same or []]
    if any(not (one and other) for one, _, other in pairs):
        raise UserError("--same: write OURS=THEIRS, the names of one model in both studies")
    compared = write_comparison(ours, theirs, output, {one: other for one, _, other in pairs})
    _print_frame("Relative difference, (ours - theirs) / theirs", summary(compared))
    print(f"by layer: {output}")


def _print_frame(title: str, frame: pl.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*frame.columns, title=title)
    for row in frame.iter_rows():
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row))
    Console().print(table)
