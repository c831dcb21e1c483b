"""Commands of the spectra."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from layergrad.cli.app import app
from layergrad.cli.options import (
    Dataset,
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
    index = extract_pair(plan, model, dataset, model_receipt, samples, output, preflight)
    for note in index["examples"]["notes"]:
        typer.echo(f"{model}: {note}", err=True)
    for prompt in index["examples"]["prompts"]:
        say_prompt(f"{dataset}, {prompt['response']}, row {prompt['row']}", prompt["printed"])
    say_failures(f"{model} on {dataset}", index)


@app.command()
def preflight(
    model: Model,
    study: Study = Path("config.yaml"),
    model_receipt: Annotated[
        Path | None, typer.Option(help="What `fetch` wrote; where the workflow puts it, if absent.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="JSON file to write; where the workflow puts it, if absent.")
    ] = None,
    key: Key = None,
) -> None:
    """Check a fetched model: against autograd, in batches, causality, layers, precision, BOS.

    A failed check is recorded, not raised as an error: the other models of a study go on, and the
    samples of this one are recorded as failed.
    """
    from layergrad.models.encode import SampleError
    from layergrad.plan import check_key
    from layergrad.spectra.examples import example
    from layergrad.spectra.pair import failures_of, preflight_model
    from layergrad.spectra.preflight import INSTRUCTION, RESPONSE, unlimited

    quiet_libraries()
    plan = plan_of(study)
    check_key(f"preflight of {model}", plan.preflight_key(model), key)
    checks, encoder = preflight_model(
        plan,
        model,
        model_receipt or plan.model_file(model),
        output or plan.preflight_file(model),
    )
    say_checks(checks)
    try:
        encoded = unlimited(encoder).encode(INSTRUCTION, RESPONSE)
        say_prompt(f"{model}, a built-in sample", example(encoder, encoded)["printed"])
    except SampleError as error:
        typer.echo(f"{model}: the built-in sample cannot be written: {error}", err=True)
    if wrong := failures_of(checks):
        typer.echo(
            f"layergrad: {model} FAILED its preflight and will not be measured; every sample of it "
            f"is recorded as failed. {wrong}",
            err=True,
        )


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
    bad_rows: Annotated[
        str,
        typer.Option(help="refuse or skip rows that cannot be used."),
    ] = "refuse",
    preflight: Annotated[
        bool, typer.Option(help="Check the model before anything is measured.")
    ] = True,
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
        study = single_study(model, samples, settings, extraction, runtime, bad_rows)
    except ValidationError as error:
        faults = [
            "  " + "".join(f"--{option}: " for option in fault["loc"][:1]) + fault["msg"]
            for fault in error.errors()
        ]
        raise UserError("\n".join(["these options are not valid:", *faults])) from None
    counts = extract_file(study, output, limit, preflight)
    if counts["checks"] is not None:
        say_checks(counts["checks"])
    elif not preflight:
        typer.echo("the model was not checked (--no-preflight)", err=True)
    if counts["prompt"] is not None:
        say_prompt("the first sample", counts["prompt"])
    failed = sum(counts["failed"].values())
    typer.echo(f"{output}: {counts['samples']} samples, {failed} failed", err=True)
    if failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts["failed"].items())
        typer.echo(f"{failures_file(output)}: why they failed ({reasons})", err=True)
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


def say_checks(checks: list[dict[str, Any]]) -> None:
    """Print the outcome of every check of a model."""
    for check in checks:
        typer.echo(f"{check['status']:>7}  {check['name']}: {check['detail']}", err=True)


def say_prompt(what: str, printed: str) -> None:
    """Print a sample as the model sees it."""
    typer.echo(f"{what}, as the model sees it, with the tokens in the loss marked:", err=True)
    typer.echo(printed, err=True)


def say_failures(what: str, index: dict[str, Any]) -> None:
    """Print how many samples of a pair failed and why, above all if all did."""
    from collections import Counter

    from layergrad.tables import FAILURES, read_table

    reasons: Counter[str] = Counter()
    detail: dict[str, str] = {}
    for cell in index["cells"]:
        for row in read_table(cell["failures"], FAILURES).iter_rows(named=True):
            reasons[row["reason"]] += 1
            detail.setdefault(row["reason"], row["detail"])
    measured = sum(cell["samples"] for cell in index["cells"])
    if reasons and not measured:
        typer.echo(f"layergrad: {what}: NOTHING WAS MEASURED, every sample failed:", err=True)
    for reason, count in reasons.most_common():
        typer.echo(f"{what}: {count} failed, {reason}; the first: {detail[reason]}", err=True)
