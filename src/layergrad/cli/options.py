"""Options that many commands take, and the plan that a command works from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from layergrad.plan import Plan

Study = Annotated[Path, typer.Option(help="Configuration of the study.")]
Model = Annotated[str, typer.Option(help="Name of the model in the study.")]
Dataset = Annotated[str, typer.Option(help="Name of the dataset in the study.")]
Key = Annotated[str | None, typer.Option(help="Key the caller expects.")]
Receipt = Annotated[Path, typer.Option(help="What `fetch` wrote.")]
Samples = Annotated[Path, typer.Option(help="What `build` wrote.")]
Statistics = Annotated[Path, typer.Option(help="Folder of the tables over all pairs.")]
Preflight = Annotated[Path | None, typer.Option(help="What `preflight` wrote.")]
ParquetFile = Annotated[Path, typer.Option(help="Parquet file to write.")]
JsonFile = Annotated[Path, typer.Option(help="JSON file to write.")]


def template_arguments(given: list[str]) -> dict[str, Any]:
    """Read options ``NAME=VALUE``; a value is written as in YAML: ``false``, ``3``, ``low``."""
    import yaml

    from layergrad.errors import UserError

    arguments = {}
    for option in given:
        name, equals, value = option.partition("=")
        try:
            arguments[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not (name and equals):
            raise UserError(f"--template-argument {option}: write NAME=VALUE")
    return arguments


def plan_of(study: Path) -> Plan:
    """Return the plan of a study; imported here, so that `--help` stays quick."""
    from layergrad.config import load_study
    from layergrad.plan import Plan

    return Plan(load_study(study))
