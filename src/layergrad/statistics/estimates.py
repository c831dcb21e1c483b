"""The effects that claims are about, in one pair, with their value in every bootstrap draw.

Each effect is for the metric of the claims and has one value a projection. Draws are of
instructions and the same in every model, so effects of two models can be subtracted draw by draw.
Length controls are variants of an effect:

``sum_loss``
    gradients of the sum of the token losses instead of their mean;
``log_tokens``
    regression of the logarithm of each sample's value on the response, with the logarithm of its
    tokens as covariate and one intercept an instruction;
``equal_tokens``
    responses cut to equal numbers of tokens: those named like a response with ``_cut`` after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from layergrad.config import CORRECT, CUT
from layergrad.statistics.bootstrap import seeded, weighted_means
from layergrad.statistics.curves import Values, jointly_defined, layer_mean, mad
from layergrad.statistics.discrimination import auc, auc_draws, classifier_scores

Array = NDArray[np.float64]
MIN_SAMPLES = 5
CONTRASTS = ("size", "mad", "mad_early", "length")


@dataclass(frozen=True)
class Sampled:
    """One cell for the claims.

    Attributes
    ----------
    values
        The claims' metric and, second, the same with the sum loss; None in an empty cell.
    tokens, loss
        Response tokens (NaN if unknown) and loss of each sample.
    """

    values: Values | None
    tokens: Array
    loss: Array

    def pick(self, rows: list[int]) -> Sampled:
        """Return the samples of the given rows, in their order."""
        place = {row: index for index, row in enumerate(self.values.rows)}
        chosen = [place[row] for row in rows]
        return Sampled(self.values.pick(rows), self.tokens[chosen], self.loss[chosen])

    def metric(self, sum_loss: bool = False) -> Array:
        """Return the values of the metric, shape (samples, layers, projections)."""
        return self.values.array[..., int(sum_loss)]


Cells = dict[tuple[str, str], Sampled]


@dataclass(frozen=True)
class Estimate:
    """An effect, one value a projection; `reason` says why where there is none."""

    name: str
    contrast: str
    control: str
    variant: str
    projections: list[str | None]
    samples: int = 0
    effect: Array | None = None
    draws: Array | None = field(default=None, repr=False)
    reason: str = ""


class NotTestable(Exception):  # noqa: N818 - a result, not an error
    """An effect that cannot be estimated from these cells; the message says why."""


@dataclass(frozen=True)
class Estimator:
    """The estimates of one pair.

    Attributes
    ----------
    cells
        (response, control) -> samples.
    responses
        Responses of the dataset, fast to slow, those cut to equal length left out.
    wrong
        Controls whose responses are wrong.
    drawn
        Weights of each instruction in each draw.
    projections
        Projections of the study.
    seed
        Of the folds.
    place
        Names of the pair: what is random beside the draws is independent between pairs.
    """

    cells: Cells
    responses: list[str]
    wrong: list[str]
    drawn: dict[str, Array]
    projections: list[str]
    seed: int
    place: str

    def all(self) -> Iterator[Estimate]:
        """Yield every estimate of the pair."""
        yield from self._contrasts()
        yield from self._levels()
        for response in self.responses:
            for control in self.wrong:
                yield from self._discriminations(response, control)

    # ----------------------------------------------------------------------- fast against slow

    def _contrasts(self) -> Iterator[Estimate]:
        fast, slow = self.responses[0], self.responses[-1]
        label = f"{fast}/{slow}"
        effects: list[tuple[str, str, Callable[[], tuple[int, Array, Array]]]] = [
            ("size", "raw", lambda: self._size(fast, slow)),
            ("size", "sum_loss", lambda: self._size(fast, slow, sum_loss=True)),
            ("size", "log_tokens", lambda: self._regression(fast, slow, _layer_mean)),
            ("size", "equal_tokens", lambda: self._size(*self._cut(fast, slow))),
            ("mad", "raw", lambda: self._mad(fast, slow)),
            ("mad", "sum_loss", lambda: self._mad(fast, slow, sum_loss=True)),
            ("mad", "log_tokens", lambda: self._regression(fast, slow, _sample_mad)),
            ("mad", "equal_tokens", lambda: self._mad(*self._cut(fast, slow))),
            ("mad", "relative", lambda: self._mad(fast, slow, relative=True)),
            ("mad_early", "raw", lambda: self._mad_early(fast, slow)),
            ("mad_early", "sum_loss", lambda: self._mad_early(fast, slow, sum_loss=True)),
            ("mad_early", "equal_tokens", lambda: self._mad_early(*self._cut(fast, slow))),
            ("length", "raw", lambda: self._length(fast, slow)),
        ]
        for name, variant, estimate in effects:
            yield self._attempt(name, label, CORRECT, variant, self.projections, estimate)

    def _cut(self, fast: str, slow: str) -> tuple[str, str]:
        cut = f"{fast}{CUT}", f"{slow}{CUT}"
        if not all((response, CORRECT) in self.cells for response in cut):
            raise NotTestable(
                f"the study has no responses cut to equal token counts ({' and '.join(cut)})"
            )
        return cut

    def _paired(self, *cells: tuple[str, str]) -> tuple[list[Sampled], Array]:
        """Return the samples that all cells have, and their weights in each draw.

        A value that is not defined in one cell is left out of all.
        """
        rows: set[int] | None = None
        for response, control in cells:
            cell = self.cells.get((response, control))
            if cell is None or cell.values is None:
                raise NotTestable(f"no samples in {response}.{control}")
            rows = set(cell.values.rows) if rows is None else rows & set(cell.values.rows)
        names = " and ".join(".".join(cell) for cell in cells)
        if not rows:
            raise NotTestable(f"{names} share no instruction: unpaired contrasts are refused")
        if len(rows) < MIN_SAMPLES:
            share = "share" if len(cells) > 1 else "has"
            raise NotTestable(f"{names} {share} {len(rows)} samples, fewer than {MIN_SAMPLES}")
        picked = [self.cells[cell].pick(sorted(rows)) for cell in cells]
        values = picked[0].values
        if values.independent < MIN_SAMPLES:
            few = f"{values.independent} instructions, fewer than {MIN_SAMPLES}"
            raise NotTestable(f"{names} have {few}")
        arrays = jointly_defined(*(cell.values.array for cell in picked))
        defined = [
            replace(cell, values=replace(cell.values, array=array))
            for cell, array in zip(picked, arrays, strict=True)
        ]
        return defined, values.weights(self.drawn)

    def _size(self, fast: str, slow: str, sum_loss: bool = False) -> tuple[int, Array, Array]:
        """Logarithm of the ratio of the mean over samples and layers, fast over slow."""
        cells, weights = self._paired((fast, CORRECT), (slow, CORRECT))
        first, second = (_layer_mean(cell.metric(sum_loss)) for cell in cells)
        effect, draws = _with_draws(
            weights, lambda w: _log_ratio(weighted_means(w, first), weighted_means(w, second))
        )
        return len(first), effect, draws

    def _mad(
        self, fast: str, slow: str, sum_loss: bool = False, relative: bool = False
    ) -> tuple[int, Array, Array]:
        """Difference of the MAD of the mean curves, fast minus slow.

        With `relative`, of the curves divided by their own mean over layers.
        """

        def difference(first: Array, second: Array) -> Array:
            if relative:
                first, second = (c / layer_mean(c, 1)[:, None] for c in (first, second))
            return _mad_of(first)["all"] - _mad_of(second)["all"]

        return self._curves(fast, slow, sum_loss, difference)

    def _mad_early(self, fast: str, slow: str, sum_loss: bool = False) -> tuple[int, Array, Array]:
        """Difference of MAD in the early layers, minus its mean in the middle and late ones."""

        def excess(first: Array, second: Array) -> Array:
            one, other = _mad_of(first), _mad_of(second)
            early, middle, late = (one[b] - other[b] for b in ("early", "middle", "late"))
            return early - (middle + late) / 2

        return self._curves(fast, slow, sum_loss, excess)

    def _curves(
        self, fast: str, slow: str, sum_loss: bool, function: Callable[[Array, Array], Array]
    ) -> tuple[int, Array, Array]:
        cells, weights = self._paired((fast, CORRECT), (slow, CORRECT))
        first, second = (cell.metric(sum_loss) for cell in cells)
        effect, draws = _with_draws(
            weights, lambda w: function(weighted_means(w, first), weighted_means(w, second))
        )
        return len(first), effect, draws

    def _length(self, fast: str, slow: str) -> tuple[int, Array, Array]:
        """Logarithm of the ratio of the mean response tokens, fast over slow."""
        cells, weights = self._paired((fast, CORRECT), (slow, CORRECT))
        first, second = (_known_tokens(cell)[:, None] for cell in cells)
        effect, draws = _with_draws(
            weights, lambda w: _log_ratio(weighted_means(w, first), weighted_means(w, second))
        )
        shape = len(self.projections)
        return len(first), np.repeat(effect, shape), np.repeat(draws, shape, axis=1)

    def _regression(
        self, fast: str, slow: str, function: Callable[[Array], Array]
    ) -> tuple[int, Array, Array]:
        """Coefficient of the fast response, the slow one being the base, at equal tokens.

        Least squares of log(value) on indicators of the responses and log(tokens), with one
        intercept an instruction, which centring within instructions takes out. All responses of
        the dataset enter: they tell how values change with length within a response.
        """
        found = {r: self.cells.get((r, CORRECT)) for r in self.responses[1:-1]}
        between = [r for r, cell in found.items() if cell is not None and cell.values is not None]
        responses = [fast, *between, slow]
        cells, weights = self._paired(*((r, CORRECT) for r in responses))
        with np.errstate(divide="ignore"):
            y = np.log(np.stack([function(cell.metric()) for cell in cells], axis=1))
        tokens = np.log(np.stack([_known_tokens(cell) for cell in cells], axis=1))
        if not np.isfinite(y).all():
            raise NotTestable("the metric is not positive, so it has no logarithm")
        samples, count = tokens.shape
        indicators = np.broadcast_to(np.eye(count)[:, :-1], (samples, count, count - 1))
        x = np.concatenate([indicators, tokens[:, :, None]], axis=2)
        x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
        xx, xy = np.swapaxes(x, 1, 2) @ x, np.swapaxes(x, 1, 2) @ y
        if np.linalg.cond(xx.sum(axis=0)) > 1e8:
            raise NotTestable("responses do not vary in length: it cannot be told from thinking")

        def coefficient(w: Array) -> Array:
            sums = (np.tensordot(w, part, axes=1) for part in (xx, xy))
            left, right = sums
            return (np.linalg.pinv(left, hermitian=True) @ right)[:, 0]

        effect, draws = _with_draws(weights, coefficient)
        return samples, effect, draws

    def _levels(self) -> Iterator[Estimate]:
        """Yield the logarithm of the size and of the tokens of each response by itself.

        For contrasts between datasets, whose instructions differ.
        """
        for response in self.responses:
            where = (response, CORRECT, "raw", list(self.projections))
            yield self._attempt("level", *where, lambda r=response: self._level(r))
            yield self._attempt("tokens", *where, lambda r=response: self._log_tokens(r))

    def _level(self, response: str) -> tuple[int, Array, Array]:
        (cell,), weights = self._paired((response, CORRECT))
        values = _layer_mean(cell.metric())
        effect, draws = _with_draws(weights, lambda w: _log(weighted_means(w, values)))
        return len(values), effect, draws

    def _log_tokens(self, response: str) -> tuple[int, Array, Array]:
        (cell,), weights = self._paired((response, CORRECT))
        tokens = np.repeat(_known_tokens(cell)[:, None], len(self.projections), axis=1)
        effect, draws = _with_draws(weights, lambda w: _log(weighted_means(w, tokens)))
        return len(tokens), effect, draws

    # ---------------------------------------------------------------------- correct against wrong

    def _discriminations(self, response: str, control: str) -> Iterator[Estimate]:
        effects: list[tuple[str, list[str | None], Callable[[], tuple[int, Array, Array]]]] = [
            ("metric", list(self.projections), lambda: self._metric(response, control)),
            ("classifier", list(self.projections), lambda: self._classifier(response, control)),
            ("response_tokens", [None], lambda: self._baseline(response, control, _known_tokens)),
            ("loss", [None], lambda: self._baseline(response, control, lambda cell: cell.loss)),
        ]
        for variant, projections, estimate in effects:
            yield self._attempt("auc", response, control, variant, projections, estimate)

    def _metric(self, response: str, control: str) -> tuple[int, Array, Array]:
        (correct, wrong), weights = self._paired((response, CORRECT), (response, control))
        scores = _layer_mean(correct.metric()), _layer_mean(wrong.metric())
        return self._aucs(*scores, weights, f"metric/{response}.{control}")

    def _baseline(
        self, response: str, control: str, score: Callable[[Sampled], Array]
    ) -> tuple[int, Array, Array]:
        (correct, wrong), weights = self._paired((response, CORRECT), (response, control))
        scores = score(correct)[:, None], score(wrong)[:, None]
        return self._aucs(*scores, weights, f"baseline/{response}.{control}")

    def _classifier(self, response: str, control: str) -> tuple[int, Array, Array]:
        (correct, wrong), weights = self._paired((response, CORRECT), (response, control))
        if not all(np.isfinite(cell.metric()).all() for cell in (correct, wrong)):
            raise NotTestable("the metric is not defined for every sample and layer")
        first, second, folds = classifier_scores(
            correct.metric(), wrong.metric(), correct.values.instructions, self.seed
        )
        return self._aucs(first, second, weights, f"classifier/{response}.{control}", folds)

    def _aucs(
        self,
        correct: Array,
        wrong: Array,
        weights: Array,
        name: str,
        folds: NDArray[np.int64] | None = None,
    ) -> tuple[int, Array, Array]:
        """Return the AUC of each projection; `name` makes what is random in it its own."""
        if not (np.isfinite(correct).all() and np.isfinite(wrong).all()):
            raise NotTestable("the score is not defined for every sample")
        projections = range(correct.shape[-1])
        pairs = [(correct[..., p], wrong[..., p]) for p in projections]
        ones, rng = np.ones((1, weights.shape[1])), seeded(self.seed, f"{self.place}/{name}")
        effect = np.array([auc(*pair, ones, folds)[0] for pair in pairs])
        draws = np.stack([auc_draws(*pair, weights, rng, folds) for pair in pairs], axis=1)
        return weights.shape[1], effect, draws

    def _attempt(
        self,
        name: str,
        contrast: str,
        control: str,
        variant: str,
        projections: list[str | None],
        estimate: Callable[[], tuple[int, Array, Array]],
    ) -> Estimate:
        what = (name, contrast, control, variant, list(projections))
        try:
            if name in CONTRASTS and len(self.responses) < 2:
                raise NotTestable(f"the dataset has one response only, {self.responses[0]}")
            samples, effect, draws = estimate()
        except NotTestable as why:
            return Estimate(*what, reason=str(why))
        if np.isnan(effect).all():
            few = "too few layers for bands" if name == "mad_early" else "the metric is not defined"
            return Estimate(*what, reason=few)
        return Estimate(*what, samples, effect, draws)


def _with_draws(weights: Array, function: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Return a function of the weights, shape (draws, ...), for the sample itself and each draw."""
    return function(np.ones((1, weights.shape[1])))[0], function(weights)


def _log_ratio(first: Array, second: Array) -> Array:
    return _log(first) - _log(second)


def _log(values: Array) -> Array:
    """Return the logarithm, NaN of what is not positive."""
    return np.log(np.where(values > 0, values, np.nan))


def _layer_mean(array: Array) -> Array:
    """Return the mean over the layers, shape (samples, projections)."""
    return layer_mean(array, 1)


def _mad_of(curve: Array) -> dict[str, Array]:
    """Return the MAD of curves of one metric, shape (..., layers, projections), in each band."""
    return {band: value[..., 0] for band, value in mad(curve[..., None]).items()}


def _sample_mad(array: Array) -> Array:
    return _mad_of(array)["all"]


def _known_tokens(cell: Sampled) -> Array:
    if not np.isfinite(cell.tokens).all():
        raise NotTestable("response tokens are not known")
    return cell.tokens
