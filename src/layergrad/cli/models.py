"""Commands of the models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layergrad.cli.app import app


@app.command()
def fetch(
    study: Annotated[Path, typer.Option(help="Configuration of the study.")],
    model: Annotated[str, typer.Option(help="Name of the model in the study.")],
    output: Annotated[Path, typer.Option(help="Receipt to write; files go beside it.")],
    key: Annotated[str | None, typer.Option(help="Key the caller expects.")] = None,
) -> None:
    """Fetch a model: download, check, convert to safetensors."""
    from layergrad.config import load_study
    from layergrad.models.fetch import fetch_model
    from layergrad.plan import Plan, check_key

    plan = Plan(load_study(study))
    check_key(f"model {model}", plan.model_key(model), key)
    fetch_model(plan.study.model(model), plan.model_key(model), output)
