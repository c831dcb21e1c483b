"""Cosines of gradients against those of the full gradients."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from layergrad.models.fetch import fetch_model
from layergrad.models.layouts import find_places
from layergrad.models.random import random_model
from layergrad.plan import Plan
from layergrad.provenance import write_json
from layergrad.spectra import similarity
from layergrad.spectra.batches import pad
from layergrad.spectra.similarity import Side, _batches, compared, cosines, write_similarity
from layergrad.tables import DATASET, SIMILARITY, read_table, write_table
from tests.unit.test_engine import sample
from tests.unit.test_extraction import rows, study

LIMIT = 60  # tokens of two samples together
SAMPLES = [sample(20, 4), sample(9, 8), sample(37, 12)]


def full_gradients(model, given):
    model = copy.deepcopy(model).double().requires_grad_(True)
    ids = torch.tensor([given.ids])
    logits = model(input_ids=ids, use_cache=False).logits[0]
    functional.cross_entropy(logits[given.start - 1 : -1], ids[0, given.start :]).backward()
    return {
        (i, p): getattr(layer.self_attn, f"{p}_proj").weight.grad.flatten()
        for i, layer in enumerate(model.model.layers)
        for p in "qkvo"
    }


def test_cosines_are_those_of_the_full_gradients():
    model = random_model("llama", {}, seed=1)
    places = find_places(model.requires_grad_(False), list("qkvo"))
    batch, pairs = pad(SAMPLES, 0, torch.device("cpu")), [(0, 1), (1, 2), (2, 2)]
    found = cosines(model, places, list("qkvo"), batch, pairs)
    full = [full_gradients(model, given) for given in SAMPLES]
    for place, values in found.items():
        for (i, j), value in zip(pairs, values, strict=True):
            expected = functional.cosine_similarity(full[i][place], full[j][place], dim=0).item()
            assert value == pytest.approx(expected, abs=1e-4)


def test_what_does_not_fit_in_memory_goes_two_by_two_and_is_null_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = Plan(study(equal_tokens=False))
    samples, receipt = Path("samples.parquet"), plan.model_file("tiny")
    write_table(rows(2), DATASET, samples, {})
    fetch_model(plan.study.model("tiny"), plan.model_key("tiny"), receipt)
    monkeypatch.setattr(similarity, "default_budget", lambda model, device: 10_000)
    write_similarity(plan, "tiny", "letters", receipt, samples, "whole.parquet")
    measure = similarity.cosines

    def small(model, places, projections, batch, pairs):
        if len(batch.lengths) > 2 or sum(batch.lengths) > LIMIT:
            raise torch.OutOfMemoryError("made to fail")
        return measure(model, places, projections, batch, pairs)

    monkeypatch.setattr(similarity, "cosines", small)
    write_similarity(plan, "tiny", "letters", receipt, samples, "small.parquet")
    whole, found = (read_table(f"{n}.parquet", SIMILARITY) for n in ("whole", "small"))
    assert whole["cosine"].null_count() == 0
    lost = found["cosine"].is_null()
    assert 0 < lost.sum() < found.height
    assert found.filter(~lost)["cosine"].to_numpy() == pytest.approx(
        whole.filter(~lost)["cosine"].to_numpy(), abs=1e-4
    )


def test_a_model_that_failed_its_preflight_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = Plan(study())
    write_table(rows(2), DATASET, "samples.parquet", {})
    receipt = plan.model_file("tiny")
    fetch_model(plan.study.model("tiny"), plan.model_key("tiny"), receipt)
    check = {"name": "BOS count", "status": "failed", "detail": "2"}
    write_json({"checks": [check]}, "preflight.json")
    refusal = write_similarity(
        plan, "tiny", "letters", receipt, "samples.parquet", "s.parquet", "preflight.json"
    )
    assert refusal == "BOS count: 2"
    assert read_table("s.parquet", SIMILARITY).is_empty()


def test_correct_responses_are_compared_two_by_two_and_each_with_its_twins():
    sides = [Side(r, c) for r in ("none", "detailed") for c in ("correct", "irrelevant")]
    assert compared(sides) == [
        (sides[0], sides[2]),
        (sides[0], sides[1]),
        (sides[2], sides[3]),
    ]


def test_what_does_not_fit_the_budget_goes_two_by_two():
    sides = [Side("none", "correct"), Side("detailed", "correct"), Side("none", "irrelevant")]
    encoded = dict(zip(sides, SAMPLES, strict=True))
    assert len(list(_batches(encoded, 1000))) == 1
    assert [s for s, _ in _batches(encoded, 50)] == [sides[:2], [sides[0], sides[2]]]
