"""The tables over all pairs of a study, under fixed names."""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path

import polars as pl

from layergrad.config import load_study
from layergrad.errors import UserError
from layergrad.plan import PAIR_TABLES, STUDY_TABLES, Plan
from layergrad.provenance import (
    digest,
    read_provenance,
    recorded_key,
    versions,
    write_checksums,
)
from layergrad.statistics.findings import findings
from layergrad.statistics.metrics import rounded
from layergrad.tables import (
    ESTIMATES,
    FINDINGS,
    TABLES,
    read_table,
    scan_table,
    write_parts,
    write_table,
)


def collect(plan: Plan, inputs: list[Path] | None, output_dir: Path) -> None:
    """Join the tables of all pairs.

    Parameters
    ----------
    plan
        The study.
    inputs
        Folders of the pairs' tables, as :func:`~layergrad.statistics.pair.aggregate` wrote them;
        None: where the plan says.
    output_dir
        Folder that gets one file a table of :data:`layergrad.plan.STUDY_TABLES`.

    Raises
    ------
    UserError
        If a pair of the study is missing among `inputs`, or a folder is not of this study.
    """
    folders = pair_folders(plan, inputs)
    for name in STUDY_TABLES:
        source = ESTIMATES if name == FINDINGS.name else TABLES[name]
        files = {pair: folders[pair] / f"{source.name}.parquet" for pair in sorted(folders)}
        provenance = {
            "key": plan.tables_key,
            "inputs": {"/".join(pair): digest(file, "sha256") for pair, file in files.items()},
            "settings": plan.study.statistics.model_dump(mode="json"),
            "versions": versions("layergrad", "numpy", "polars", "scipy"),
        }
        output = output_dir / f"{name}.parquet"
        parts = (read_table(file, source) for file in files.values())
        if name == FINDINGS.name:
            found = findings(plan.study, pl.concat(parts))
            write_table(
                found.with_columns(rounded(pl.col(pl.Float64))), FINDINGS, output, provenance
            )
        else:
            write_parts(parts, source, output, provenance)
    write_checksums(STUDY_TABLES, output_dir, {"key": plan.tables_key})


def pair_folders(plan: Plan, inputs: list[Path] | None) -> dict[tuple[str, str], Path]:
    """Return the folder of each pair, checked by the key that its tables record."""
    if not inputs:
        inputs = [Path(plan.statistics_file(*pair, "curves")).parent for pair in plan.pairs]
    expected = {pair: plan.statistics_key(*pair) for pair in plan.pairs}
    folders = {}
    for folder in inputs:
        for table in PAIR_TABLES:
            file = folder / f"{table}.parquet"
            provenance = read_provenance(file) or {}
            pair, key = tuple(provenance.get("pair", ())), provenance.get("key")
            if key is None:
                raise UserError(f"{file}: missing or broken; run `layergrad aggregate`")
            if expected.get(pair) != key:
                raise UserError(
                    f"{file}: records {'/'.join(pair)} with key {key}, which is no pair of this "
                    "study; run `layergrad aggregate` for those of the study"
                )
            folders[pair] = folder
    missing = [pair for pair in plan.pairs if pair not in folders]
    if missing:
        names = ", ".join(f"{model}/{dataset}" for model, dataset in missing)
        raise UserError(f"no statistics among the inputs for {names}; run `layergrad aggregate`")
    return folders


def load_table(
    table: str, study: str | Path, root: str | Path, lazy: bool
) -> pl.DataFrame | pl.LazyFrame:
    """Return a table of a study's results; see :func:`layergrad.load`."""
    with contextlib.chdir(root):
        plan = Plan(load_study(study))
        files = _files_of(plan, table)
        for file, key in files.items():
            recorded = recorded_key(file)
            if recorded != key:
                state = "missing" if recorded is None else f"of another study (key {recorded})"
                raise UserError(
                    f"{Path(file).absolute()}: {state}; run `snakemake` first (another study than "
                    "config.yaml: `snakemake --configfile STUDY`, `load(..., study=STUDY)`)"
                )
        paths = [Path(file).absolute() for file in files]
    frame = scan_table(paths, TABLES[table])
    return frame if lazy else frame.collect()


def _files_of(plan: Plan, table: str) -> dict[str, str]:
    """Return the files of a table and the key that each must record."""
    if table in STUDY_TABLES:
        return {f"data/statistics/{table}.parquet": plan.tables_key}
    if table in PAIR_TABLES:
        return {
            plan.statistics_file(*pair, table): plan.statistics_key(*pair)
            for pair in sorted(plan.pairs)
        }
    known = dict.fromkeys([*PAIR_TABLES, *STUDY_TABLES])
    near = difflib.get_close_matches(table, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    raise UserError(f"no table {table!r}; {hint}")
