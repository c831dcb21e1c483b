"""The spectra of one (model, dataset): what is missing is measured, what exists is reused."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from layergrad import __version__
from layergrad.errors import UserError
from layergrad.models.encode import Encoded, Encoder
from layergrad.models.fetch import check_files
from layergrad.models.load import load_tokenizer
from layergrad.plan import Cell, Plan
from layergrad.progress import Progress
from layergrad.provenance import read_json, read_provenance, write_json
from layergrad.spectra.examples import examples
from layergrad.spectra.store import Store, cell_entry, failures_file, measured_rows
from layergrad.spectra.tokens import SAMPLE_COLUMNS, Tokens, tokenise_cells
from layergrad.tables import FAILURES

# Looks at a model after it was loaded and before anything is measured.
Inspect = Callable[[Any, Any], None]  # (model, device)


def extract_pair(
    plan: Plan,
    model: str,
    dataset: str,
    receipt: str | Path,
    samples: str | Path,
    index: str | Path,
    preflight: str | Path | None = None,
) -> dict[str, Any]:
    """Make every cell of a pair exist and write the pair's index.

    The model is loaded only if some sample of some missing cell was never measured. The index also
    shows one prompt per response.

    Parameters
    ----------
    plan
        The study.
    model, dataset
        The pair.
    receipt
        What :func:`layergrad.models.fetch.fetch_model` wrote.
    samples
        The built dataset.
    index
        File to write: the cells with their files and checksums, and the run's provenance.
    preflight
        Result of the model's preflight; if a check failed, every sample of a missing cell ends as
        a failure with that reason.
    """
    store = Store(Path(index).with_suffix("").parent / dataset)
    _check_space(store.folder)
    cells = plan.measured_cells(model, dataset)
    missing = [cell for cell in cells if not is_complete(plan.cell_file(cell), plan.cell_key(cell))]
    run: dict[str, Any] = {}
    if missing:
        run = _measure_cells(plan, model, missing, receipt, samples, preflight, store)
    entries = [_entry(plan, cell) for cell in cells]
    shown = list(dict.fromkeys(cell.response for cell in plan.cells(model, dataset)))
    encoder = make_encoder(plan, model, read_receipt(receipt)["path"])
    record = {
        "key": plan.spectra_key(model, dataset),
        "model": model,
        "dataset": dataset,
        "cells": entries,
        "examples": examples(samples, shown, encoder),
        "provenance": run,
    }
    write_json(record, index)
    store.clear_parts()
    return record


def is_complete(file: str | Path, cell_key: str) -> bool:
    """Say whether a cell's spectra and failures exist, can be read, and are those of the key."""
    files = (Path(file), failures_file(file))
    return all(f.exists() and (read_provenance(f) or {}).get("key") == cell_key for f in files)


def _entry(plan: Plan, cell: Cell) -> dict[str, Any]:
    file = plan.cell_file(cell)
    counts = [
        pl.scan_parquet(f).select(pl.col("row").n_unique()).collect().item()
        for f in (Path(file), failures_file(file))
    ]
    return {
        "response": cell.response,
        "control": cell.control,
        **cell_entry(file, plan.cell_key(cell), *counts),
    }


def _measure_cells(
    plan: Plan,
    model: str,
    cells: list[Cell],
    receipt: str | Path,
    samples: str | Path,
    preflight: str | Path | None,
    store: Store,
) -> dict[str, Any]:
    fetched = read_receipt(receipt)
    equalised = plan.study.equalised(plan.study.dataset(cells[0].dataset))
    encoder, engine = make_encoder(plan, model, fetched["path"]), plan.engine(model)
    tokens = tokenise_cells(samples, cells, equalised, encoder, engine)
    refusal = failed_check(preflight)
    if refusal is not None:
        failed = {c: {"reason": "preflight", "detail": refusal} for c in tokens.encoded}
        run = describe_run(plan, model)
    else:
        run, failed = measure_missing(plan, model, fetched, tokens, store)
    write_cells(plan, cells, tokens, failed, store, run)
    return run


def read_receipt(receipt: str | Path) -> dict[str, Any]:
    """Read what `layergrad fetch` wrote."""
    fetched = read_json(receipt)
    if fetched is None:
        raise UserError(f"{receipt}: no readable receipt of a fetched model; run `layergrad fetch`")
    return fetched


def make_encoder(plan: Plan, model: str, folder: str) -> Encoder:
    """Return the encoder of a model under a study's settings."""
    spec, settings = plan.study.model(model), plan.study.extraction
    return Encoder(
        load_tokenizer(folder),
        spec.protocol,
        spec.chat,
        spec.system,
        settings.max_length,
        settings.response_tokens,
        spec.template,
        spec.template_arguments,
        spec.date,
    )


def failed_check(preflight: str | Path | None) -> str | None:
    """Return what a model's preflight found wrong, None if it passed or was not asked for."""
    if preflight is None:
        return None
    result = read_json(preflight)
    if result is None:
        raise UserError(f"{preflight}: no readable preflight result; delete it and run again")
    return failures_of(result["checks"])


def failures_of(checks: list[dict[str, Any]]) -> str | None:
    """Return the checks that failed, in one line; None if none did."""
    failed = [f"{c['name']}: {c['detail']}" for c in checks if c["status"] == "failed"]
    return "; ".join(failed) or None


def measure_missing(
    plan: Plan,
    model: str,
    fetched: dict[str, Any],
    tokens: Tokens,
    store: Store,
    inspect: Inspect | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure the samples that the store has no rows of.

    Parameters
    ----------
    inspect
        Called with the model if it is loaded.

    Returns
    -------
    run
        Settings, device, versions and what was used.
    failed
        content key -> reason and detail of the samples that gave no spectra.

    Raises
    ------
    UserError
        If every sample raised an error: then the fault is not in a sample.
    """
    known = store.known()
    new = {c: e for c, e in tokens.encoded.items() if c not in known}
    run = describe_run(plan, model)
    failed: dict[str, Any] = {}
    if new:
        check_files(fetched)
        run |= _measure_new(plan, model, fetched["path"], new, store, failed, inspect)
    reused = len(tokens.encoded) - len(new)
    errors = [fault["detail"] for fault in failed.values() if fault["reason"] == "error"]
    if errors and len(errors) == len(tokens.encoded):
        raise UserError(
            f"{model}: each of the {len(errors)} samples raised an error, so none is at fault; the "
            f"first: {errors[0]}"
        )
    return run | {"measured": len(new), "reused": reused}, failed


def describe_run(plan: Plan, model: str) -> dict[str, Any]:
    """Return the part of the provenance that is known before anything is measured."""
    return {"layergrad": __version__, "engine": plan.engine(model)}


def preflight_model(
    plan: Plan, model: str, receipt: str | Path, output: str | Path
) -> tuple[list[dict[str, Any]], Encoder]:
    """Check a model and write the outcome.

    Returns
    -------
    list of dict
        The checks, as written: name, status, detail, value, limit. A check that fails is no error
        here: the cells of the model record it as the reason of their failure.
    Encoder
        Writes samples as tokens for the model.
    """
    fetched = read_receipt(receipt)
    check_files(fetched)
    encoder = make_encoder(plan, model, fetched["path"])
    loaded, device = load(plan, model, fetched["path"])
    checks = check_model(plan, model, loaded, encoder)
    record = {
        "key": plan.preflight_key(model),
        "model": model,
        "passed": failures_of(checks) is None,
        "checks": checks,
        "provenance": describe_run(plan, model) | describe_device(device),
    }
    write_json(record, output)
    return checks, encoder


def check_model(plan: Plan, model: str, loaded: Any, encoder: Encoder) -> list[dict[str, Any]]:
    """Return the outcome of every preflight check of a loaded model under a study's settings."""
    from layergrad.spectra.preflight import run_checks

    spec, settings = plan.study.model(model), plan.study.extraction
    return run_checks(
        loaded,
        encoder,
        {
            "dtype": spec.dtype,
            "attention": spec.attention,
            "projections": settings.projections,
            "reduction": settings.reduction,
        },
    )


def load(plan: Plan, model: str, folder: str) -> tuple[Any, Any]:
    """Load a model as the study wants it; return it and the device of its first layer."""
    import torch

    from layergrad.models.load import choose_device, load_model

    spec, runtime = plan.study.model(model), plan.study.runtime
    device = choose_device(runtime.device)
    torch.backends.cuda.matmul.allow_tf32 = plan.study.extraction.tf32
    if device.type == "cpu":
        torch.set_num_threads(runtime.threads)
    return load_model(folder, spec.dtype, spec.attention, device), device


def describe_device(device: Any) -> dict[str, Any]:
    """Return the device and the versions that numbers may depend on."""
    import torch
    import transformers

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def _measure_new(
    plan: Plan,
    model: str,
    folder: str,
    new: dict[str, Encoded],
    store: Store,
    failed: dict[str, Any],
    inspect: Inspect | None = None,
) -> dict[str, Any]:
    """Measure samples batch by batch into the store; return what was used."""
    from layergrad.spectra.extract import Extractor, Failed

    settings = plan.study.extraction
    loaded, device = load(plan, model, folder)
    if inspect is not None:
        inspect(loaded, device)
    extractor = Extractor(
        loaded, settings.projections, settings.reduction, plan.study.runtime.token_budget
    )
    contents, samples = list(new), list(new.values())
    with Progress(f"spectra {model}", len(samples), "sample") as progress:
        for batch in extractor.run(samples):
            rows = []
            for i, result in batch:
                if isinstance(result, Failed):
                    failed[contents[i]] = {"reason": result.reason, "detail": result.detail}
                else:
                    sample = samples[i]
                    rows += measured_rows(
                        contents[i], len(sample.ids), sample.response_tokens, result
                    )
            store.add_part(rows)
            progress.advance(len(batch))
    usage = extractor.usage
    return describe_device(device) | {
        "seconds": round(usage.seconds, 1),
        "peak_gpu_bytes": usage.peak_bytes,
        "token_budget": usage.token_budget,
    }


def write_cells(
    plan: Plan,
    cells: list[Cell],
    tokens: Tokens,
    failed: dict[str, Any],
    store: Store,
    run: dict[str, Any],
    files: dict[Cell, str] | None = None,
) -> None:
    """Write the files of every cell; `files` names those that do not go where the plan says."""
    schema = {c: FAILURES.schema[c] for c in SAMPLE_COLUMNS}
    samples = pl.DataFrame(tokens.samples, schema={**schema, "content": pl.String})
    lost = [
        {column: row[column] for column in SAMPLE_COLUMNS} | failed[row["content"]]
        for row in tokens.samples
        if row["content"] in failed
    ]
    failures = pl.DataFrame(
        tokens.failures + lost, schema={**schema, "reason": pl.String, "detail": pl.String}
    )
    measured = samples.filter(~pl.col("content").is_in(list(failed)))
    known = store.known()  # once: it reads a column of every file of the pair
    for cell in cells:
        here = (pl.col("response") == cell.response) & (pl.col("control") == cell.control)
        named = pl.lit(cell.model).alias("model")
        provenance = {
            "key": plan.cell_key(cell),
            "cell": cell._asdict(),
            "engine": run["engine"],
            "samples": plan.cell_samples_key(cell),
            "made": {k: run[k] for k in ("layergrad", "device", "versions") if k in run},
        }
        store.write_cell(
            (files or {}).get(cell) or plan.cell_file(cell),
            measured.filter(here).with_columns(named),
            failures.filter(here).with_columns(named),
            provenance,
            known,
            plan.study.extraction.projections,
        )


def _check_space(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < 100 << 20:
        raise UserError(f"{folder}: only {free >> 20} MB are free on this disk; make room first")
