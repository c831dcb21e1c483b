"""Statistics that the paper's authors publish, as a study of their own.

They publish one file a model, dataset, response and control, ``TASK/MODEL/grads_DATA.jsonl``, with
one JSON object a sample: ``instruction``, ``loss`` and, for each projection of each layer
(``model.layers.0.self_attn.q_proj.weight``), ``S_sum``, ``S_max`` and ``frobenius_norm`` of its
gradient. :func:`import_published` turns a folder of such files into tables METRICS, an index of
each pair and a study, from which ``aggregate``, ``collect`` and the report work as from spectra.
What needs the whole spectrum or the number of tokens cannot be had from them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from layergrad.config import CORRECT, RESPONSE_ORDER, Study
from layergrad.errors import UserError
from layergrad.plan import Cell, Plan
from layergrad.provenance import digest, write_json, write_text
from layergrad.tables import FAILURES, METRICS, write_table

PUBLISHED_METRICS = [
    "nuclear_norm",
    "sigma1_ratio",
    "frobenius_norm",
    "spectral_norm",
    "stable_rank",
    "nuclear_rank",
    "loss_normalised_nuclear_norm",
]
_PLACE = re.compile(r"model\.layers\.(\d+)\.self_attn\.([qkvo])_proj\.weight")
_COT = {"no_cot": "none", "with_cot": "simplified", "with_cot_gpt4o": "detailed"}
# the catalog's names of what the authors call otherwise, so that studies can be compared
_SETS = {
    "algebra": "math_algebra",
    "counting_probability": "math_counting",
    "geometry": "math_geometry",
}
_MODELS = {
    "qwen2_1_5b": ("qwen2-1-5b", "qwen2-1-5b-instruct"),
    "gemma2_2b": ("gemma-2-2b", "gemma-2-2b-it"),
    "gemma_2_9b": ("gemma-2-9b", "gemma-2-9b-it"),
    "llama2_7b": ("llama-2-7b", "llama-2-7b-chat"),
    "llama3_8b": ("llama-3-1-8b", "llama-3-1-8b-instruct"),
}
WRONG = "irrelevant_paper"
_TASKS = re.compile(r"(cot_\d+|lighteval_math|wiki_popularity)(_wrong_answer_shuffle)?")
_COMMONSENSE = ("strategyqa", "ecqa", "creak", "sensemaking")


class Source(NamedTuple):
    """A published file and the cell that it is."""

    file: Path
    model: str
    dataset: str
    response: str
    control: str


@dataclass
class Instructions:
    """Gives each instruction of a dataset one row number, the same in all its files."""

    rows: dict[tuple[str, int], int] = field(default_factory=dict)

    def identify(self, instruction: str, occurrence: int) -> tuple[str, int]:
        """Return sample_id and row of the n-th sample with that instruction."""
        row = self.rows.setdefault((instruction, occurrence), len(self.rows))
        name = hashlib.sha256(instruction.encode()).hexdigest()[:16]
        return (name if occurrence == 1 else f"{name}-{occurrence}"), row


def import_published(folder: Path, output_dir: Path, model: str | None = None) -> Path:
    """Import published statistics; return the path of the study made of them.

    Parameters
    ----------
    folder
        Searched for ``*.jsonl`` in all its folders.
    output_dir
        Folder for the tables and for ``study.json``. Indexes go where the plan of that study says.
    model
        Name of the model, for files that lie in no folder named after it.

    Raises
    ------
    UserError
        For a file whose name does not tell what it is, and for a malformed row (file and line).
    """
    sources = find_sources(folder, model)
    instructions: dict[str, Instructions] = defaultdict(Instructions)
    counts = {}
    for source in sources:
        target = _target(output_dir, source)
        counts[source[1:]] = _import_file(source, target, instructions[source.dataset])
    study = _study(sources, output_dir, counts)
    _write_indexes(Plan(study), output_dir, counts)
    path = output_dir / "study.json"
    write_text(study.model_dump_json(indent=1) + "\n", path)
    return path


# --------------------------------------------------------------------------------------- files


def find_sources(folder: Path, model: str | None = None) -> list[Source]:
    """Return the published files below a folder and which cell each is, sorted."""
    files = sorted(folder.rglob("*.jsonl"))
    if not files:
        raise UserError(f"{folder}: no *.jsonl files in it or in its folders")
    sources = [_source(file, file.relative_to(folder), model) for file in files]
    twice = [cell for cell, count in Counter(source[1:] for source in sources).items() if count > 1]
    if twice:
        names = "\n".join(f"  {s.file}" for s in sources if s[1:] == twice[0])
        raise UserError(f"{folder}: more than one file for {'/'.join(twice[0])}:\n{names}")
    return sources


def _source(file: Path, path: Path, model: str | None) -> Source:
    stem = path.stem.removeprefix("grads_")
    if found := re.fullmatch(r"(.+?)(?:_train)?_(no_cot|with_cot|with_cot_gpt4o)", stem):
        dataset, response = _SETS.get(found[1], found[1]), _COT[found[2]]
    elif found := re.fullmatch(r"popular_wikipedia_(100|500|1000)", stem):
        dataset, response = f"wiki_popular_{found[1]}", f"len{found[1]}"
    elif stem == "long_tail_wikipedia":
        dataset, response = "wiki_unpopular", "len100"
    else:
        raise UserError(
            f"{file}: the name does not tell dataset and response; expected DATA_no_cot, "
            "DATA_with_cot, DATA_with_cot_gpt4o, popular_wikipedia_LENGTH or long_tail_wikipedia"
        )
    folders = [part for part in path.parts[:-1] if not _TASKS.fullmatch(part)]
    name = model or (folders[-1] if folders else None)
    if name is None:
        raise UserError(f"{file}: lies in no folder named after a model; pass --model NAME")
    wrong = any("wrong_answer" in part or "irrelevant" in part for part in path.parts)
    return Source(file, _model_name(name), dataset, response, WRONG if wrong else CORRECT)


def _model_name(folder: str) -> str:
    """Return the catalog's name of a model; another folder's name as it is, in lower case."""
    found = re.fullmatch(r"(.+?)(_it(?:_new)?)?", folder)
    if found[1] in _MODELS:
        return _MODELS[found[1]][found[2] is not None]
    return re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")


def _target(output_dir: Path, cell: Source | Cell) -> Path:
    name = f"{cell.model}.{cell.response}.{cell.control}.parquet"
    return output_dir / cell.dataset / name


# ---------------------------------------------------------------------------------------- rows


def _import_file(source: Source, target: Path, instructions: Instructions) -> tuple[int, int]:
    """Write the tables METRICS and FAILURES of one file; return their numbers of samples."""
    provenance = {"source": source.file.name, "sha256": digest(source.file, "sha256")}
    cell = {name: getattr(source, name) for name in ("model", "dataset", "response", "control")}
    columns: dict[str, list[Any]] = defaultdict(list)
    failures = []
    seen: Counter[str] = Counter()
    samples = 0
    places: set[tuple[int, str]] | None = None
    for where, record in _records(source.file):
        instruction = record["instruction"] + (record.get("input") or "")
        seen[instruction] += 1
        sample_id, row = instructions.identify(instruction, seen[instruction])
        spectra = {
            (int(found[1]), found[2]): value
            for name, value in record.items()
            if (found := _PLACE.fullmatch(name))
        }
        if not spectra:
            raise UserError(f"{where}: has no statistics of any projection")
        if places is not None and set(spectra) != places:
            raise UserError(f"{where}: has other layers or projections than the rows before it")
        places = set(spectra)
        fault = _fault(record["loss"], spectra.values(), where)
        if fault:
            sample = {"sample_id": sample_id, "row": row, "reason": "non_finite", "detail": fault}
            failures.append({**cell, **sample})
            continue
        samples += 1
        for (layer, projection), value in spectra.items():
            keys = (sample_id, row, record["loss"], layer, projection)
            for name, key in zip(_COLUMNS, keys, strict=True):
                columns[name].append(key)
            for name in ("S_sum", "S_max", "frobenius_norm"):
                columns[name].append(float(value[name]))
    metrics = _long(pl.DataFrame(columns), cell) if samples else pl.DataFrame(schema=METRICS.schema)
    write_table(metrics, METRICS, target, provenance)
    frame = pl.DataFrame(failures, schema=FAILURES.schema)
    write_table(frame, FAILURES, _failures(target), provenance)
    return samples, len(failures)


_COLUMNS = ("sample_id", "row", "loss", "layer", "projection")


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file}, line {number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{where}: not valid JSON: {error}") from None
            missing = [n for n in ("instruction", "loss") if n not in record]
            if missing:
                raise UserError(f"{where}: has no {' and no '.join(missing)}")
            yield where, record


def _fault(loss: Any, spectra: Any, where: str) -> str:
    """Return why a sample has no usable numbers, empty if it has; refuse what is malformed."""
    numbers = [("loss", loss)]
    for value in spectra:
        try:
            numbers += [(n, value[n]) for n in ("S_sum", "S_max", "frobenius_norm")]
        except (KeyError, TypeError):
            raise UserError(f"{where}: a projection lacks S_sum, S_max or frobenius_norm") from None
    for name, number in numbers:
        if not isinstance(number, int | float):
            raise UserError(f"{where}: {name} is {number!r}, not a number")
        if not math.isfinite(number):
            return f"{name} is {number}"
    return ""


def _long(frame: pl.DataFrame, cell: dict[str, str]) -> pl.DataFrame:
    total, largest, norm = pl.col("S_sum"), pl.col("S_max"), pl.col("frobenius_norm")
    values = {
        "nuclear_norm": total,
        "sigma1_ratio": largest / total,
        "frobenius_norm": norm,
        "spectral_norm": largest,
        "stable_rank": (norm / largest).pow(2),
        "nuclear_rank": (total / norm).pow(2),
        "loss_normalised_nuclear_norm": total / pl.col("loss"),
    }
    wide = frame.select(*_COLUMNS, **{name: values[name] for name in PUBLISHED_METRICS})
    long = wide.unpivot(PUBLISHED_METRICS, index=_COLUMNS, variable_name="metric")
    unknown = pl.lit(None, pl.Int32)
    names = {name: pl.lit(value) for name, value in cell.items()}
    return long.with_columns(
        pl.when(pl.col("value").is_finite()).then(pl.col("value")),
        tokens=unknown,
        response_tokens=unknown,
        **names,
    )


def _failures(target: Path) -> Path:
    return target.with_suffix(".failures.parquet")


# --------------------------------------------------------------------------------------- study


def _study(
    sources: list[Source], output_dir: Path, counts: dict[tuple[str, ...], tuple[int, int]]
) -> Study:
    return Study.model_validate(
        {
            "models": [_model(name) for name in sorted({s.model for s in sources})],
            "datasets": [
                _dataset(name, [s for s in sources if s.dataset == name], output_dir)
                for name in sorted({s.dataset for s in sources})
            ],
            "controls": [CORRECT],
            "samples": max(1, *(sum(count) for count in counts.values())),
            "statistics": {"metrics": PUBLISHED_METRICS[:3]},
            "report": {"title": "Published gradient statistics"},
        }
    )


def _model(name: str) -> dict[str, Any]:
    instruct = re.search(r"-(instruct|it|chat)$", name)
    return {
        "name": name,
        "source": {"kind": "published", "id": name},
        "family": name[: instruct.start()] if instruct else name,
        "tuning": "instruct" if instruct else "base",
        "protocol": "paper",
        "chat": bool(instruct),
        "note": "Statistics as published by the paper's authors; no model was run here.",
    }


def _dataset(name: str, sources: list[Source], output_dir: Path) -> dict[str, Any]:
    knowledge = name.startswith("wiki")
    group = "commonsense" if name in _COMMONSENSE else "math"
    present = {s.response for s in sources}
    responses = [response for response in RESPONSE_ORDER if response in present]
    wrong = sorted({s.control for s in sources} - {CORRECT})
    folder = (output_dir / name).as_posix()
    return {
        "name": name,
        "group": "knowledge" if knowledge else group,
        "task": "knowledge" if knowledge else "reasoning",
        "source": {
            "kind": "published",
            "folder": folder,
            "responses": responses,
            "controls": dict.fromkeys(wrong, responses),
        },
        "responses": responses,
        "controls": [CORRECT, *wrong],
    }


def _write_indexes(
    plan: Plan, output_dir: Path, counts: dict[tuple[str, ...], tuple[int, int]]
) -> None:
    """Write the index of every pair; a cell that was not published is empty."""
    for cell in plan.all_cells:
        target = _target(output_dir, cell)
        if tuple(cell) not in counts:
            write_table(pl.DataFrame(schema=METRICS.schema), METRICS, target, {})
            write_table(pl.DataFrame(schema=FAILURES.schema), FAILURES, _failures(target), {})
    plan = Plan(plan.study)  # keys follow the content of the folders, which is complete now
    for model, dataset in plan.pairs:
        entries = []
        for cell in plan.cells(model, dataset):
            target = _target(output_dir, cell)
            samples, failed = counts.get(tuple(cell), (0, 0))
            entries.append(
                {
                    "response": cell.response,
                    "control": cell.control,
                    "key": plan.cell_key(cell),
                    "table": "metrics",
                    "spectra": target.as_posix(),
                    "failures": _failures(target).as_posix(),
                    "sha256": digest(target, "sha256"),
                    "failures_sha256": digest(_failures(target), "sha256"),
                    "samples": samples,
                    "failed": failed,
                }
            )
        content = {"key": plan.spectra_key(model, dataset), "model": model, "dataset": dataset}
        provenance = {"source": "published statistics"}
        index = plan.spectra_file(model, dataset)
        write_json({**content, "cells": entries, "provenance": provenance}, index)
