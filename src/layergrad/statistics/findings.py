"""Findings: each claim of the paper, tested in each model or pair of models on each dataset.

The test is two-sided: the effect's distance from the reference over its bootstrap standard error,
by Student's distribution with one degree of freedom less than there are samples; the interval is
from the same distribution. p values are corrected over all rows of a claim, part and variant
(Benjamini and Hochberg 1995), and

* ``supported`` is an effect on the claimed side of the reference with q below 1 - confidence,
* ``contradicted`` one on the other side,
* ``inconclusive`` everything between, and
* ``not testable`` where there is no effect, with the reason.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import polars as pl

from layergrad.config import Study, metric_label
from layergrad.statistics.claims import Claims, Row
from layergrad.statistics.effects import benjamini_hochberg, test
from layergrad.statistics.estimates import MIN_SAMPLES
from layergrad.tables import FINDINGS

LENGTH_CONTROLS = ("sum_loss", "log_tokens", "equal_tokens", "per_log_token")


def findings(study: Study, estimates: pl.DataFrame) -> pl.DataFrame:
    """Return the table FINDINGS of a study.

    Parameters
    ----------
    study
        The study.
    estimates
        Table ESTIMATES of all its pairs.
    """
    confidence = study.statistics.confidence
    metric = metric_label(study.statistics.claim_metric)
    rows = list(Claims(study, estimates).rows())
    tested = [_tested(row, metric, confidence) for row in rows]
    _correct(tested)
    for row, source in zip(tested, rows, strict=True):
        row["verdict"], row["reason"] = _verdict(row, source, 1 - confidence)
    _mark_survival(tested)
    return pl.DataFrame(tested, schema=FINDINGS.schema)


def _tested(row: Row, metric: str, confidence: float) -> dict:
    effect = row.effect
    known = effect.effect is not None and np.isfinite(effect.effect)
    testable = known and effect.samples >= MIN_SAMPLES
    low, high, p = test(effect, row.reference, confidence) if testable else (None, None, None)
    if testable and "AUC" in row.effect_name:
        smallest = 0.0 if row.effect_name == "AUC" else -1.0
        low, high = max(low, smallest), min(high, 1.0)
    return {
        "claim": row.claim,
        "part": row.part,
        "variant": row.variant,
        "statement": row.statement,
        "model": row.model,
        "versus": row.versus,
        "dataset": row.dataset,
        "projection": row.projection,
        "control": row.control,
        "contrast": row.contrast,
        "metric": metric,
        "effect_name": row.effect_name,
        "effect": effect.effect if known else None,
        "low": low,
        "high": high,
        "direction": row.direction,
        "reference": row.reference,
        "p": p,
        "q": None,
        "survives": None,
        "samples": effect.samples,
    }


def _correct(rows: list[dict]) -> None:
    """Fill q: each claim, part and variant is one family of tests."""
    families = defaultdict(list)
    for row in rows:
        if row["p"] is not None:
            families[row["claim"], row["part"], row["variant"]].append(row)
    for family in families.values():
        corrected = benjamini_hochberg(np.array([row["p"] for row in family]))
        for row, q in zip(family, corrected, strict=True):
            row["q"] = float(q)


def _verdict(row: dict, source: Row, alpha: float) -> tuple[str, str]:
    if row["p"] is None:
        return "not testable", source.effect.reason or "the effect is not defined"
    side = "greater" if row["effect"] > row["reference"] else "less"
    sign = {"greater": ">", "less": "<"}[side]
    note = f"; {source.note}" if source.note else ""
    if row["q"] >= alpha:
        return (
            "inconclusive",
            f"not distinguishable from {row['reference']:g} (q = {row['q']:.2g}){note}",
        )
    verdict = "supported" if side == row["direction"] else "contradicted"
    return verdict, f"{row['effect']:.3g} {sign} {row['reference']:g} (q = {row['q']:.2g}){note}"


def _mark_survival(rows: list[dict]) -> None:
    """Say of each supported raw row whether it stands under every length control."""
    same = ("claim", "part", "model", "dataset", "projection", "control")
    controls = defaultdict(list)
    for row in rows:
        if row["variant"] in LENGTH_CONTROLS:
            controls[tuple(row[name] for name in same)].append(row)
    for row in rows:
        found = controls.get(tuple(row[name] for name in same))
        if row["variant"] != "raw" or row["verdict"] != "supported" or not found:
            continue
        verdicts = {other["variant"]: other["verdict"] for other in found}
        tested = [v for v in verdicts.values() if v != "not testable"]
        if "contradicted" in tested:
            row["survives"] = "no"
        elif tested and set(tested) == {"supported"}:
            row["survives"] = "yes"
        else:
            row["survives"] = "unclear"
        told = ", ".join(f"{variant}: {verdict}" for variant, verdict in verdicts.items())
        row["reason"] += f"; {told}"
