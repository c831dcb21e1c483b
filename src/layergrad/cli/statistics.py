"""Commands of the statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layergrad.cli.app import app

StudyOption = Annotated[Path, typer.Option(help="Configuration of the study.")]
KeyOption = Annotated[str | None, typer.Option(help="Key the caller expects.")]


@app.command()
def aggregate(
    study: StudyOption,
    model: Annotated[str, typer.Option(help="Name of the model in the study.")],
    dataset: Annotated[str, typer.Option(help="Name of the dataset in the study.")],
    index: Annotated[Path, typer.Option(help="Index of the pair's spectra.")],
    output_dir: Annotated[Path, typer.Option(help="Folder for the pair's tables.")],
    key: KeyOption = None,
) -> None:
    """Compute metrics, curves, MAD and RD of one model on one dataset."""
    from layergrad.config import load_study
    from layergrad.plan import Plan, check_key
    from layergrad.statistics.pair import aggregate as write_pair

    plan = Plan(load_study(study))
    plan.study.model(model), plan.study.dataset(dataset)
    check_key(f"statistics of {model} on {dataset}", plan.statistics_key(model, dataset), key)
    write_pair(plan, model, dataset, index, output_dir)


@app.command()
def collect(
    study: StudyOption,
    output_dir: Annotated[Path, typer.Option(help="Folder for the tables over all pairs.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Option(help="Folders of the pairs' tables; where the plan says, if none is given."),
    ] = None,
    more_inputs: Annotated[
        list[Path] | None, typer.Argument(help="Further folders: `--inputs A B C` is read so.")
    ] = None,
    key: KeyOption = None,
) -> None:
    """Join the tables of all models and datasets of a study."""
    from layergrad.config import load_study
    from layergrad.plan import Plan, check_key
    from layergrad.statistics.study import collect as write_study

    plan = Plan(load_study(study))
    check_key("tables of the study", plan.tables_key, key)
    write_study(plan, [*(inputs or []), *(more_inputs or [])], output_dir)
