"""Rows of spectra that exist already, known by their content.

A row's content key hashes the engine's settings, the model's weights and the sample's exact tokens,
so equal keys mean equal spectra. A cell that is rebuilt takes every row it can from the pair's
folder: from other cells' files, from files of an earlier configuration, and from the parts that an
interrupted run left behind, one a batch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from layergrad.errors import UserError
from layergrad.provenance import atomic, digest, key
from layergrad.spectra.measure import Measured
from layergrad.tables import FAILURES, SPECTRA, conform, write_table

CONTENT_COLUMNS = ["content", "layer", "projection", "tokens", "response_tokens", "loss"]
SCHEMA = {name: SPECTRA.schema[name] for name in [*CONTENT_COLUMNS, "singular_values"]}


def measured_rows(
    content: str, tokens: int, response_tokens: int, measured: Measured
) -> list[dict[str, Any]]:
    """Return one row a layer and projection, without the names of the cell."""
    return [
        {
            "content": content,
            "layer": layer,
            "projection": projection,
            "tokens": tokens,
            "response_tokens": response_tokens,
            "loss": measured.loss,
            "singular_values": values,
        }
        for (layer, projection), values in measured.spectra.items()
    ]


def frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Return rows as a frame; the arrays are joined once instead of converted one by one."""
    columns = {name: [row[name] for row in rows] for name in CONTENT_COLUMNS}
    frame = pl.DataFrame(columns, schema={name: SCHEMA[name] for name in CONTENT_COLUMNS})
    arrays = [np.asarray(row["singular_values"], dtype=np.float32) for row in rows]
    owner = np.repeat(np.arange(len(arrays), dtype=np.uint32), [len(a) for a in arrays])
    flat = pl.DataFrame({"owner": owner, "value": np.concatenate(arrays or [np.empty(0, "f4")])})
    lists = flat.group_by("owner", maintain_order=True).agg(pl.col("value"))
    return frame.with_columns(lists["value"].alias("singular_values")).select(list(SCHEMA))


class Store:
    """The spectra of one (model, dataset) on disk.

    Parameters
    ----------
    folder
        Folder of the pair's cell files.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.parts = self.folder / ".parts"

    def known(self) -> dict[str, Path]:
        """Return content key -> a file that holds its rows; files that cannot be read hold none."""
        found: dict[str, Path] = {}
        for file in self._files():
            try:
                contents = pl.read_parquet(file, columns=["content"])["content"].unique()
            except (pl.exceptions.PolarsError, OSError):
                continue  # broken: its rows are computed again, and its own cell is rewritten
            found.update(dict.fromkeys(contents.to_list(), file))
        return found

    def _files(self) -> Iterable[Path]:
        cells = (f for f in self.folder.glob("*.parquet") if not f.stem.endswith(".failures"))
        return sorted([*cells, *self.parts.glob("*.parquet")])

    def add_part(self, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of one batch: all that an interruption can then lose is the next one."""
        if not rows:
            return
        frame = frame_of(rows)
        name = key(sorted(frame["content"].unique().to_list()))
        with atomic(self.parts / f"{name}.parquet") as aside:
            frame.write_parquet(aside, compression="zstd", compression_level=1)

    def rows(self, contents: list[str], known: dict[str, Path]) -> pl.DataFrame:
        """Return the rows of the given contents, one a layer and projection."""
        files = {known[content] for content in contents}
        wanted = pl.Series("content", sorted(set(contents)), dtype=pl.String)
        frames = [
            pl.scan_parquet(file)
            .select(list(SCHEMA))
            .filter(pl.col("content").is_in(wanted.implode()))
            for file in sorted(files)
        ]
        frame = pl.concat([f.collect() for f in frames]) if frames else pl.DataFrame(schema=SCHEMA)
        return frame.unique(["content", "layer", "projection"], keep="first")

    def write_cell(
        self,
        file: str | Path,
        samples: pl.DataFrame,
        failures: pl.DataFrame,
        provenance: dict[str, Any],
        known: dict[str, Path],
        projections: Sequence[str],
    ) -> dict[str, Any]:
        """Write a cell's spectra and failures; return its entry of the pair's index.

        Parameters
        ----------
        file
            Name of the cell's spectra; failures go beside it.
        samples
            Measured samples: cell columns, ``sample_id``, ``row`` and ``content``.
        failures
            Rows of the failures table.
        provenance
            Written into both files.
        known
            Where the rows are; see :meth:`known`.
        projections
            Projections that were asked for.

        Raises
        ------
        UserError
            If a measured sample lacks a spectrum, or has one that cannot be right.
        """
        file = Path(file)
        contents = samples["content"].unique().to_list()
        rows = self.rows([content for content in contents if content in known], known)
        if fault := incomplete(rows, contents, projections):
            raise UserError(
                f"{file}: {fault}; it was damaged or measured by another version: delete "
                f"{self.folder} and run again"
            )
        spectra = samples.join(rows, on="content", how="inner")
        failed = failures_file(file)
        write_table(failures, FAILURES, failed, provenance)
        write_table(conform(spectra, SPECTRA), SPECTRA, file, provenance)
        return cell_entry(file, provenance["key"], samples.height, failures.height)

    def clear_parts(self) -> None:
        """Drop the parts, once all cells are written."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def remove(self) -> None:
        """Drop the whole folder, where its cells were written elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)


def incomplete(
    rows: pl.DataFrame, contents: Sequence[str], projections: Sequence[str]
) -> str | None:
    """Say what is wrong with the spectra of measured samples, None if they are whole.

    Samples of one model have the same layers and projections, each exactly once, and spectra that
    are finite and as long as the tokens or, where these are more, as the shorter side of the
    weight. The side is not stored: the longest spectrum of the place stands for it.

    Parameters
    ----------
    rows
        Columns of `SCHEMA`.
    contents
        Content keys of the samples.
    projections
        Projections that were asked for.
    """
    if not contents:
        return None
    place = ["layer", "projection"]
    if absent := sorted(set(projections) - set(rows["projection"])):
        return f"no sample has a spectrum of {', '.join(absent)}"
    wanted = rows.select(place).unique().join(pl.DataFrame({"content": contents}), how="cross")
    counts = wanted.join(
        rows.group_by("content", *place).len(), on=["content", *place], how="left"
    ).filter(pl.col("len").fill_null(0) != 1)
    if counts.height:
        row = counts.sort("content", *place).row(0, named=True)
        return (
            f"the sample with content {row['content']} has {row['len'] or 0} spectra of "
            f"{row['projection']} in layer {row['layer']}, not one"
        )
    values = pl.col("singular_values").list
    side = values.len().max().over(place)
    right = values.sum().is_finite() & (
        values.drop_nulls().list.len() == pl.min_horizontal(side, "tokens")
    )
    wrong = rows.filter(~right.fill_null(False)).sort("content", *place)
    if wrong.height:
        row = wrong.row(0, named=True)
        return (
            f"the spectrum of {row['projection']} in layer {row['layer']} of the sample with "
            f"content {row['content']} has {len(row['singular_values'] or [])} values of "
            f"{row['tokens']} tokens, or one that is not finite"
        )
    return None


def failures_file(file: str | Path) -> Path:
    """Return the name of the failures table of a cell's spectra."""
    return Path(file).with_suffix(".failures.parquet")


def cell_entry(file: str | Path, cell_key: str, samples: int, failed: int) -> dict[str, Any]:
    """Return a cell's entry of the index: its files and their checksums."""
    failed_file = failures_file(file)
    return {
        "key": cell_key,
        "spectra": str(file),
        "sha256": digest(file, "sha256"),
        "failures": str(failed_file),
        "failures_sha256": digest(failed_file, "sha256"),
        "samples": samples,
        "failed": failed,
    }
