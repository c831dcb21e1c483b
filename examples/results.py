"""Read the results of a study in Python: run it in the project's root, after ``snakemake``.

In a notebook outside the root pass it on: ``layergrad.load("mad", root="..")``.
"""

import polars as pl

import layergrad

metric = "nuclear_norm"

# How large and how rough the gradients are, by response: a Polars frame.
mad = layergrad.load("mad").filter(metric=metric, band="all", control="correct")
print(mad.select("model", "dataset", "response", "projection", "value", "low", "high"))

# What can be said and what cannot: one verdict a claim, model, dataset and projection.
findings = layergrad.load("findings")
verdicts = findings.group_by("claim", "part", "variant", "verdict").len()
print(verdicts.sort("claim", "part", "variant", "verdict"))

# Every sample's own numbers, lazily: those of a large study do not fit into memory.
samples = (
    layergrad.load("metrics", lazy=True)
    .filter(pl.col("metric") == metric)
    .group_by("model", "dataset", "response", "control", "sample_id")
    .agg(pl.col("value").mean(), pl.col("response_tokens").first(), pl.col("loss").first())
    .collect()
)

# The same for pandas.
frame = samples.to_pandas()
print(frame.groupby(["model", "dataset", "response", "control"])["value"].describe())
