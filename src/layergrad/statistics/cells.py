"""The cells of one pair: found through its index, checked, and measured one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from layergrad.config import SUM_LOSS, metric_label
from layergrad.errors import UserError
from layergrad.plan import Plan
from layergrad.provenance import digest, read_json
from layergrad.statistics.curves import Values, values
from layergrad.statistics.estimates import Sampled
from layergrad.statistics.metrics import KEYS, measure
from layergrad.statistics.ranks import by_rank
from layergrad.tables import FAILURES, METRICS, SPECTRA, read_table, scan_table


@dataclass(frozen=True)
class MeasuredCell:
    """One cell in memory.

    Attributes
    ----------
    response, control
        Which cell of the pair.
    values
        The metrics; None in an empty cell.
    ranks
        The spectra by rank; None in an empty cell, or where only metrics were published.
    claim
        The metric of the claims, and the same with the sum loss.
    samples, failures
        ``sample_id, row, tokens, response_tokens, loss`` of each sample; table FAILURES.
    """

    response: str
    control: str
    values: Values | None
    ranks: Values | None
    claim: Sampled
    samples: pl.DataFrame
    failures: pl.DataFrame


def read_index(plan: Plan, model: str, dataset: str, index: Path) -> list[dict[str, Any]]:
    """Return the cells of an index, sorted, checked to be those of the study.

    The file ``spectra`` of a cell is a table SPECTRA, or METRICS where only those were published
    (``"table": "metrics"``).
    """
    content = read_json(index)
    if content is None:
        raise UserError(f"{index}: missing or broken; run `layergrad spectra` for this pair")
    expected = plan.spectra_key(model, dataset)
    if content.get("key") != expected:
        raise UserError(
            f"{index}: holds spectra of key {content.get('key')}, the study asks for {expected}; "
            "run the workflow again"
        )
    cells = sorted(content["cells"], key=lambda c: (c["response"], c["control"]))
    for cell in cells:
        for what, sha256 in (("spectra", "sha256"), ("failures", "failures_sha256")):
            path = cell[what]
            if not Path(path).exists():
                raise UserError(
                    f"{path}: listed in {index} but missing; run `dvc pull`, or delete the "
                    "index and run the workflow again"
                )
            if digest(path, "sha256") != cell[sha256]:
                raise UserError(
                    f"{path}: was changed after it was listed in {index}; delete both and "
                    "run the workflow again"
                )
    return cells


def measure_cells(
    plan: Plan, cells: list[dict[str, Any]]
) -> Iterator[tuple[MeasuredCell, pl.DataFrame]]:
    """Yield each cell in memory and its metrics as a long table, without the names of the cell."""
    settings = plan.study.statistics
    metrics = [metric_label(name) for name in settings.metrics]
    claim = [metric_label(settings.claim_metric), SUM_LOSS + metric_label(settings.claim_metric)]
    for cell in cells:
        frame = _measure(plan, cell)
        samples = frame.select("sample_id", "row", "tokens", "response_tokens", "loss")
        samples = samples.unique("row").sort("row")
        failures = read_table(cell["failures"], FAILURES)
        if samples.height != cell["samples"] or failures.height != cell["failed"]:
            raise UserError(
                f"{cell['spectra']}: holds {samples.height} samples, {failures.height} failures, "
                f"its index says {cell['samples']} and {cell['failed']}; delete it and run again"
            )
        where, full = cell["spectra"], frame.height > 0
        measured = MeasuredCell(
            cell["response"],
            cell["control"],
            values(frame, metrics, where) if full else None,
            _ranks(cell),
            Sampled(
                values(frame, claim, where) if full else None,
                _floats(samples["response_tokens"]),
                _floats(samples["loss"]),
            ),
            samples,
            failures,
        )
        long = frame.unpivot(metrics, index=KEYS, variable_name="metric", value_name="value")
        yield measured, long


def _measure(plan: Plan, cell: dict[str, Any]) -> pl.DataFrame:
    settings = plan.study.statistics
    names = [*settings.metrics, settings.claim_metric, _sum_loss(settings.claim_metric)]
    names = list({metric_label(name): name for name in names}.values())
    if cell.get("table") == "metrics":
        return _published(cell["spectra"], [metric_label(name) for name in names])
    spectra = scan_table([cell["spectra"]], SPECTRA)
    return measure(spectra, names, plan.study.extraction.reduction)


def _ranks(cell: dict[str, Any]) -> Values | None:
    if cell.get("table") == "metrics":
        return None
    return by_rank(scan_table([cell["spectra"]], SPECTRA), cell["spectra"])


def _published(path: str, metrics: list[str]) -> pl.DataFrame:
    """Return published metrics as :func:`~layergrad.statistics.metrics.measure` would."""
    table = read_table(path, METRICS)
    known = table["metric"].unique().sort().to_list()
    missing = [m for m in metrics if m not in known and not m.startswith(SUM_LOSS)]
    if missing and known:
        raise UserError(
            f"{path}: published statistics have no {', '.join(missing)}; they have "
            f"{', '.join(known)}: name only these in the study's `statistics`"
        )
    wide = table.pivot("metric", index=KEYS, values="value")
    absent = [pl.lit(None, pl.Float64).alias(m) for m in metrics if m not in wide.columns]
    return wide.with_columns(absent).select(*KEYS, *metrics).sort("row", "layer", "projection")


def _sum_loss(name: str) -> str:
    return name if name.startswith(SUM_LOSS) else SUM_LOSS + name


def _floats(column: pl.Series) -> np.ndarray:
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()
