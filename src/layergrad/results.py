"""The results of a study as a whole: what is there, what is right, and what versions compare.

``data/manifest.json`` lists the files of spectra that a study uses. It is small and goes into git,
so it tells a clone that holds only a part of the store what the rest is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from layergrad.config import CUT, metric_label
from layergrad.errors import UserError
from layergrad.plan import TABLE_FILES, Plan
from layergrad.provenance import (
    digest,
    is_intact,
    read_json,
    read_provenance,
    recorded_key,
    write_json,
)

MANIFEST = "data/manifest.json"
AUDIT_FILE = "data/statistics/audit.parquet"


# ------------------------------------------------------------------------------------- completeness


def is_made(path: str) -> bool:
    """Tell whether a file that has its key in its name is there."""
    return Path(path).exists()


def is_model_made(receipt: str) -> bool:
    """Tell whether a model's receipt is there, and every file that it names."""
    record = read_json(receipt) or {}
    return "path" in record and all(Path(record["path"], name).exists() for name in record["files"])


def is_spectra_made(index: str) -> bool:
    """Tell whether the index of a pair is there, and every file that it names."""
    cells = (read_json(index) or {}).get("cells", [])
    return bool(cells) and all(Path(file).exists() for cell in cells for file, _ in _files(cell))


def is_current(paths: Iterable[str], key: str) -> bool:
    """Tell whether files with fixed names are there, record this key, and are as they were made.

    Not every kind of file can record a key; what was edited or damaged since is told by checksums.
    """
    recording = [path for path in paths if Path(path).suffix in {".parquet", ".json", ".html"}]
    return (
        all(map(is_made, paths))
        and all(recorded_key(path) == key for path in recording)
        and all(map(is_intact, recording))
    )


def to_be_remade(plan: Plan) -> list[str]:
    """Return the tables and figures with fixed names that are missing, outdated or damaged.

    Where the page is current nothing else asks for them.
    """
    files = [] if is_current(TABLE_FILES, plan.tables_key) else [*TABLE_FILES]
    for name in plan.figures:
        if not is_current(plan.figure_files(name), plan.figure_key(name)):
            files += plan.figure_files(name)
    return files


def inputs_of(cells: list[dict[str, Any]]) -> dict[str, str]:
    """Return what statistics are made of: the checksum of the spectra of each cell of an index."""
    return {f"{cell['response']}.{cell['control']}": cell["sha256"] for cell in cells}


def _files(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the files of a cell's entry, each with its sha256."""
    yield cell["spectra"], cell["sha256"]
    yield cell["failures"], cell["failures_sha256"]


def remove_other_figures(plan: Plan) -> None:
    """Delete the figures, with their files, of another study that was run in this folder.

    They cost seconds, and DVC would record them as results of this one. What did not come from
    here is left alone.
    """
    for spec in Path("reports/figures").glob("*.json"):
        drawn = (read_json(spec) or {}).get("usermeta", {}).get("figure") == spec.stem
        if drawn and spec.stem not in plan.figures:
            for file in plan.figure_files(spec.stem):
                Path(file).unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------- manifest


def unrecorded_spectra(plan: Plan) -> list[str]:
    """Return the indexes of a study that the manifest does not list: those it must be made from."""
    listed = recorded_pairs()
    return [
        index
        for index in map(plan.spectra_file, *zip(*plan.pairs, strict=True))
        if index not in listed
    ]


def is_manifest_current(plan: Plan) -> bool:
    """Tell whether the manifest lists the study's spectra, those that are here as they are."""
    listed = recorded_pairs()
    indexes = [plan.spectra_file(*pair) for pair in plan.pairs]
    here = {index: record for index in indexes if (record := read_json(index)) is not None}
    return recorded_key(MANIFEST) == plan.manifest_key and all(
        listed.get(index) == record["cells"] for index, record in here.items()
    )


def recorded_pairs(path: str | Path = MANIFEST) -> dict[str, Any]:
    """Return the pairs of a manifest, index file -> its cells; none if there is no manifest."""
    return (read_json(path) or {}).get("pairs", {})


def write_manifest(plan: Plan, path: str | Path) -> None:
    """List the spectra of a study; a pair that is listed already need not be here."""
    listed = recorded_pairs(path)
    pairs = {}
    for pair in plan.pairs:
        index = plan.spectra_file(*pair)
        record = read_json(index)
        if record is None and index not in listed:
            raise UserError(f"{index}: no such index of spectra; run `snakemake spectra`")
        pairs[index] = listed[index] if record is None else record["cells"]
    write_json({"key": plan.manifest_key, "pairs": pairs}, path)


# -------------------------------------------------------------------------------------------- audit


def audited_parts(plan: Plan, path: str | Path = AUDIT_FILE) -> dict[str, str]:
    """Return the parts of a study's audit that a file holds, with their keys."""
    recorded = (read_provenance(path) or {}).get("parts", {})
    return {part: key for part, key in plan.audit_parts.items() if recorded.get(part) == key}


def unaudited(plan: Plan) -> dict[str, list[str]]:
    """Return the datasets (`samples`) and models (`receipts`) that the audit lacks a part of."""
    there = audited_parts(plan)
    missing = [part.split("/") for part in plan.audit_parts if part not in there]
    samples = dict.fromkeys(plan.dataset_file(dataset) for dataset, _ in missing)
    receipts = dict.fromkeys(plan.model_file(model) for _, model in missing if model)
    return {"samples": list(samples), "receipts": list(receipts)}


# ----------------------------------------------------------------------------------------- measures


def write_measures(plan: Plan, path: str | Path) -> None:
    """Write the mean over layers and the MAD of the report's metric, by cell and projection.

    For comparing versions of a study (``dvc metrics diff``), rounded to four significant digits so
    that only real changes show.
    """
    import polars as pl

    metric = metric_label(plan.study.report.metric)
    chosen = (pl.col("metric") == metric) & ~pl.col("response").str.ends_with(CUT)
    cell = ["model", "dataset", "response", "control", "projection"]
    means = (
        pl.read_parquet("data/statistics/curves.parquet")
        .filter(chosen)
        .group_by(cell)
        .agg(pl.col("mean").mean().alias("value"))
        .with_columns(pl.lit("mean").alias("measure"))
    )
    mads = (
        pl.read_parquet("data/statistics/mad.parquet")
        .filter(chosen & (pl.col("band") == "all"))
        .with_columns(pl.lit("mad").alias("measure"))
    )
    measures: dict[str, Any] = {}
    for *place, value in pl.concat(
        [t.select(*cell, "measure", "value") for t in (means, mads)]
    ).rows():
        branch = measures
        for name in place[:-1]:
            branch = branch.setdefault(name, {})
        branch[place[-1]] = None if value is None else float(f"{value:.4g}")
    write_json({"key": plan.measures_key, metric: measures}, path)


# -------------------------------------------------------------------------------------- description


def describe(plan: Plan) -> str:
    """Return what a study consists of, what is there, and how many jobs remain."""
    pairs = plan.pairs
    spectra = [plan.spectra_file(*pair) for pair in pairs]
    models = [plan.model_file(model.name) for model in plan.study.models]
    datasets = [plan.dataset_file(dataset.name) for dataset in plan.study.datasets]
    cells = [plan.cell_file(cell) for cell in plan.all_cells]
    equal = [plan.cell_file(cell) for pair in pairs for cell in plan.equal_cells(*pair)]
    lines = [
        ("models", len(models), sum(map(is_model_made, models))),
        ("datasets", len(datasets), sum(map(is_made, datasets))),
        ("cells", len(cells), sum(map(is_made, cells))),
        ("cells at equal length", len(equal), sum(map(is_made, equal))),
        ("jobs of spectra", len(spectra), sum(map(is_spectra_made, spectra))),
        ("jobs of statistics", len(pairs), sum(_has_statistics(plan, *pair) for pair in pairs)),
        ("figures", len(plan.figures), sum(_is_drawn(plan, name) for name in plan.figures)),
    ]
    width = max(len(what) for what, _, _ in lines)
    rows = [f"{'':{width}}  {'all':>6} {'there':>6} {'to do':>6}"]
    rows += [f"{what:{width}}  {n:6} {done:6} {n - done:6}" for what, n, done in lines]
    rows += [
        "",
        f"samples of a cell: at most {plan.study.samples}",
        f"jobs on a cluster, if nothing is there yet: {cluster_jobs(plan)}",
    ]
    return "\n".join(rows)


def cluster_jobs(plan: Plan, pairs_a_job: int = 20) -> int:
    """Return the cluster jobs of a whole study.

    One a model for its checks, one a pair for its spectra (and one for cosines, if the study asks
    for them), and statistics in groups of pairs. All else runs where Snakemake runs; `pairs_a_job`
    is that of profiles/slurm.
    """
    pairs = len(plan.pairs)
    measured = pairs * (2 if plan.study.similarity else 1)
    return len(plan.study.models) + measured + -(-pairs // pairs_a_job)


def _has_statistics(plan: Plan, model: str, dataset: str) -> bool:
    return all(map(is_made, plan.pair_files(model, dataset)))


def _is_drawn(plan: Plan, figure: str) -> bool:
    return is_current(plan.figure_files(figure), plan.figure_key(figure))


# -------------------------------------------------------------------------------------------- check


def check(plan: Plan, only_spectra: bool = False, checksums: bool = False) -> None:
    """Refuse results that are not those of the study: the guard before anything is recorded.

    Raises
    ------
    UserError
        That names every file that is missing, outdated or damaged, and says what to do.
    """
    if (
        not any(Path(plan.spectra_file(*pair)).exists() for pair in plan.pairs)
        and not Path(MANIFEST).exists()
    ):
        raise UserError("nothing of this study has been made here yet: run `snakemake`")
    faults = list(_spectra_faults(plan, checksums))
    if not only_spectra:
        faults += [*_report_faults(plan), *_made_of_others(plan)]
        faults += _pair_faults(plan) if checksums else ()
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:20])
        more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise UserError(
            f"these results are not those of the study:\n{shown}{more}\n"
            "nothing was recorded; delete what is damaged and run `snakemake` with this study"
        )


def _spectra_faults(plan: Plan, checksums: bool) -> Iterator[str]:
    if not is_manifest_current(plan):
        yield f"{MANIFEST}: lists other spectra than the study's"
        return
    for index, cells in recorded_pairs().items():
        if not Path(index).exists():
            continue  # listed, but not pulled: DVC knows its content
        for file, sha256 in (pair for cell in cells for pair in _files(cell)):
            if not Path(file).exists():
                yield f"{file}: missing, but {index} names it"
            elif checksums and digest(file, "sha256") != sha256:
                yield f"{file}: damaged, its sha256 is not that of {index}"


def _pair_faults(plan: Plan) -> Iterator[str]:
    """Yield the statistics of pairs that are here and not as they were made."""
    for pair in plan.pairs:
        sums = plan.checksums_file(*pair)
        if is_made(sums) and not is_intact(sums):
            yield f"{Path(sums).parent}: a table in it was changed since it was made"


def _made_of_others(plan: Plan) -> Iterator[str]:
    """Yield the statistics of pairs whose spectra were measured again since."""
    for pair in plan.pairs:
        index, made = read_json(plan.spectra_file(*pair)), read_json(plan.checksums_file(*pair))
        if index and made and made["inputs"] != inputs_of(index["cells"]):
            folder = plan.statistics_folder(*pair)
            yield f"{folder}: made of other spectra than {plan.spectra_file(*pair)} lists"


def _report_faults(plan: Plan) -> Iterator[str]:
    keys = dict.fromkeys(TABLE_FILES, plan.tables_key)
    keys |= {plan.figure_files(name)[0]: plan.figure_key(name) for name in plan.figures}
    keys[AUDIT_FILE] = plan.audit_key
    if plan.study.similarity:
        for file in map(plan.similarity_file, *zip(*plan.pairs, strict=True)):
            if not is_made(file):
                yield f"{file}: missing"
    keys |= {"reports/index.html": plan.page_key, "reports/metrics.json": plan.measures_key}
    files = [file for name in plan.figures for file in plan.figure_files(name)]
    for file in dict.fromkeys([*keys, *files]):
        if not Path(file).exists():
            yield f"{file}: missing"
        elif file in keys and recorded_key(file) != keys[file]:
            yield f"{file}: made from another configuration (key {recorded_key(file)})"
        elif file in keys and not is_intact(file):
            yield f"{file}: it, or a file it records the checksum of, was changed since it was made"
