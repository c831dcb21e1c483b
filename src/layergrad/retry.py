"""Forget samples that failed, and all that was made without them, so that they are tried again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from layergrad.plan import TABLE_FILES, Plan
from layergrad.provenance import read_json, write_json
from layergrad.results import MANIFEST, recorded_pairs
from layergrad.spectra.store import Store
from layergrad.tables import FAILURES, read_table


def retry(plan: Plan, reasons: list[str] | None = None) -> list[str]:
    """Forget the cells in which samples failed, and every result that they went into.

    What decides a result is the configuration, and a failure may be due to something else, such as
    too small a GPU: then nothing else says that it is to be made again. Spectra of the other
    samples of such a cell stay, for the next run to use.

    Parameters
    ----------
    plan
        The study.
    reasons
        Only failures for these reasons; None: for any.

    Returns
    -------
    list of str
        The cells, each with its failures by reason.
    """
    told = []
    for pair in plan.pairs:
        index = plan.spectra_file(*pair)
        record = read_json(index)
        failed = _failed_cells(record, reasons) if record else []
        if failed:
            told += [f"{'/'.join(pair)} {name}: {why}" for name, _, why in failed]
            _forget_pair(plan, pair, index, [cell for _, cell, _ in failed])
            if any("preflight" in why for _, _, why in failed):
                Path(plan.preflight_file(pair[0])).unlink(missing_ok=True)
    return told


def _failed_cells(
    record: dict[str, Any], reasons: list[str] | None
) -> list[tuple[str, dict[str, Any], str]]:
    """Return name, entry and failures of each cell of an index that has some to be tried again."""
    found = []
    for cell in record["cells"]:
        failures = read_table(cell["failures"], FAILURES)
        counts = dict(failures["reason"].value_counts().sort("reason").iter_rows())
        if counts and (reasons is None or not counts.keys().isdisjoint(reasons)):
            told = ", ".join(f"{count} {reason}" for reason, count in counts.items())
            found.append((f"{cell['response']}.{cell['control']}", cell, told))
    return found


def _forget_pair(
    plan: Plan, pair: tuple[str, str], index: str, cells: list[dict[str, Any]]
) -> None:
    parts = Store(Path(index).with_suffix("").parent / pair[1]).parts
    parts.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        spectra = Path(cell["spectra"])
        os.replace(spectra, parts / spectra.name)  # a part: its rows are there for the next run
        Path(cell["failures"]).unlink()
    Path(index).unlink()
    shutil.rmtree(plan.statistics_folder(*pair), ignore_errors=True)
    listed = {name: cells for name, cells in recorded_pairs().items() if name != index}
    write_json({"key": None, "pairs": listed}, MANIFEST)
    results = [*TABLE_FILES, "reports/index.html", "reports/metrics.json"]
    for figure in plan.figures_of(*pair):
        results += plan.figure_files(figure)
    for paper in plan.papers_of(*pair):
        results += plan.paper_files(paper)
    for file in results:
        Path(file).unlink(missing_ok=True)
