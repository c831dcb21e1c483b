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


@app.command("update-lock")
def update_lock() -> None:
    """Ask the hub anew which commits the branches and tags of `revisions.lock.json` stand for."""
    from layergrad.revisions import LOCK
    from layergrad.revisions import update_lock as update

    updates = update()
    for name, old, new in updates:
        print(f"{name}: {old} -> {new}" if new != old else f"{name}: {old}, unchanged")
    moved = sum(new != old for _, old, new in updates)
    if moved:
        print(f"{moved} moved: the next run measures what depends on them anew; commit {LOCK}")
    elif not updates:
        print(f"{LOCK} lists no branch or tag")
