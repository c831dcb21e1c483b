"""Commands of the models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layergrad.cli.app import app
from layergrad.cli.options import Key, Model, Study, plan_of


@app.command()
def fetch(
    study: Study,
    model: Model,
    output: Annotated[Path, typer.Option(help="Receipt to write; files go beside it.")],
    key: Key = None,
) -> None:
    """Fetch a model: download, check, convert to safetensors."""
    from layergrad.models.fetch import fetch_model
    from layergrad.plan import check_key

    plan = plan_of(study)
    check_key(f"model {model}", plan.model_key(model), key)
    fetch_model(plan.study.model(model), plan.model_key(model), output)
