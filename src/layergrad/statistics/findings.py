"""Findings: each claim of the paper, tested in each model or pair of models on each dataset.

The claims are those of Li et al. (2025), METHOD.md section 2. A claim says that an effect is
greater, or less, than a reference. The test is two-sided: the effect's distance from the reference
over its bootstrap standard error, by Student's distribution with one degree of freedom less than
there are samples; the interval is from the same distribution. p values are corrected over all rows
of a claim, part and variant (Benjamini and Hochberg 1995), and

* ``supported`` is an effect on the claimed side of the reference with q below 1 - confidence,
* ``contradicted`` one on the other side,
* ``inconclusive`` everything between, and
* ``not testable`` where there is no effect, with the reason.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from layergrad.config import DatasetSpec, ModelSpec, Study
from layergrad.statistics.estimates import CORRECT, CUT, MIN_SAMPLES
from layergrad.statistics.metrics import label
from layergrad.tables import FINDINGS

Array = NDArray[np.float64]
LENGTH_CONTROLS = ("sum_loss", "log_tokens", "equal_tokens", "per_log_token")


@dataclass(frozen=True)
class Effect:
    """One number with its bootstrap draws; `reason` says why where there is none."""

    effect: float | None
    samples: int
    draws: Array | None
    reason: str = ""

    def __sub__(self, other: Effect) -> Effect:
        """Return the difference, draw by draw: paired where the draws are."""
        return self._with(other, np.subtract)

    def __truediv__(self, other: Effect) -> Effect:
        """Return the quotient, draw by draw."""
        return self._with(other, np.divide)

    def _with(self, other: Effect, operation: np.ufunc) -> Effect:
        for side in (self, other):
            if side.effect is None:
                return side
        with np.errstate(divide="ignore", invalid="ignore"):
            return Effect(
                float(operation(self.effect, other.effect)),
                min(self.samples, other.samples),
                operation(self.draws, other.draws),
            )


def mean_effect(effects: list[Effect]) -> Effect:
    """Return the mean of several effects; those that do not exist are left out, unless all are."""
    known = [effect for effect in effects if effect.effect is not None]
    if not known:
        return effects[0]
    return Effect(
        float(np.mean([e.effect for e in known])),
        min(e.samples for e in known),
        np.mean([e.draws for e in known], axis=0),
    )


def test(effect: Effect, reference: float, confidence: float) -> tuple[float, float, float]:
    """Return the interval (low, high) of an effect and the two-sided p against the reference.

    The variance of the draws is that of a mean with n in the denominator, hence the factor
    sqrt(n / (n - 1)). Where the draws do not vary there is nothing to test with, and p is 1.
    """
    if np.nanmin(effect.draws) == np.nanmax(effect.draws):
        return effect.effect, effect.effect, 1.0
    n = effect.samples
    error = np.nanstd(effect.draws) * np.sqrt(n / (n - 1))
    reach = stats.t.ppf((1 + confidence) / 2, n - 1) * error
    distance = abs(effect.effect - reference)
    p = 2 * stats.t.sf(distance / error, n - 1)
    return effect.effect - reach, effect.effect + reach, float(p)


def benjamini_hochberg(p: Array) -> Array:
    """Return the p values corrected for the false discovery rate (Benjamini and Hochberg 1995)."""
    return stats.false_discovery_control(p, method="bh")


# --------------------------------------------------------------------------------------- claims


@dataclass(frozen=True)
class Row:
    """One test of one claim, before the correction."""

    claim: int
    part: str
    variant: str
    statement: str
    model: str
    dataset: str | None
    projection: str | None
    contrast: str | None
    effect_name: str
    effect: Effect
    direction: Literal["greater", "less"] = "greater"
    reference: float = 0.0
    versus: str | None = None
    control: str = CORRECT
    note: str = ""


STATEMENTS = {
    1: "Fast thinking gives larger gradients than slow thinking",
    2: "Fast thinking gives larger differences across layers (MAD) than slow thinking",
    3: "Fast thinking enlarges gradients less in base than in instruct models",
    4: "Gradients of slow thinking tell wrong responses better than those of fast thinking",
    5: "Instruct models tell wrong responses of slow thinking no better than base ones",
    6: "Shorter responses of knowledge enlarge gradients less than fast thinking does",
}
EARLY = "The excess of MAD of fast thinking is largest in the early layers"
SLOW_TELLS = {
    "slow": "Gradients of slow thinking tell wrong responses from correct ones",
    "fast": "Gradients of fast thinking do not tell wrong responses from correct ones",
    "both": STATEMENTS[4],
}


class Claims:
    """The tests of the six claims in one study.

    Parameters
    ----------
    study
        Names the models, their family and tuning, and the datasets' tasks and responses.
    estimates
        Table ESTIMATES of every pair.
    """

    def __init__(self, study: Study, estimates: pl.DataFrame) -> None:
        self.study = study
        self.settings = study.statistics
        self.projections = sorted(study.extraction.projections)
        self.reasoning = [d for d in study.datasets if d.task == "reasoning"]
        self.knowledge = [d for d in study.datasets if d.task == "knowledge"]
        self.effects: dict[tuple[str, ...], Effect] = {}
        names = ("model", "dataset", "name", "contrast", "control", "variant", "projection")
        rows = estimates.drop("draws").iter_rows(named=True)
        for row, draws in zip(rows, estimates["draws"], strict=True):
            found = None if draws is None else draws.to_numpy()
            effect = Effect(row["effect"], row["samples"], found, row["reason"])
            self.effects[tuple(row[name] for name in names)] = effect

    def rows(self) -> Iterator[Row]:
        """Yield the tests of all claims, in their order."""
        claims = (
            self._fast_is_larger,
            self._fast_varies_more,
            self._base_is_less_affected,
            self._slow_tells,
            self._instruct_tells_no_better,
            self._length_is_not_thinking,
        )
        for number, claim in enumerate(claims, 1):
            rows = list(claim())
            yield from rows or self._without_datasets(number)

    def _without_datasets(self, claim: int) -> Iterator[Row]:
        """Yield a row a model for a claim about datasets that the study does not have."""
        task = "knowledge" if claim == 6 else "reasoning"
        missing = Effect(None, 0, None, f"no {task} dataset in the study")
        for model in self.study.models:
            statement, effect_name = STATEMENTS[claim], "none"
            yield Row(
                claim, "size", "raw", statement, model.name, None, None, None, effect_name, missing
            )

    def _get(
        self,
        model: str,
        dataset: str,
        name: str,
        contrast: str,
        control: str,
        variant: str,
        projection: str,
    ) -> Effect:
        key = (model, dataset, name, contrast, control, variant, projection)
        missing = Effect(None, 0, None, f"the study has no {contrast} with control {control}")
        return self.effects.get(key, missing)

    def _contrast(self, dataset: DatasetSpec) -> str:
        responses = thinking(dataset.responses)
        return f"{responses[0]}/{responses[-1]}"

    def _fast_is_larger(self) -> Iterator[Row]:
        for variant in ("raw", "sum_loss", "log_tokens", "equal_tokens"):
            yield from self._within(
                1,
                "size",
                "size",
                variant,
                STATEMENTS[1],
                "log ratio",
            )

    def _fast_varies_more(self) -> Iterator[Row]:
        for variant in ("raw", "sum_loss", "log_tokens", "equal_tokens", "relative"):
            effect = {
                "log_tokens": "log ratio of MAD",
                "relative": "difference of relative MAD",
            }.get(variant, "difference of MAD")
            yield from self._within(2, "all", "mad", variant, STATEMENTS[2], effect)
        for variant in ("raw", "sum_loss", "equal_tokens"):
            effect = "difference of MAD, early minus the rest"
            yield from self._within(2, "early", "mad_early", variant, EARLY, effect)

    def _within(
        self, claim: int, part: str, name: str, variant: str, statement: str, effect_name: str
    ) -> Iterator[Row]:
        for model, dataset, projection in self._places(self.reasoning):
            contrast = self._contrast(dataset)
            yield Row(
                claim,
                part,
                variant,
                statement,
                model.name,
                dataset.name,
                projection,
                contrast,
                effect_name,
                self._get(model.name, dataset.name, name, contrast, CORRECT, variant, projection),
            )

    def _base_is_less_affected(self) -> Iterator[Row]:
        for base, instruct, note in self._pairs():
            for dataset in self.reasoning:
                contrast = self._contrast(dataset)
                for projection in self.projections:
                    place = (dataset.name, "size", contrast, CORRECT, "raw", projection)
                    yield Row(
                        3,
                        "size",
                        "raw",
                        STATEMENTS[3],
                        instruct or base,
                        dataset.name,
                        projection,
                        contrast,
                        "difference of log ratios, instruct minus base",
                        self._difference(instruct, base, place, note),
                        versus=base if instruct else None,
                        note=note if instruct and base else "",
                    )

    def _slow_tells(self) -> Iterator[Row]:
        limit = self.settings.tells
        for variant in ("classifier", "metric"):
            for model, dataset, projection, control in self._wrong_places():
                responses = thinking(dataset.responses)
                fast, slow = (
                    self._get(
                        model.name, dataset.name, "auc", response, control, variant, projection
                    )
                    for response in (responses[0], responses[-1])
                )
                if len(responses) < 2:
                    fast = Effect(
                        None, 0, None, f"the dataset has one response only, {responses[0]}"
                    )
                parts = (
                    ("slow", "greater", limit, responses[-1], "AUC", slow),
                    ("fast", "less", limit, responses[0], "AUC", oriented(fast)),
                    (
                        "both",
                        "greater",
                        0.0,
                        self._contrast(dataset),
                        "difference of AUC, slow minus fast",
                        slow - fast,
                    ),
                )
                for part, direction, reference, contrast, name, effect in parts:
                    yield Row(
                        4,
                        part,
                        variant,
                        SLOW_TELLS[part],
                        model.name,
                        dataset.name,
                        projection,
                        contrast,
                        name,
                        effect,
                        direction,
                        reference,
                        control=control,
                    )

    def _instruct_tells_no_better(self) -> Iterator[Row]:
        for variant in ("classifier", "metric"):
            for base, instruct, note in self._pairs():
                for dataset in self.reasoning:
                    slow = thinking(dataset.responses)[-1]
                    for control in self._wrong(dataset):
                        for projection in self.projections:
                            place = (dataset.name, "auc", slow, control, variant, projection)
                            yield Row(
                                5,
                                "slow",
                                variant,
                                STATEMENTS[5],
                                instruct or base,
                                dataset.name,
                                projection,
                                slow,
                                "difference of AUC, instruct minus base",
                                self._difference(instruct, base, place, note),
                                "less",
                                self.settings.margin,
                                versus=base if instruct else None,
                                control=control,
                                note=note if instruct and base else "",
                            )

    def _length_is_not_thinking(self) -> Iterator[Row]:
        thinking_sets = [LengthContrast(dataset, dataset) for dataset in self.reasoning]
        for variant in ("raw", "per_log_token"):
            unit = " (per log token)" if variant == "per_log_token" else ""
            for model in self.study.models:
                for contrast in length_contrasts(self.knowledge):
                    for projection in self.projections:
                        place = (model.name, variant, projection)
                        thinks = [self._log_ratio(other, *place) for other in thinking_sets]
                        if thinks:
                            effect = mean_effect(thinks) - self._log_ratio(contrast, *place)
                        else:
                            effect = Effect(None, 0, None, "no reasoning dataset in the study")
                        yield Row(
                            6,
                            "size",
                            variant,
                            STATEMENTS[6],
                            model.name,
                            contrast.short.name,
                            projection,
                            contrast.label,
                            f"difference of log ratios, thinking minus length{unit}",
                            effect,
                            versus=", ".join(d.name for d in self.reasoning) or None,
                            note=contrast.note,
                        )

    def _log_ratio(
        self, contrast: LengthContrast, model: str, variant: str, projection: str
    ) -> Effect:
        """Return the log ratio of sizes, fast over slow or short over long.

        Per log token it is divided by how much longer the slow or long response is.
        """
        if contrast.short is contrast.long:
            place = (contrast.label, CORRECT, "raw", projection)
            size, length = (
                self._get(model, contrast.short.name, name, *place) for name in ("size", "length")
            )
        else:
            sides = (contrast.short, contrast.long)
            size, length = (
                self._difference_of_sets(model, name, *sides, projection)
                for name in ("level", "tokens")
            )
        if variant == "raw":
            return size
        quotient = size / length
        if quotient.effect is None:
            return quotient
        return Effect(-quotient.effect, quotient.samples, -quotient.draws)

    def _difference_of_sets(
        self, model: str, name: str, short: DatasetSpec, long: DatasetSpec, projection: str
    ) -> Effect:
        first, second = (
            self._get(model, d.name, name, thinking(d.responses)[0], CORRECT, "raw", projection)
            for d in (short, long)
        )
        return first - second

    # ------------------------------------------------------------------------------------ places

    def _places(self, datasets: list) -> Iterator[tuple]:
        for model in self.study.models:
            for dataset in datasets:
                for projection in self.projections:
                    yield model, dataset, projection

    def _wrong(self, dataset: DatasetSpec) -> list[str]:
        """Return the wrong controls; the paper's, not testable, where a dataset has none."""
        return [c for c in self.study.controls_of(dataset) if c != CORRECT] or ["irrelevant"]

    def _wrong_places(self) -> Iterator[tuple]:
        for model, dataset, projection in self._places(self.reasoning):
            for control in self._wrong(dataset):
                yield model, dataset, projection, control

    def _pairs(self) -> Iterator[tuple[str | None, str | None, str]]:
        """Yield (base, instruct, note) of each family; one is None where the study lacks it."""
        families = defaultdict(lambda: {"base": [], "instruct": []})
        for model in self.study.models:
            families[model.family][model.tuning].append(model)
        for family, members in families.items():
            for side, other in (("base", "instruct"), ("instruct", "base")):
                if not members[other]:
                    for model in members[side]:
                        pair = {side: model.name, other: None}
                        why = f"no {other} model of family {family} in the study"
                        yield pair["base"], pair["instruct"], why
            for base in members["base"]:
                for instruct in members["instruct"]:
                    yield base.name, instruct.name, _differing(base, instruct)

    def _difference(
        self, instruct: str | None, base: str | None, place: tuple[str, ...], why: str
    ) -> Effect:
        if instruct is None or base is None:
            return Effect(None, 0, None, why)
        return self._get(instruct, *place) - self._get(base, *place)


def thinking(responses: Iterable[str]) -> list[str]:
    """Return the responses that are compared, fast to slow: not those cut to equal length."""
    return [response for response in responses if not response.endswith(CUT)]


@dataclass(frozen=True)
class LengthContrast:
    """The shortest against the longest response: of one dataset, or of one set in two lengths."""

    short: DatasetSpec
    long: DatasetSpec

    @property
    def label(self) -> str:
        """Names of the two responses."""
        return f"{thinking(self.short.responses)[0]}/{thinking(self.long.responses)[-1]}"

    @property
    def note(self) -> str:
        """Say so where the contrast is not paired."""
        if self.short is self.long:
            return ""
        return f"unpaired: {self.short.name} and {self.long.name} have other instructions"


def length_contrasts(datasets: list[DatasetSpec]) -> list[LengthContrast]:
    """Return the contrasts of length among knowledge datasets.

    A dataset with several responses is contrasted within itself. Datasets of one response whose
    names differ in a number at the end alone (``wiki_popular_100``, ``wiki_popular_1000``) are one
    set in several lengths, contrasted between the smallest and the largest number.
    """
    contrasts, series = [], defaultdict(list)
    for dataset in datasets:
        found = re.fullmatch(r"(.*?)[_-]?(\d+)", dataset.name)
        if found and len(thinking(dataset.responses)) == 1:
            series[found[1]].append((int(found[2]), dataset))
        else:
            contrasts.append(LengthContrast(dataset, dataset))
    for members in series.values():
        ordered = [dataset for _, dataset in sorted(members, key=lambda member: member[0])]
        contrasts.append(LengthContrast(ordered[0], ordered[-1]))
    return contrasts


def oriented(effect: Effect) -> Effect:
    """Return an AUC as a distance from chance: below one half gradients tell as well as above."""
    if effect.effect is None or effect.effect >= 0.5:
        return effect
    return Effect(1 - effect.effect, effect.samples, 1 - effect.draws)


def _differing(base: ModelSpec, instruct: ModelSpec) -> str:
    """Say in what a pair differs beside its tuning."""
    names = ("protocol", "chat", "dtype")
    differing = [name for name in names if getattr(base, name) != getattr(instruct, name)]
    return f"the models also differ in {' and '.join(differing)}" if differing else ""


# ---------------------------------------------------------------------------------------- table


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
    metric = label(study.statistics.claim_metric)
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
    same = ("claim", "part", "model", "versus", "dataset", "projection", "control")
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
