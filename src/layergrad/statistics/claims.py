"""The six claims of the paper (Li et al. 2025), as tests of effects in one study.

A claim says that an effect is greater, or less, than a reference. Each has a row for every model,
or pair of models of one family, dataset and projection, also where it cannot be tested.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl

from layergrad.config import CORRECT, DatasetSpec, ModelSpec, Study
from layergrad.statistics.effects import Effect, mean_effect


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
EARLY = "The excess of MAD of fast thinking is larger in the early layers than in the others"
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
            if (row["name"], row["variant"]) == ("auc", "metric"):
                effect = oriented(effect)
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
        responses = dataset.responses
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
                responses = dataset.responses
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
                    ("fast", "less", limit, responses[0], "AUC", fast),
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
                    slow = dataset.responses[-1]
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
        for variant in ("raw", "per_log_token"):
            unit = " (per log token)" if variant == "per_log_token" else ""
            for model in self.study.models:
                for contrast in length_contrasts(self.knowledge):
                    for projection in self.projections:
                        place = (model.name, variant, projection)
                        thinking, sets, notes = self._thinking(*place)
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
                            thinking - self._log_ratio(contrast, *place),
                            versus=", ".join(sets) or None,
                            note="; ".join(filter(None, [contrast.note, *notes])),
                        )

    def _thinking(
        self, model: str, variant: str, projection: str
    ) -> tuple[Effect, list[str], list[str]]:
        """Return the mean log ratio of the reasoning datasets: which they are, why not others."""
        found = {
            dataset.name: self._log_ratio(
                LengthContrast(dataset, dataset), model, variant, projection
            )
            for dataset in self.reasoning
        }
        if not found:
            return Effect(None, 0, None, "no reasoning dataset in the study"), [], []
        sets = [name for name, effect in found.items() if effect.effect is not None]
        left_out = [f"without {n}: {e.reason}" for n, e in found.items() if n not in sets]
        return mean_effect(list(found.values())), sets, left_out if sets else []

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
            self._get(model, d.name, name, d.responses[0], CORRECT, "raw", projection)
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


@dataclass(frozen=True)
class LengthContrast:
    """The shortest against the longest response: of one dataset, or of one set in two lengths."""

    short: DatasetSpec
    long: DatasetSpec

    @property
    def label(self) -> str:
        """Names of the two responses."""
        return f"{self.short.responses[0]}/{self.long.responses[-1]}"

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
        if found and len(dataset.responses) == 1:
            series[found[1]].append((int(found[2]), dataset))
        else:
            contrasts.append(LengthContrast(dataset, dataset))
    for members in series.values():
        ordered = [dataset for _, dataset in sorted(members, key=lambda member: member[0])]
        contrasts.append(LengthContrast(ordered[0], ordered[-1]))
    return contrasts


def oriented(effect: Effect) -> Effect:
    """Return the AUC of a metric in whichever direction it is above one half.

    A metric tells as well by being smaller for wrong responses. A classifier has learnt which side
    is which: below one half it tells nothing.
    """
    if effect.effect is None or effect.effect >= 0.5:
        return effect
    return Effect(1 - effect.effect, effect.samples, 1 - effect.draws)


def _differing(base: ModelSpec, instruct: ModelSpec) -> str:
    """Say in what a pair differs beside its tuning."""
    names = ("protocol", "chat", "dtype")
    differing = [name for name in names if getattr(base, name) != getattr(instruct, name)]
    return f"the models also differ in {' and '.join(differing)}" if differing else ""
