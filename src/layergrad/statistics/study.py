"""The tables over all pairs of a study, under fixed names."""

from __future__ import annotations

from pathlib import Path

from layergrad.errors import UserError
from layergrad.plan import Plan
from layergrad.provenance import digest, read_provenance, versions
from layergrad.statistics.pair import PAIR_TABLES
from layergrad.tables import METRICS, read_table, write_parts

STUDY_TABLES = tuple(table for table in PAIR_TABLES if table is not METRICS)


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
        Folder that gets one file a table of :data:`STUDY_TABLES`.

    Raises
    ------
    UserError
        If a pair of the study is missing among `inputs`, or a folder is not of this study.
    """
    folders = pair_folders(plan, inputs)
    for table in STUDY_TABLES:
        files = [folders[pair] / f"{table.name}.parquet" for pair in sorted(folders)]
        provenance = {
            "key": plan.tables_key,
            "inputs": {
                "/".join(pair): digest(file, "sha256")
                for pair, file in zip(sorted(folders), files, strict=True)
            },
            "settings": plan.study.statistics.model_dump(mode="json"),
            "versions": versions("layergrad", "numpy", "polars"),
        }
        parts = (read_table(file, table) for file in files)
        write_parts(parts, table, output_dir / f"{table.name}.parquet", provenance)


def pair_folders(plan: Plan, inputs: list[Path] | None) -> dict[tuple[str, str], Path]:
    """Return the folder of each pair, checked by the key that its tables record."""
    if not inputs:
        inputs = [Path(plan.statistics_file(*pair, "curves")).parent for pair in plan.pairs]
    expected = {plan.statistics_key(*pair): pair for pair in plan.pairs}
    folders = {}
    for folder in inputs:
        for table in PAIR_TABLES:
            recorded = (read_provenance(folder / f"{table.name}.parquet") or {}).get("key")
            if recorded not in expected:
                raise UserError(
                    f"{folder / table.name}.parquet: "
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
