"""Commands of the datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from layergrad.cli.app import app


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
