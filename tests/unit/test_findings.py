"""Verdicts on simulated studies whose answer is known, and the arithmetic behind them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from layergrad.config import Study
from layergrad.statistics.bootstrap import instruction_of, instruction_weights
from layergrad.statistics.curves import Values
from layergrad.statistics.discrimination import auc, auc_draws, classifier_scores
from layergrad.statistics.effects import Effect, benjamini_hochberg, test
from layergrad.statistics.estimates import Estimate, Estimator, Sampled
from layergrad.statistics.findings import findings
from layergrad.statistics.pair import estimate_rows
from tests.synthetic import tiny_study

test.__test__ = False  # a function of the library, not of this file
LAYERS = 9
DRAWS = 200

# ---------------------------------------------------------------------------------- simulation


def simulate(
    rng: np.random.Generator,
    dataset: str,
    drawn: dict[str, np.ndarray],
    *,
    size: dict[str, float],
    tokens: dict[str, float],
    wrong: dict[str, float] | None = None,
    slope: float = 0.0,
    early: dict[str, float] | None = None,
    spread: float = 0.5,
    noise: float = 0.3,
) -> Estimator:
    """Return the estimator of a pair: log-normal gradients of one projection.

    `size` and `wrong` are logarithms by response, `slope` multiplies the logarithm of the tokens.
    Without `wrong` nothing is told apart, which saves the time of the classifiers.
    """
    names = sorted(drawn)
    shared = rng.normal(0, spread, len(names))
    layer = np.arange(LAYERS)
    cells = {}
    for response, mean in size.items():
        for control in ("correct", "irrelevant"):
            count = tokens[response] * np.exp(rng.normal(0, 0.35, len(names)))
            count = np.maximum(1, count.round())
            excess = (wrong or {}).get(response, 0.0) if control == "irrelevant" else 0.0
            level = mean + shared + slope * np.log(count) + excess
            level = level + rng.normal(0, noise, len(names))
            shape = 1 + (early or {}).get(response, 0.5) * np.exp(-layer) + 0.2 * (-1.0) ** layer
            value = np.exp(level)[:, None] * shape
            value = value * np.exp(rng.normal(0, 0.1, value.shape))
            array = np.stack([value, value * count[:, None]], axis=-1)[:, :, None, :]
            rows = list(range(len(names)))
            values = Values(rows, names, ["q"], ["nuclear_norm", "sum_loss.nuclear_norm"], array)
            cells[response, control] = Sampled(values, count, rng.gamma(4, 0.5, len(names)))
    controls = ["irrelevant"] if wrong is not None else []
    return Estimator(cells, list(size), controls, drawn, ["q"], 0, dataset)


def verdicts(study: Study, estimators: dict[tuple[str, str], Estimator]) -> pl.DataFrame:
    rows = [
        estimate_rows(estimate, *pair)
        for pair, estimator in estimators.items()
        for estimate in estimator.all()
    ]
    return findings(study, pl.concat(rows, how="vertical_relaxed"))


def many(studies: int, samples: int, **effects: object) -> pl.DataFrame:
    """Return the findings of one model on many datasets, each an independent simulation."""
    rng = np.random.default_rng(7)
    datasets = tuple(f"set{i:04}" for i in range(studies))
    study = tiny_study(models=("m",), datasets=datasets, extraction={"projections": ["q"]})
    responses = list(effects["size"])
    specs = [spec.model_copy(update={"responses": responses}) for spec in study.datasets]
    study = study.model_copy(update={"datasets": specs})
    names = [f"{i:04}" for i in range(samples)]
    return verdicts(
        study,
        {
            ("m", name): simulate(rng, name, instruction_weights(names, DRAWS, 0, name), **effects)
            for name in datasets
        },
    )


def share(found: pl.DataFrame, condition: pl.Expr) -> dict[tuple[int, str, str], float]:
    """Return in what share of its rows each test meets a condition: (claim, part, variant)."""
    groups = found.group_by("claim", "part", "variant").agg(share=condition.mean())
    return {tuple(row[:3]): row[3] for row in groups.iter_rows()}


def says(verdict: str) -> pl.Expr:
    return pl.col("verdict") == verdict


TWO = {"none": 0.0, "detailed": 0.0}
TOKENS = {"none": 3, "detailed": 200}


def test_without_an_effect_tests_err_at_the_stated_rate():
    found = many(300, 20, size=TWO, tokens=TOKENS)
    errors = share(found, pl.col("p") < 0.05)
    for name in [
        (1, "size", "raw"),
        (1, "size", "log_tokens"),
        (2, "all", "raw"),
        (2, "all", "log_tokens"),
        (2, "all", "relative"),
        (2, "early", "raw"),
    ]:
        # 5 % stated; three standard deviations of the Monte Carlo error are 3.8 %
        assert errors[name] < 0.09, name
        # and with 300 tests corrected for, next to nothing is claimed
        wrong = share(found, says("supported") | says("contradicted"))
        assert wrong[name] < 0.01, name


def test_gradients_that_tell_nothing_are_not_said_to_tell():
    found = many(36, 20, size=TWO, tokens=TOKENS, wrong={"detailed": 0.0})
    for variant in ("classifier", "metric"):
        # three standard deviations of the Monte Carlo error are 10.9 %
        assert share(found, pl.col("p") < 0.05)[4, "both", variant] < 0.16, variant
        assert share(found, says("supported"))[4, "slow", variant] < 0.02, variant
        assert share(found, says("contradicted"))[4, "fast", variant] < 0.02, variant


def test_known_effects_are_found():
    found = many(
        16,
        40,
        size={"none": 1.0, "detailed": 0.0},
        tokens=TOKENS,
        wrong={"detailed": 2.5},
        early={"none": 3.0, "detailed": 0.5},
    )
    supported, contradicted = (share(found, says(v)) for v in ("supported", "contradicted"))
    for name in [
        (1, "size", "raw"),
        (2, "all", "raw"),
        (2, "early", "raw"),
        (4, "slow", "classifier"),
        (4, "slow", "metric"),
        (4, "both", "metric"),
    ]:
        assert supported[name] > 0.95, name
    # a true effect is never said to be the other way round
    assert all(value == 0 for name, value in contradicted.items() if name[2] != "sum_loss")


def test_opposite_effects_contradict_the_claims():
    found = many(12, 150, size={"none": -1.0, "detailed": 0.0}, tokens=TOKENS, wrong={"none": 2.5})
    contradicted = share(found, says("contradicted"))
    for name in [
        (1, "size", "raw"),
        (2, "all", "raw"),
        (4, "slow", "metric"),
        (4, "fast", "metric"),
        (4, "both", "metric"),
    ]:
        assert contradicted[name] > 0.9, name


def test_a_metric_tells_in_either_direction():
    """Wrong fast responses have smaller gradients, wrong slow ones larger: both tell."""
    wrong = {"none": -2.5, "detailed": 2.5}
    found = many(4, 150, size=TWO, tokens=TOKENS, wrong=wrong)
    assert share(found, says("supported"))[4, "slow", "metric"] == 1
    assert share(found, says("contradicted"))[4, "fast", "metric"] == 1
    both = found.filter(claim=4, part="both", variant="metric")
    assert both["effect"].abs().max() < 0.1
    assert found.filter(pl.col("effect_name") == "AUC")["high"].max() <= 1


def test_length_alone_is_unmasked_by_the_length_controls():
    """Gradients fall with length and thinking has no effect: the raw contrast is confounded."""
    responses = {"none": 0.0, "simplified": 0.0, "detailed": 0.0}
    tokens = {"none": 3, "simplified": 40, "detailed": 200}
    found = many(100, 60, size=responses, tokens=tokens, slope=-0.7)
    assert share(found, says("supported"))[1, "size", "raw"] == 1
    # three standard deviations of the Monte Carlo error are 6.5 %
    assert share(found, pl.col("p") < 0.05)[1, "size", "log_tokens"] < 0.115
    assert share(found, says("contradicted"))[1, "size", "sum_loss"] == 1
    assert set(found.filter(claim=1, variant="raw")["survives"]) == {"no"}


def test_survival_of_a_claim():
    responses = {"none": 6.0, "simplified": 3.0, "detailed": 0.0}
    tokens = {"none": 20, "simplified": 60, "detailed": 100}
    robust = many(1, 80, size=responses, tokens=tokens, slope=-0.2)
    row = robust.filter(claim=1, variant="raw").row(0, named=True)
    assert (row["verdict"], row["survives"]) == ("supported", "yes")
    small = {"none": 1.0, "simplified": 0.5, "detailed": 0.0}
    lost = many(1, 80, size=small, tokens=tokens)
    row = lost.filter(claim=1, variant="raw").row(0, named=True)
    assert (row["verdict"], row["survives"]) == ("supported", "no")
    assert "sum_loss: contradicted" in row["reason"]
    assert "equal_tokens: not testable" in row["reason"]


def test_interval_of_the_regression_covers_the_effect_at_equal_length():
    tokens = {"none": 30, "simplified": 60, "detailed": 120}
    size = {"none": 0.8, "simplified": 0.4, "detailed": 0.0}
    found = many(150, 40, size=size, tokens=tokens, slope=-0.5)
    rows = found.filter(claim=1, variant="log_tokens")
    covered = rows.select((pl.col("low") <= 0.8) & (pl.col("high") >= 0.8)).to_series().mean()
    # 95 % stated; three standard deviations of the Monte Carlo error are 5.3 %
    assert covered > 0.895
    assert rows["effect"].mean() == pytest.approx(0.8, abs=0.05)


# ------------------------------------------------------------------------- models and datasets


def test_base_and_instruct_are_paired_by_family_and_instruction():
    """A small difference between models is seen because both have the same instructions."""
    rng = np.random.default_rng(5)
    study = tiny_study(datasets=("gsm_symbolic", "knowledge"), extraction={"projections": ["q"]})
    estimators = {}
    for dataset in ("gsm_symbolic", "knowledge"):
        names = [f"{i:04}" for i in range(60)]
        drawn = instruction_weights(names, DRAWS, 0, dataset)
        for model, fast in (("tiny-base", 1.0), ("tiny-instruct", 1.4)):
            size = {"none": fast, "detailed": 0.0}
            tokens = TOKENS
            if dataset == "knowledge":
                size = {"len100": 0.1, "len500": 0.0, "len1000": 0.0}
                tokens = {"len100": 90, "len500": 300, "len1000": 600}
            estimators[model, dataset] = simulate(rng, dataset, drawn, size=size, tokens=tokens)
    study = study.model_copy(
        update={
            "datasets": [
                study.datasets[0].model_copy(update={"responses": ["none", "detailed"]}),
                study.datasets[1],
            ]
        }
    )
    found = verdicts(study, estimators)
    third = found.filter(claim=3).row(0, named=True)
    assert (third["model"], third["versus"]) == ("tiny-instruct", "tiny-base")
    assert third["effect"] == pytest.approx(0.4, abs=0.15)
    assert third["verdict"] == "supported"
    sixth = found.filter(claim=6, variant="raw", model="tiny-base").row(0, named=True)
    assert sixth["effect"] == pytest.approx(0.9, abs=0.15)
    assert (sixth["verdict"], sixth["versus"]) == ("supported", "gsm_symbolic")
    # per log token: 1 / ln(200 / 3) against 0.1 / ln(600 / 90)
    sixth = found.filter(claim=6, variant="per_log_token", model="tiny-base").row(0, named=True)
    assert sixth["effect"] == pytest.approx(1 / np.log(200 / 3) - 0.1 / np.log(600 / 90), abs=0.06)


def test_one_set_in_several_lengths_is_contrasted_unpaired():
    """The paper's wiki sets have other instructions at each length."""
    rng = np.random.default_rng(6)
    sets = {"wiki_100": ("len100", 100, 0.3), "wiki_500": ("len500", 500, 0.1)}
    sets["wiki_1000"] = ("len1000", 1000, 0.0)
    study = tiny_study(
        models=("m",),
        datasets=("gsm_symbolic", "wiki_500", "wiki_1000", "wiki_100"),
        extraction={"projections": ["q"]},
    )
    specs = [study.datasets[0].model_copy(update={"responses": ["none", "detailed"]})]
    for spec in study.datasets[1:]:
        update = {"responses": [sets[spec.name][0]], "task": "knowledge"}
        specs.append(spec.model_copy(update=update))
    study = study.model_copy(update={"datasets": specs})
    estimators = {}
    for spec in specs:
        names = [f"{spec.name}{i:04}" for i in range(150)]
        drawn = instruction_weights(names, DRAWS, 0, spec.name)
        size, tokens = {"none": 1.0, "detailed": 0.0}, TOKENS
        if spec.name in sets:
            response, count, level = sets[spec.name]
            size, tokens = {response: level}, {response: count}
        effects = {"size": size, "tokens": tokens, "spread": 0.2}
        estimators["m", spec.name] = simulate(rng, spec.name, drawn, **effects)
    found = verdicts(study, estimators).filter(claim=6)
    assert found.height == 2
    raw = found.filter(variant="raw").row(0, named=True)
    assert (raw["dataset"], raw["contrast"]) == ("wiki_100", "len100/len1000")
    assert raw["effect"] == pytest.approx(1 - 0.3, abs=0.12)
    assert raw["verdict"] == "supported"
    assert "unpaired: wiki_100 and wiki_1000 have other instructions" in raw["reason"]
    each = found.filter(variant="per_log_token").row(0, named=True)
    assert each["effect"] == pytest.approx(1 / np.log(200 / 3) - 0.3 / np.log(10), abs=0.06)


def test_claim_6_names_the_datasets_that_it_used():
    study = tiny_study(
        models=("m",),
        datasets=("gsm_symbolic", "other", "knowledge"),
        extraction={"projections": ["q"]},
    )
    responses = {"gsm_symbolic": ["none", "detailed"], "other": ["none"]}
    specs = [
        spec.model_copy(update={"responses": responses.get(spec.name, ["len100", "len1000"])})
        for spec in study.datasets
    ]
    study = study.model_copy(update={"datasets": specs})
    rng, names = np.random.default_rng(2), [f"{i:04}" for i in range(20)]
    estimators = {}
    for spec in specs:
        effects = {"size": dict(zip(spec.responses, (1.0, 0.0), strict=False))}
        effects["tokens"] = dict.fromkeys(spec.responses, 50)
        drawn = instruction_weights(names, DRAWS, 0, spec.name)
        estimators["m", spec.name] = simulate(rng, spec.name, drawn, **effects)
    row = verdicts(study, estimators).filter(claim=6, variant="raw").row(0, named=True)
    assert row["versus"] == "gsm_symbolic"
    assert "without other: the dataset has one response only" in row["reason"]


def empty_estimates(study: Study) -> pl.DataFrame:
    return estimate_rows(
        Estimate("size", "none/detailed", "correct", "raw", ["q"], reason="no samples"),
        study.models[0].name,
        study.datasets[0].name,
    )


def test_what_cannot_be_tested_says_why():
    study = tiny_study(models=("a-instruct",), datasets=("gsm_symbolic",))
    found = findings(study, empty_estimates(study))
    assert set(found["claim"]) == {1, 2, 3, 4, 5, 6}
    assert set(found["verdict"]) == {"not testable"}
    reasons = {claim: found.filter(claim=claim)["reason"][0] for claim in (3, 5, 6)}
    assert reasons[3] == reasons[5] == "no base model of family tiny in the study"
    assert reasons[6] == "no knowledge dataset in the study"
    knowledge = tiny_study(models=("a-instruct",), datasets=("knowledge",))
    found = findings(knowledge, empty_estimates(knowledge))
    assert found.filter(claim=1)["reason"][0] == "no reasoning dataset in the study"
    assert found.filter(claim=6)["reason"][0] == "no reasoning dataset in the study"


def test_models_that_differ_in_more_than_tuning_are_labelled():
    study = tiny_study()
    other = study.models[1].model_copy(update={"chat": True})
    study = study.model_copy(update={"models": [study.models[0], other]})
    rng = np.random.default_rng(0)
    names = [f"{i:04}" for i in range(10)]
    drawn = instruction_weights(names, DRAWS, 0, "gsm_symbolic")
    size = {"none": 1.0, "simplified": 0.5, "detailed": 0.0}
    tokens = {"none": 3, "simplified": 40, "detailed": 200}
    estimators = {
        (m.name, "gsm_symbolic"): simulate(rng, "gsm_symbolic", drawn, size=size, tokens=tokens)
        for m in study.models
    }
    found = verdicts(study, estimators)
    tested = found.filter(claim=3, dataset="gsm_symbolic", projection="q")
    assert "the models also differ in chat" in tested["reason"][0]


def estimates_of(estimator: Estimator) -> dict[tuple, Estimate]:
    return {(e.name, e.contrast, e.variant): e for e in estimator.all()}


def small_estimator(samples: int = 8) -> Estimator:
    drawn = instruction_weights([f"{i:04}" for i in range(samples)], DRAWS, 0, "x")
    return simulate(np.random.default_rng(0), "x", drawn, size=TWO, tokens=TOKENS)


def test_unpaired_and_small_contrasts_are_refused():
    estimator = small_estimator()
    fast = estimator.cells["none", "correct"]
    estimator.cells["none", "correct"] = fast.pick([0, 1, 2, 3])
    found = estimates_of(estimator)["size", "none/detailed", "raw"]
    assert found.effect is None
    assert "share 4 samples, fewer than 5" in found.reason
    slow = estimator.cells["detailed", "correct"]
    estimator.cells["detailed", "correct"] = slow.pick([4, 5, 6, 7])
    found = estimates_of(estimator)["size", "none/detailed", "raw"]
    assert "unpaired contrasts are refused" in found.reason


def test_responses_cut_to_equal_length_are_used_where_they_are():
    estimator = small_estimator()
    missing = estimates_of(estimator)["size", "none/detailed", "equal_tokens"]
    assert "no responses cut to equal token counts" in missing.reason
    for response in ("none", "detailed"):
        estimator.cells[f"{response}_cut", "correct"] = estimator.cells["none", "correct"]
    found = estimates_of(estimator)["size", "none/detailed", "equal_tokens"]
    assert found.effect == pytest.approx([0.0])


def test_sum_loss_is_the_mean_loss_times_tokens():
    estimator = small_estimator()
    found = estimates_of(estimator)
    cells = [estimator.cells[r, "correct"] for r in ("none", "detailed")]
    means = [(c.metric()[:, :, 0].mean(1) * c.tokens).mean() for c in cells]
    expected = np.log(means[0] / means[1])
    assert found["size", "none/detailed", "sum_loss"].effect == pytest.approx([expected])


# -------------------------------------------------------------------------------- the arithmetic


def test_auc_by_hand():
    correct, wrong = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 0.0])
    ones = np.ones((1, 3))
    # wins of wrong over correct: 2 > 1, 2 = 2, 4 > 1, 4 > 2, 4 > 3
    assert auc(correct, wrong, ones)[0] == pytest.approx(4.5 / 9)
    # within folds {0, 1} and {2}: 2 > 1, 2 = 2, 4 > 1, 4 > 2; 0 < 3
    assert auc(correct, wrong, ones, np.array([0, 0, 1]))[0] == pytest.approx(3.5 / 5)
    # an instruction that is drawn twice counts as two
    twice = auc(np.array([1.0, 1, 2]), np.array([2.0, 2, 4]), ones)
    assert auc(correct[:2], wrong[:2], np.array([[2.0, 1.0]]))[0] == pytest.approx(twice[0])


def test_auc_agrees_with_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    correct, wrong = rng.normal(0, 1, 30).round(1), rng.normal(0.5, 1, 30).round(1)
    expected = roc_auc_score(np.repeat([0, 1], 30), np.concatenate([correct, wrong]))
    assert auc(correct, wrong, np.ones((1, 30)))[0] == pytest.approx(expected)


def test_perfect_separation_is_not_certainty():
    drawn = instruction_weights([f"{i}" for i in range(6)], 2000, 0, "x")
    weights = np.stack(list(drawn.values()), axis=1)
    rng = np.random.default_rng(0)
    draws = auc_draws(np.zeros(6), np.ones(6), weights, rng)
    assert 0.88 < draws.mean() < 0.96
    assert draws.std() > 0.03


def test_two_perfect_scores_do_not_prove_each_other_equal():
    estimator = small_estimator()
    for response in ("none", "detailed"):
        correct = estimator.cells[response, "correct"]
        values = replace(correct.values, array=correct.values.array * 1e6)
        estimator.cells[response, "irrelevant"] = replace(correct, values=values)
    estimator = replace(estimator, wrong=["irrelevant"])
    fast, slow = (
        next(e for e in estimator.all() if (e.name, e.contrast, e.variant) == name)
        for name in (("auc", "none", "metric"), ("auc", "detailed", "metric"))
    )
    assert fast.effect == slow.effect == [1.0]
    difference = slow.draws - fast.draws
    assert difference.std() > 0.01


def test_values_that_are_not_defined_leave_the_pair_out():
    """Without its smallest samples the mean of one side alone would rise."""
    estimator = small_estimator()
    fast, slow = (estimator.cells[r, "correct"] for r in ("none", "detailed"))
    array = fast.values.array.copy()
    array[:3] = np.nan
    estimator.cells["none", "correct"] = replace(fast, values=replace(fast.values, array=array))
    found = estimates_of(estimator)["size", "none/detailed", "raw"]
    means = [np.log(cell.values.array[3:, ..., 0].mean()) for cell in (fast, slow)]
    assert found.effect == pytest.approx([means[0] - means[1]])


def test_an_instruction_that_is_repeated_counts_once():
    ids = pl.DataFrame({"id": ["a1", "a1-2", "b2", "a1-13"]})
    assert ids.select(instruction_of(pl.col("id"))).to_series().to_list() == [
        "a1",
        "a1",
        "b2",
        "a1",
    ]
    estimator = small_estimator()
    for key, cell in estimator.cells.items():
        values = replace(cell.values, instructions=["0000"] * 4 + ["0001"] * 4)
        estimator.cells[key] = replace(cell, values=values)
    found = estimates_of(estimator)["size", "none/detailed", "raw"]
    assert "have 2 instructions, fewer than 5" in found.reason


def test_classifier_never_sees_the_instruction_it_scores():
    """Labels at random, but both responses of an instruction alike: leaks would show as skill."""
    rng = np.random.default_rng(1)
    scores = []
    for _ in range(10):
        both = rng.gamma(2, 1, (20, LAYERS, 1))
        names = [f"{i}" for i in range(20)]
        correct, wrong, folds = classifier_scores(both, both, names, 0)
        assert folds.shape == (5, 20)
        assert folds.max() == 4
        scores.append(auc(correct[..., 0], wrong[..., 0], np.ones((1, 20)), folds)[0])
    assert np.mean(scores) == pytest.approx(0.5, abs=1e-12)
    twins = [f"{i // 2}" for i in range(20)]
    folds = classifier_scores(both, both, twins, 0)[2]
    assert (folds[:, ::2] == folds[:, 1::2]).all()


def test_classifier_uses_the_shape_of_the_curve():
    """Wrong responses have the same mean over layers, but another slope: only the curve tells."""
    rng = np.random.default_rng(2)
    tilt = np.exp(np.linspace(-0.5, 0.5, LAYERS))
    noise = np.exp(rng.normal(0, 0.3, (2, 60, LAYERS, 1)))
    correct, wrong = noise[0] / tilt[:, None], noise[1] * tilt[:, None]
    first, second, folds = classifier_scores(correct, wrong, [f"{i}" for i in range(60)], 0)
    ones = np.ones((1, 60))
    assert auc(first[..., 0], second[..., 0], ones, folds)[0] > 0.9
    assert abs(auc(correct.mean((1, 2)), wrong.mean((1, 2)), ones)[0] - 0.5) < 0.15


def test_effects_without_variation_prove_nothing():
    assert test(Effect(0.3, 10, np.full(50, 0.3)), 0.0, 0.95) == (0.3, 0.3, 1.0)


def test_benjamini_hochberg_by_hand():
    found = benjamini_hochberg(np.array([0.01, 0.04, 0.03, 0.5]))
    assert found == pytest.approx([0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.5])


def test_false_discoveries_among_many_tests_stay_rare():
    """Twenty projections without an effect in each of 40 studies: few studies claim anything."""
    rng = np.random.default_rng(9)
    claimed = 0
    for _ in range(40):
        p = [
            test(Effect(0.0, 500, rng.normal(0, 1, 400)), x, 0.95)[2] for x in rng.normal(0, 1, 20)
        ]
        claimed += (benjamini_hochberg(np.array(p)) < 0.05).any()
    assert claimed / 40 < 0.16
