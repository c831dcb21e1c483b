"""Draw the picture of the speed from stored figures: ``python -m benchmarks.picture``."""

from __future__ import annotations

import json
from pathlib import Path

import altair as alt
import polars as pl

from layergrad.report.figures import theme

RESULTS = Path(__file__).parent / "results" / "llama-3.1-8b.json"
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "speed.svg"
LABELS = {"float32": "float32", "tf32": "TF32", "bfloat16": "bfloat16"}
LINES = ["reference way", "layergrad", "forward and backward alone"]


def rows(results: list[dict]) -> pl.DataFrame:
    """Return one row a length, mode and line: seconds a sample."""
    reference = {row["tokens"]: row["reference"]["total"] for row in results if "reference" in row}
    found = []
    for row in results:
        seconds = (reference[row["tokens"]], row["ours"], row["floor"])
        found += [
            {"tokens": row["tokens"], "mode": LABELS[row["mode"]], "line": line, "seconds": value}
            for line, value in zip(LINES, seconds, strict=True)
        ]
    return pl.DataFrame(found)


def chart(table: pl.DataFrame, device: str) -> alt.Chart:
    """Return seconds a sample against its length, one panel a precision."""
    lines = (
        alt.Chart(table, width=190, height=240)
        .mark_line(point=True)
        .encode(
            alt.X("tokens:Q", title="Tokens of a sample", scale=alt.Scale(domain=[0, 1050])),
            alt.Y("seconds:Q", title="Seconds a sample", scale=alt.Scale(type="log"),
                  axis=alt.Axis(values=[0.001, 0.01, 0.1, 1, 10, 100, 1000], format="~g")),
            alt.Color("line:N", title=None, sort=LINES,
                      scale=alt.Scale(domain=LINES, range=["#b5482a", "#0b6fa4", "#6b7280"])),
            theme.dashes(LINES, "line"),
        )
    )  # fmt: skip
    return (
        lines.facet(alt.Column("mode:N", title=None, sort=list(LABELS.values())))
        .properties(title=f"All 128 spectra of a sample, Llama-3.1-8B shape, one {device}")
        .configure(font="sans-serif")
        .configure_legend(orient="bottom", labelLimit=300)
    )


if __name__ == "__main__":
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    chart(rows(results), results[0]["device"]).save(PICTURE)
