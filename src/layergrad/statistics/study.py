"""The tables over all pairs of a study, under fixed names."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from layergrad.errors import UserError
from layergrad.plan import PAIR_TABLES, STUDY_TABLES, Plan
from layergrad.provenance import digest, read_provenance, versions
from layergrad.statistics.findings import findings
from layergrad.statistics.metrics import rounded
from layergrad.tables import ESTIMATES, FINDINGS, TABLES, read_table, write_parts, write_table


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


def pair_folders(plan: Plan, inputs: list[Path] | None) -> dict[tuple[str, str], Path]:
    """Return the folder of each pair, checked by the key that its tables record."""
    if not inputs:
        inputs = [Path(plan.statistics_file(*pair, "curves")).parent for pair in plan.pairs]
    expected = {plan.statistics_key(*pair): pair for pair in plan.pairs}
    folders = {}
    for folder in inputs:
        for table in PAIR_TABLES:
            recorded = (read_provenance(folder / f"{table}.parquet") or {}).get("key")
            if recorded not in expected:
                raise UserError(
                    f"{folder / table}.parquet: "
                    + (
                        "missing or broken"
                        if recorded is None
                        else f"records key {recorded}, which no pair of this study has"
                    )
                    + "; run `layergrad aggregate` for this pair"
                )
        folders[expected[recorded]] = Path(folder)
    missing = [pair for pair in plan.pairs if pair not in folders]
    if missing:
        names = ", ".join(f"{model}/{dataset}" for model, dataset in missing)
        raise UserError(f"no statistics among the inputs for {names}; run `layergrad aggregate`")
    return folders
