"""Cosines of gradients against those of the full gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from layergrad.models.layouts import find_places
from layergrad.models.random import random_model
from layergrad.spectra.batches import pad
from layergrad.spectra.similarity import Side, _batches, compared, cosines
from tests.unit.test_engine import sample

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
