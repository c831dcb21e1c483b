"""Time and memory of the statistics as the data grow, beside the same aggregation in pandas.

``python -m benchmarks.aggregation`` writes the spectra of one model on one dataset (six cells, 32
layers, four projections) with 50, 150 and 500 samples a cell, the last as large as a pair of the
paper's study, and aggregates each in a process of its own:

* ``polars``: metrics and mean curves, as :mod:`layergrad.statistics` computes them;
* ``pandas``: the same from the same files with ``read_parquet``, ``apply`` and ``groupby``;
* ``aggregate``: the whole step, with intervals, MAD, RD and the effects that claims are about.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METRICS = ["nuclear_norm", "sigma1_ratio", "effective_rank", "frobenius_norm"]
SAMPLES = (50, 150, 500)
LAYERS, RANK = 32, 128
CELL = ["response", "control", "layer", "projection"]


def run_polars(files: list[str], root: Path) -> dict[str, float]:
    """Metrics and mean curves, one cell at a time."""
    from layergrad.statistics.curves import mean_curve, values
    from layergrad.statistics.metrics import measure
    from layergrad.tables import SPECTRA, scan_table

    total = 0.0
    for file in files:
        frame = measure(scan_table([root / file], SPECTRA), METRICS)
        total += float(mean_curve(values(frame, METRICS, file).array)[..., 0].sum())
    return {"checksum": total}


def run_pandas(files: list[str], root: Path) -> dict[str, float]:
    """The same with pandas, one cell at a time."""
    import numpy as np
    import pandas as pd

    def metrics(spectrum: np.ndarray) -> tuple[float, ...]:
        s = spectrum.astype(float)
        total = s.sum()
        p = s[s > 0] / total
        rank = np.exp(-(p * np.log(p)).sum())
        return total, s.max() / total, rank, np.sqrt((s**2).sum())

    total = 0.0
    for file in files:
        frame = pd.read_parquet(root / file)
        frame[METRICS] = frame["singular_values"].apply(metrics).tolist()
        total += float(frame.groupby(CELL)[METRICS].mean()["nuclear_norm"].sum())
    return {"checksum": total}


def run_aggregate(files: list[str], root: Path) -> dict[str, float]:
    """The whole step ``layergrad aggregate``."""
    from layergrad.config import load_study
    from layergrad.plan import Plan
    from layergrad.statistics.pair import aggregate

    os.chdir(root)
    plan = Plan(load_study("study.json"))
    for pair in plan.pairs:
        folder = Path(plan.statistics_folder(*pair))
        aggregate(plan, *pair, Path(plan.spectra_file(*pair)), folder)
    return {}


RUNS = {"polars": run_polars, "pandas": run_pandas, "aggregate": run_aggregate}


def write_spectra(root: Path, samples: int) -> list[str]:
    """Write the spectra of one pair and return the names of the cells' files."""
    from tests.synthetic import tiny_study, write_study_spectra

    from layergrad.plan import Plan

    study = tiny_study(models=("m",), datasets=("gsm_symbolic",), samples=samples)
    write_study_spectra(root, study, layers=LAYERS, rank=RANK, tokens={"none": 60})
    (root / "study.json").write_text(study.model_dump_json(), encoding="utf-8")
    return [Plan(study).cell_file(cell) for cell in Plan(study).all_cells]


def measure_run(name: str, root: Path, files: list[str]) -> dict[str, float]:
    """Run one aggregation in a process of its own; return its seconds and peak memory."""
    command = [sys.executable, "-m", "benchmarks.aggregation", "--one", name, "--root", str(root)]
    done = subprocess.run([*command, *files], capture_output=True, encoding="utf-8", check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> int:
    """Return the largest resident size of this process in bytes.

    From /proc: what ``getrusage`` reports begins with the size of the process that started this.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def main() -> None:
    """Print one row a size and way of aggregating."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", choices=RUNS)
    parser.add_argument("--root", type=Path)
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    if options.one:
        start = time.perf_counter()
        result = RUNS[options.one](options.files, options.root)
        result["seconds"] = time.perf_counter() - start
        result["gigabytes"] = peak_memory() / 1e9
        print(json.dumps(result))
        return
    print(f"{'samples':>8} {'spectra':>9} {'files MB':>9} {'':>10} {'seconds':>8} {'peak GB':>8}")
    for samples in SAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            files = write_spectra(root, samples)
            size = sum((root / file).stat().st_size for file in files) / 1e6
            spectra = samples * LAYERS * 4 * len(files)
            found = {name: measure_run(name, root, files) for name in RUNS}
            ours, theirs = (found[name]["checksum"] for name in ("polars", "pandas"))
            if abs(ours / theirs - 1) > 1e-9:
                raise SystemExit(f"polars and pandas disagree: {ours} and {theirs}")
            for name, result in found.items():
                seconds, memory = result["seconds"], result["gigabytes"]
                row = f"{samples:8} {spectra:9} {size:9.0f} {name:>10}"
                print(f"{row} {seconds:8.1f} {memory:8.2f}")


if __name__ == "__main__":
    main()
