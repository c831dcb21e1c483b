"""Effects with their bootstrap draws: differences of them, intervals and tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


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
