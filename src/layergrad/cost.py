"""What a study costs: cells done, missing and failed, and the GPU hours of those missing.

The estimate is for one H200. Its constants were measured there on the shape of Llama-3.1-8B (32
layers, random weights, samples of 300 tokens, batched): forward and backward pass in 0.188 s a
sample in float32, 0.041 s with TF32 and 0.021 s in bfloat16, which at 4 operations per parameter
and token (no gradient of a weight is formed) is the rate below; and what the spectra of all 128
matrices add at four lengths (benchmarks/README.md). Another GPU or short samples change it: it
says whether a study takes hours or weeks, no more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from layergrad.config import DatasetSpec, ModelSpec
from layergrad.errors import UserError
from layergrad.plan import Cell, Plan

OPERATIONS = 4  # per parameter and token, forward and backward to the activations
RATE = {"float32": 51e12, "tf32": 237e12, "bfloat16": 464e12, "float64": 51e12 / 2}
SPECTRA_TOKENS = (0, 100, 300, 600, 1000)
SPECTRA_SECONDS = (0.0, 0.0012, 0.0095, 0.055, 0.22)  # of 128 matrices
CHARACTERS_PER_TOKEN = 4
# Where the data are not there yet: median words of the paper's responses, and of its instructions.
WORDS = {
    "none": 2,
    "simplified": 35,
    "detailed": 300,
    "len100": 68,
    "len500": 320,
    "len1000": 634,
}
INSTRUCTION_WORDS = 45
TOKENS_PER_WORD = 1.4


@dataclass(frozen=True)
class Cells:
    """The cells of one model: how many there are, and GPU hours of the missing ones.

    The hours, not the counts, include responses cut to equal numbers of tokens.
    """

    model: ModelSpec
    all: int
    done: int
    failed: int
    failed_samples: int
    hours: float | None

    @property
    def missing(self) -> int:
        """Cells without a result."""
        return self.all - self.done - self.failed


class Cost:
    """The cost of a study.

    Parameters
    ----------
    plan
        Plan of the study; its data need not be there.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.absent: dict[str, str] = {}  # dataset -> why its cells cannot be known
        self.absent_models: dict[str, str] = {}  # model -> the same
        self._tokens: dict[str, tuple[int, dict[str, float]]] = {}

    @cached_property
    def models(self) -> list[Cells]:
        """The cells of every model."""
        return [self._of(model) for model in self.plan.study.models]

    def _of(self, model: ModelSpec) -> Cells:
        cells = [c for d in self.plan.study.datasets for c in self.plan.cells(model.name, d.name)]
        states = Counter()
        failed_samples, seconds = 0, 0.0
        for cell in cells:
            state, failed = self.state(cell)
            states[state] += 1
            failed_samples += failed
            if state == "missing":
                seconds += self._seconds(model, cell.dataset, cell.response) or 0.0
        seconds += self._equal_seconds(model)
        known = model.billions is not None and model.layers is not None
        return Cells(
            model,
            len(cells),
            states["done"],
            states["failed"],
            failed_samples,
            seconds / 3600 if known else None,
        )

    def state(self, cell: Cell) -> tuple[str, int]:
        """Return whether a cell is ``done``, ``failed`` or ``missing``, and its failed samples.

        A cell has failed if none of its samples could be measured.
        """
        if self._is_absent(cell):
            return "missing", 0
        file = Path(self.plan.cell_file(cell))
        if not file.exists():
            return "missing", 0
        failed = _rows(file.with_suffix(".failures.parquet"))
        return ("failed" if _rows(file) == 0 and failed else "done"), failed

    def _is_absent(self, cell: Cell) -> bool:
        """Tell whether the samples or the model of a cell cannot be read, and keep why."""
        if cell.model not in self.absent_models:  # the hub is asked once
            try:
                self.plan.model_key(cell.model)
            except UserError as error:
                self.absent_models[cell.model] = str(error)
        try:
            self.plan.cell_samples_key(cell)
        except UserError as error:
            self.absent.setdefault(cell.dataset, str(error))
            return True
        return cell.model in self.absent_models

    def _equal_seconds(self, model: ModelSpec) -> float:
        """Return the cost of the slow responses cut to equal length; fast ones are seldom cut."""
        seconds = 0.0
        for dataset in self.plan.study.datasets:
            for cell in self.plan.equal_cells(model.name, dataset.name)[-1:]:
                if self.state(cell)[0] == "missing":
                    seconds += self._seconds(model, dataset.name, dataset.responses[0]) or 0.0
        return seconds

    def _seconds(self, model: ModelSpec, dataset: str, response: str) -> float | None:
        if model.billions is None or model.layers is None:
            return None
        samples, tokens = self.size(self.plan.study.dataset(dataset), response)
        settings = self.plan.study.extraction
        tokens = min(tokens, settings.max_length)
        precision = "tf32" if settings.tf32 and model.dtype == "float32" else model.dtype
        passes = OPERATIONS * model.billions * 1e9 * tokens / RATE[precision]
        matrices = model.layers * len(settings.projections)
        spectra = float(np.interp(tokens, SPECTRA_TOKENS, SPECTRA_SECONDS)) * matrices / 128
        return samples * (passes + spectra)

    def size(self, dataset: DatasetSpec, response: str) -> tuple[int, float]:
        """Return samples of a cell, and tokens of a sample: from the data if they are there."""
        if dataset.name not in self._tokens:
            self._tokens[dataset.name] = self._read(dataset)
        samples, tokens = self._tokens[dataset.name]
        return samples, tokens[response]

    def _read(self, dataset: DatasetSpec) -> tuple[int, dict[str, float]]:
        from layergrad.datasets.sources import load_pool

        wanted = self.plan.study.samples
        typical = {
            r: TOKENS_PER_WORD * (INSTRUCTION_WORDS + WORDS.get(r, WORDS["detailed"]))
            for r in dataset.responses
        }
        # a hub is not asked for the sake of an estimate
        if dataset.name in self.absent or dataset.source.kind == "hub":
            return wanted, typical
        try:
            pool = load_pool(dataset)
        except UserError as error:
            self.absent.setdefault(dataset.name, str(error))
            return wanted, typical
        lengths = {
            r: sum(len(s.instruction) + len(s.responses[r]) for s in pool.samples)
            / len(pool.samples)
            / CHARACTERS_PER_TOKEN
            for r in dataset.responses
        }
        return min(wanted, len(pool.samples)), lengths


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows
    except (OSError, ValueError):
        return 0


def describe_cost(cost: Cost) -> str:
    """Return the cells of every model and what the missing ones cost, as a table."""
    width = max(len("all models"), *(len(cells.model.name) for cells in cost.models))
    head = (
        f"{'cells':{width}}  {'all':>6} {'done':>6} {'missing':>8} {'failed':>7} {'GPU hours':>10}"
    )
    lines = [head]
    for cells in cost.models:
        hours = "?" if cells.hours is None else f"{cells.hours:.1f}"
        lines.append(
            f"{cells.model.name:{width}}  {cells.all:6} {cells.done:6} {cells.missing:8} "
            f"{cells.failed:7} {hours:>10}"
        )
    totals = [sum(getattr(c, k) for c in cost.models) for k in ("all", "done", "missing", "failed")]
    hours = sum(cells.hours or 0 for cells in cost.models)
    lines.append(
        f"{'all models':{width}}  {totals[0]:6} {totals[1]:6} {totals[2]:8} {totals[3]:7} "
        f"{hours:10.1f}"
    )
    lines += ["", *_notes(cost)]
    return "\n".join(lines)


def _notes(cost: Cost) -> list[str]:
    notes = ["GPU hours: the missing cells on one H200, estimated (src/layergrad/cost.py)."]
    unknown = [cells.model.name for cells in cost.models if cells.hours is None]
    if unknown:
        notes.append(f"No estimate without `billions` and `layers`: {', '.join(unknown)}.")
    failed = sum(cells.failed_samples for cells in cost.models)
    if failed:
        notes.append(f"Samples that could not be measured, in done and failed cells: {failed}.")
    for what, kind, absent in (
        ("Data", "dataset", cost.absent),
        ("Weights", "model", cost.absent_models),
    ):
        if absent:
            count = f"{len(absent)} {kind}{'s' * (len(absent) > 1)}"
            notes.append(f"{what} that cannot be read yet, of {count}:")
            notes.append(f"  {next(iter(absent.values()))}")
    return notes
