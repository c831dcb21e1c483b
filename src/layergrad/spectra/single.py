"""Spectra of one file of samples with one model, without a study."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from layergrad.config import (
    Columns,
    DatasetSpec,
    ExtractionSettings,
    FilesSource,
    HubModel,
    LocalModel,
    ModelSpec,
    RuntimeSettings,
    Study,
)
from layergrad.datasets.files import load_files
from layergrad.errors import UserError
from layergrad.models.fetch import fetch_model
from layergrad.plan import Cell, Plan
from layergrad.progress import say
from layergrad.provenance import read_provenance
from layergrad.revisions import commit_of
from layergrad.spectra.examples import example
from layergrad.spectra.pair import (
    check_model,
    failures_of,
    make_encoder,
    measure_missing,
    write_cells,
)
from layergrad.spectra.store import Store, failures_file
from layergrad.spectra.tokens import tokenise

RESPONSE, CONTROL = "given", "correct"


def single_study(
    model: str,
    samples: str | Path,
    model_settings: dict[str, Any],
    extraction: ExtractionSettings,
    runtime: RuntimeSettings,
    bad_rows: str = "refuse",
) -> Study:
    """Return the study of one model and one file.

    Parameters
    ----------
    model
        A folder, or a hub id ``owner/name`` with an optional ``@revision``.
    samples
        JSON, JSONL or Parquet with columns instruction, input (optional), output.
    model_settings
        ``protocol``, ``chat``, ``dtype``, ``attention``, ... of the model.
    extraction, runtime
        Settings of the engine and of the machine.
    bad_rows
        ``refuse`` or ``skip`` rows that cannot be used.
    """
    source = _model_source(model)
    name = _slug(source.folder.resolve().name if isinstance(source, LocalModel) else source.id)
    spec = ModelSpec(name=name, source=source, family=name, tuning="base", **model_settings)
    files = FilesSource(responses={RESPONSE: str(samples)}, columns=Columns(), bad_rows=bad_rows)
    dataset = DatasetSpec(name=_slug(Path(samples).stem), source=files, responses=[RESPONSE])
    return Study(
        models=[spec],
        datasets=[dataset],
        controls=[CONTROL],
        extraction=extraction,
        runtime=runtime,
    )


def extract_file(
    study: Study, output: str | Path, limit: int | None = None, preflight: bool = True
) -> dict[str, Any]:
    """Measure the samples of a single study in the order of the file.

    Interrupted, it goes on where it stopped: finished batches wait in a folder beside `output`.

    Parameters
    ----------
    study
        What :func:`single_study` returned.
    output
        Spectra to write; failures go beside it.
    limit
        Only so many rows, the first.
    preflight
        Check the model before anything is measured.

    Returns
    -------
    dict
        Counts ``samples``, and ``failed`` by reason; whether the tokenizer ``has_template``; the
        ``checks`` of the model, None if it was not loaded or they were not asked for; and
        ``prompt``, the first sample that could be written, for a terminal.

    Raises
    ------
    UserError
        If a check of the model failed.
    """
    plan = Plan(study)
    model, dataset = plan.pairs[0]
    output = Path(output)
    refuse_to_replace(output)
    rows = _rows(study, limit)
    store = Store(output.with_name(f".{output.stem}.parts"))
    with tempfile.TemporaryDirectory() as scratch:
        receipt = Path(scratch, "model.json")
        fetched = fetch_model(study.model(model), plan.model_key(model), receipt)
        encoder = make_encoder(plan, model, fetched["path"])
        tokens = tokenise(rows, encoder, plan.engine(model))
        checks: list[dict[str, Any]] = []

        def inspect(loaded: Any, _device: Any) -> None:
            checks.extend(check_model(plan, model, loaded, encoder))
            if wrong := failures_of(checks):
                raise UserError(f"{model}: the model failed its preflight, {wrong}")

        run, failed = measure_missing(
            plan, model, fetched, tokens, store, inspect if preflight else None
        )
    cell = Cell(model, dataset, RESPONSE, CONTROL)
    write_cells(plan, [cell], tokens, failed, store, run, {cell: str(output)})
    store.remove()
    lost = [failed[row["content"]] for row in tokens.samples if row["content"] in failed]
    faults = [*tokens.failures, *lost]
    first = next(iter(tokens.encoded.values()), None)
    return {
        "samples": rows.height,
        "failed": dict(Counter(fault["reason"] for fault in faults).most_common()),
        "has_template": bool(encoder.tokenizer.chat_template),
        "checks": checks or None,
        "prompt": example(encoder, first)["printed"] if first else None,
    }


def refuse_to_replace(output: Path) -> None:
    """Refuse to write over a file that is no table of spectra, such as the samples themselves."""
    for path in (output, failures_file(output)):
        if path.exists() and not (path.is_file() and read_provenance(path)):
            raise UserError(
                f"{path}: is there already and was not written by layergrad; choose another "
                "--output, or delete it"
            )


def _rows(study: Study, limit: int | None) -> pl.DataFrame:
    spec = study.datasets[0]
    pool = load_files(spec.name, spec.source)
    return pl.DataFrame(
        [
            {
                "dataset": spec.name,
                "response": RESPONSE,
                "control": CONTROL,
                "sample_id": sample.sample_id,
                "row": sample.row,
                "instruction": sample.instruction,
                "response_text": sample.responses[RESPONSE],
            }
            for sample in pool.samples[:limit]
        ]
    )


def _model_source(model: str) -> LocalModel | HubModel:
    local = LocalModel(path=model)
    if local.folder.is_dir():
        return local
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", model)
    if found is None or model.startswith((".", "/", "~", "$")):
        raise UserError(
            f"{model}: neither a folder nor a hub id (owner/name or owner/name@revision)"
        )
    revision = found[2] or "main"
    commit = commit_of("models", found[1], revision, record=False)
    if commit != revision:
        say(f"{found[1]}: {revision} is commit {commit}, which is measured")
    return HubModel(id=found[1], revision=commit)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:64] or "given"
