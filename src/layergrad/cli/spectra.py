"""Commands of the spectra."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layergrad.cli.app import app
from layergrad.cli.options import (
    Dataset,
    JsonFile,
    Key,
    Model,
    ParquetFile,
    Preflight,
    Receipt,
    Samples,
    Study,
    plan_of,
    template_arguments,
)


@app.command()
def spectra(
    study: Study,
    model: Model,
    dataset: Dataset,
    model_receipt: Receipt,
    samples: Samples,
    output: Annotated[Path, typer.Option(help="Index of the pair's cells to write.")],
    preflight: Preflight = None,
    key: Key = None,
) -> None:
    """Measure the missing spectra of one model on one dataset."""
    from layergrad.plan import check_key
    from layergrad.spectra.pair import extract_pair

    quiet_libraries()
    plan = plan_of(study)
    check_key(f"spectra of {model} on {dataset}", plan.spectra_key(model, dataset), key)
    extract_pair(plan, model, dataset, model_receipt, samples, output, preflight)


@app.command()
def preflight(
    study: Study,
    model: Model,
    model_receipt: Receipt,
    samples: Annotated[Path, typer.Option(help="What `build` wrote, of any dataset.")],
    output: JsonFile,
    key: Key = None,
) -> None:
    """Check a model on a few samples: BOS, boundary, batch invariance, full SVD."""
    from layergrad.plan import check_key
    from layergrad.spectra.pair import preflight_model

    quiet_libraries()
    plan = plan_of(study)
    check_key(f"preflight of {model}", plan.preflight_key(model), key)
    for check in preflight_model(plan, model, model_receipt, samples, output):
        typer.echo(f"{check['status']:>7}  {check['name']}: {check['detail']}", err=True)


@app.command()
def similarity(
    study: Study,
    model: Model,
    dataset: Dataset,
    model_receipt: Receipt,
    samples: Samples,
    output: ParquetFile,
    preflight: Preflight = None,
    key: Key = None,
) -> None:
    """Measure cosines between the gradients of an instruction's responses."""
    from layergrad.plan import check_key
    from layergrad.spectra.similarity import write_similarity

    quiet_libraries()
    plan = plan_of(study)
    check_key(f"similarity of {model} on {dataset}", plan.similarity_key(model, dataset), key)
    refusal = write_similarity(plan, model, dataset, model_receipt, samples, output, preflight)
    if refusal:
        typer.echo(f"{model}: left out, its preflight failed: {refusal}", err=True)


@app.command()
def extract(
    model: Annotated[str, typer.Option(help="Folder, or hub id owner/name[@revision].")],
    samples: Annotated[
        Path, typer.Option(help="JSON, JSONL or Parquet: instruction, input, output.")
    ],
    output: ParquetFile,
    protocol: Annotated[str, typer.Option(help="paper or clean.")] = "clean",
    chat: Annotated[bool, typer.Option(help="Use the chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System turn of the chat template.")] = None,
    template: Annotated[str | None, typer.Option(help="Which of several chat templates.")] = None,
    template_argument: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the chat template, as in YAML.")
    ] = None,
    date: Annotated[
        str | None, typer.Option(help="Date that the chat template takes for today's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float64.")] = "float32",
    attention: Annotated[str, typer.Option(help="sdpa or eager.")] = "sdpa",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    projections: Annotated[str, typer.Option(help="Comma-separated.")] = "q,k,v,o",
    reduction: Annotated[str, typer.Option(help="mean or sum over response tokens.")] = "mean",
    max_length: Annotated[int, typer.Option(help="Longest sample in tokens.")] = 1024,
    token_budget: Annotated[int | None, typer.Option(help="Tokens of a batch.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all by default.")] = None,
) -> None:
    """Measure the spectra of one file of samples, without a study."""
    import os

    from pydantic import ValidationError

    from layergrad.config import ExtractionSettings, RuntimeSettings
    from layergrad.errors import UserError
    from layergrad.spectra.single import extract_file, single_study
    from layergrad.spectra.store import failures_file

    quiet_libraries()
    settings = {
        "protocol": protocol,
        "chat": chat,
        "system": system,
        "template": template,
        "template_arguments": template_arguments(template_argument or []),
        **({"date": date} if date else {}),
        "dtype": dtype,
        "attention": attention,
    }
    try:
        extraction = ExtractionSettings(
            projections=projections.split(","), reduction=reduction, max_length=max_length
        )
        runtime = RuntimeSettings(
            device=device, token_budget=token_budget, threads=threads or os.cpu_count() or 1
        )
        study = single_study(model, samples, settings, extraction, runtime)
    except ValidationError as error:
        faults = [
            "  " + "".join(f"--{option}: " for option in fault["loc"][:1]) + fault["msg"]
            for fault in error.errors()
        ]
        raise UserError("\n".join(["these options are not valid:", *faults])) from None
    counts = extract_file(study, output, limit)
    typer.echo(f"{output}: {counts['samples']} samples, {counts['failed']} failed", err=True)
    if counts["failed"]:
        typer.echo(f"{failures_file(output)}: why they failed", err=True)
    if counts["has_template"] and not chat:
        typer.echo("the model has a chat template, which was not used: --chat uses it", err=True)


@app.command()
def summarize(
    spectra: Annotated[Path, typer.Argument(help="What `extract` wrote.")],
) -> None:
    """Print mean nuclear norm, MAD and effective rank by projection."""
    from rich.console import Console
    from rich.table import Table as Grid

    from layergrad.statistics.summary import summary
    from layergrad.tables import FAILURES, SPECTRA, read_table

    frame = read_table(spectra, SPECTRA)
    failures = spectra.with_suffix(".failures.parquet")
    failed = read_table(failures, FAILURES).height if failures.exists() else 0
    samples = frame["row"].n_unique()
    grid = Grid(title=f"{spectra}: {samples} samples, {failed} failed")
    columns = ["projection", "nuclear norm", "MAD", "effective rank", "Frobenius norm"]
    for column in columns:
        grid.add_column(column, justify="left" if column == "projection" else "right")
    for row in summary(frame.lazy(), str(spectra)):
        grid.add_row(row[0], *(f"{value:.4g}" for value in row[1:]))
    Console().print(grid)


def quiet_libraries() -> None:
    """Silence the progress bars and remarks of transformers: this program says what it does."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
