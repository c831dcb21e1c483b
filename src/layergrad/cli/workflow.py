"""Commands of the workflow: leases, manifest, measures, plan of a study, check of its results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layergrad.cli.app import app
from layergrad.cli.options import JsonFile, Study, plan_of


@app.command(context_settings={"ignore_unknown_options": True})
def lease(
    command: Annotated[list[str], typer.Argument(help="Command, after `--`.")],
    gpus: Annotated[int, typer.Option(min=0, help="GPUs that the command needs.")] = 1,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most.")] = None,
) -> None:
    """Run a command on GPUs that no other job holds; on the CPU where there is none."""
    from layergrad.lease import run

    run(gpus, command, timeout)


@app.command()
def manifest(
    study: Study,
    output: Annotated[Path, typer.Option(help="Manifest to write.")],
) -> None:
    """List the files of spectra that a study uses, with their checksums."""
    from layergrad.results import write_manifest

    write_manifest(plan_of(study), output)


@app.command()
def measure(
    study: Study,
    output: JsonFile,
) -> None:
    """Write the few numbers by which versions of a study are compared (`dvc metrics diff`)."""
    from layergrad.results import write_measures

    write_measures(plan_of(study), output)


@app.command()
def plan(study: Study = Path("config.yaml")) -> None:
    """Print what a study consists of, what is there and what remains to be computed."""
    from layergrad.cost import Cost, describe_cost
    from layergrad.results import describe

    planned = plan_of(study)
    cost = Cost(planned)
    print(describe_cost(cost))
    if not (
        cost.absent or cost.absent_models
    ):  # the cells can be told without the data, jobs need their content
        print("", describe(planned), sep="\n")


@app.command()
def retry(
    study: Study = Path("config.yaml"),
    reason: Annotated[
        list[str] | None, typer.Option(help="Only failures like out_of_memory; may be repeated.")
    ] = None,
) -> None:
    """Forget failed samples and what was made without them; the next run tries them again."""
    from layergrad.retry import retry as forget

    cells = forget(plan_of(study), reason)
    print("\n".join(cells) or "no sample failed so")
    if cells:
        print("run the workflow again to measure them")


@app.command()
def verify(
    study: Study = Path("config.yaml"),
    only_spectra: Annotated[bool, typer.Option("--only-spectra", help="Not the report.")] = False,
    checksums: Annotated[bool, typer.Option("--checksums", help="Read all spectra.")] = False,
) -> None:
    """Refuse results that are missing, damaged or of another configuration than the study's."""
    from layergrad.results import check

    check(plan_of(study), only_spectra, checksums)
    print("every result is that of this study")
