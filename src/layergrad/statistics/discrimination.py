"""How well gradients tell wrong responses from correct ones, sample by sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FOLDS = 5


def auc(correct: Array, wrong: Array, folds: NDArray[np.int64] | None, weights: Array) -> Array:
    r"""Return the area under the ROC curve, wrong being the positive class.

    :math:`P(s_{wrong} > s_{correct}) + P(s_{wrong} = s_{correct}) / 2` over all pairs of a wrong
    and a correct sample, those of one instruction included.

    Parameters
    ----------
    correct, wrong
        Scores of the correct and the wrong response of each instruction, shape (samples,).
    folds
        Fold of each instruction: scores of different classifiers are not compared. None: all are.
    weights
        How often each draw has each instruction, shape (draws, samples).

    Returns
    -------
    numpy.ndarray
        Shape (draws,).
    """
    wins = (wrong[:, None] > correct[None, :]) + 0.5 * (wrong[:, None] == correct[None, :])
    if folds is None:
        return ((weights @ wins) * weights).sum(axis=1) / weights.sum(axis=1) ** 2
    same = (folds[:, None] == folds[None, :]).astype(float)
    counted = ((weights @ same) * weights).sum(axis=1)
    return ((weights @ (wins * same)) * weights).sum(axis=1) / counted


def auc_draws(
    correct: Array,
    wrong: Array,
    folds: NDArray[np.int64] | None,
    weights: Array,
    rng: np.random.Generator,
) -> Array:
    """Return the AUC in each draw, shape (draws,); see :func:`auc`.

    Where the samples are told apart without an error, every draw is too, and the bootstrap would
    claim certainty from any number of samples: the draws then come from the posterior of a share of
    which n of n were seen, Beta(n + 1/2, 1/2), by `rng`.
    """
    draws = auc(correct, wrong, folds, weights)
    if np.ptp(draws) > 0:
        return draws
    perfect = rng.beta(len(correct) + 0.5, 0.5, len(weights))
    return {1.0: perfect, 0.0: 1 - perfect}.get(float(draws[0]), draws)


def classifier_scores(
    correct: Array, wrong: Array, instructions: list[str], seed: int
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Score each sample by a linear classifier that has not seen its instruction.

    Linear discriminant analysis with Ledoit-Wolf shrinkage, which needs no tuning where layers
    outnumber samples, on the standardised curve over the layers (its logarithm, if all values are
    positive), in five folds of instructions: both responses of one are in the same fold.

    Parameters
    ----------
    correct, wrong
        Metric of the correct and the wrong response, shape (samples, layers, projections).
    instructions
        ``sample_id`` of each sample.
    seed
        Of the folds.

    Returns
    -------
    correct, wrong
        Scores, shape (samples, projections), higher for what looks wrong.
    folds
        Fold of each sample, shape (samples,).
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if (correct > 0).all() and (wrong > 0).all():
        correct, wrong = np.log(correct), np.log(wrong)
    folds = _folds(instructions, seed)
    scores = np.empty((2, correct.shape[0], correct.shape[2]))
    for projection in range(correct.shape[2]):
        for fold in range(folds.max() + 1):
            seen, held = folds != fold, folds == fold
            first, second = correct[..., projection], wrong[..., projection]
            x = np.concatenate([first[seen], second[seen]])
            y = np.repeat([0, 1], seen.sum())
            model = make_pipeline(
                StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            ).fit(x, y)
            scores[0, held, projection] = model.decision_function(first[held])
            scores[1, held, projection] = model.decision_function(second[held])
    # the last bits depend on the linear algebra library, and ties must stay ties
    return *scores.round(9), folds


def _folds(instructions: list[str], seed: int) -> NDArray[np.int64]:
    """Return the fold of each sample: instructions are shuffled and dealt out in turn."""
    unique = sorted(set(instructions))
    order = np.random.default_rng([seed, len(unique)]).permutation(len(unique))
    place = dict(zip(unique, order % min(FOLDS, len(unique)), strict=True))
    return np.array([place[name] for name in instructions])
