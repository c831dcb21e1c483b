"""The engine against naive autograd on one tiny model: what it measures, refuses or gets wrong."""

from __future__ import annotations

import contextlib
import copy
import traceback
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from layergrad.errors import UserError
from layergrad.models.encode import Encoded
from layergrad.models.layouts import coverage, find_places
from layergrad.spectra.batches import pad
from layergrad.spectra.extract import bytes_per_token
from layergrad.spectra.measure import _Collector, measure
from tests.zoo.models import tiny_model
from tests.zoo.view import View, expected

ATTENTION, MLP = ["q", "k", "v", "o"], ["gate", "up", "down"]
TOLERANCE = 1e-4
BAD = ("wrong", "crash", "missing")


def sample(tokens: int, start: int) -> Encoded:
    ids = np.random.default_rng(tokens).integers(3, 280, tokens)
    return Encoded(tuple(int(i) for i in ids), start, tokens)


# of very different lengths, so that most of the batch is padding
SAMPLES = [sample(11, 4), sample(37, 12), sample(90, 40)]


@dataclass
class Verdict:
    """What became of the asked projections of a model, why, and how many layers lack some."""

    verdict: str
    message: str = ""
    error: float = 0.0
    projections: list[str] = field(default_factory=list)
    lacking: int = 0


def check_type(
    architecture: str, changes: dict[str, Any] | None = None, attention: str | None = None, **build
) -> dict[str, dict[str, Any]]:
    """Build a tiny model and return the verdicts on its attention and on its MLP."""
    try:
        model = tiny_model(architecture, changes, attention, **build)
        with torch.no_grad():
            model(input_ids=torch.tensor([SAMPLES[0].ids]), use_cache=False)
    except Exception as error:
        verdict = asdict(Verdict("not built", _short(error)))
        return {"attention": verdict, "mlp": verdict}
    mlp = check(model, MLP)
    if mlp.verdict == "refused" and "no projection gate" in mlp.message:
        mlp = check(model, ["up", "down"])
    return {"attention": asdict(check(model, ATTENTION)), "mlp": asdict(mlp)}


def check(model: torch.nn.Module, projections: list[str]) -> Verdict:
    """Compare the engine with autograd on each sample, in float64 unless the model cannot."""
    model = copy.deepcopy(model).requires_grad_(False)
    exact = _float64(model)
    try:
        runs, _ = [], bytes_per_token(exact)  # what a GPU would ask first
        for queued in (False, True):
            used = copy.deepcopy(exact)
            runs.append(_run(used, find_places(used, projections), projections, queued))
    except UserError as error:
        return Verdict("refused", str(error))
    except Exception as error:
        return Verdict("crash", _short(error))
    view = expected(_fresh(exact), torch.tensor([SAMPLES[1].ids]), projections)
    losses, norms = reference(exact, view)
    found = sorted({p for _, p in view}, key=projections.index)
    for results in runs:
        verdict = _compare(results, losses, norms)
        if verdict.verdict != "exact":
            return verdict
    verdict.projections = found
    verdict.lacking = len(coverage(exact, projections).absent)
    return verdict


def reference(model: torch.nn.Module, view: View) -> tuple[list[float], list[dict]]:
    """Return loss and three norms of every gradient, of each sample alone on a fresh model."""
    losses, norms = [], []
    for one in SAMPLES:
        fresh = _fresh(model)
        ids = torch.tensor([one.ids])
        logits = fresh(input_ids=ids, use_cache=False).logits[0, one.start - 1 : -1]
        loss = functional.cross_entropy(logits.double(), ids[0, one.start :])
        loss.backward()
        losses.append(loss.item())
        norms.append({key: _norms_of(fresh, *where) for key, where in view.items()})
    return losses, norms


def _fresh(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy whose weights take gradients, and which remembers nothing."""
    fresh = copy.deepcopy(model)
    for parameter in fresh.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return fresh


def _norms_of(model: torch.nn.Module, name: str, rows: torch.Tensor | None) -> np.ndarray:
    module = model.get_submodule(name)
    gradient = module.weight.grad
    if gradient is None:
        return np.zeros(3)
    gradient = gradient.double().T if isinstance(module, Conv1D) else gradient.double()
    return _norms(torch.linalg.svdvals(gradient if rows is None else gradient[rows]).numpy())


def _norms(values: np.ndarray) -> np.ndarray:
    """Nuclear norm, Frobenius norm and first singular value."""
    values = values.astype(np.float64)
    return np.array([values.sum(), np.sqrt((values**2).sum()), values[0]])


def _compare(results: list, losses: list[float], norms: list[dict]) -> Verdict:
    worst, where = 0.0, ""
    for result, loss, wanted in zip(results, losses, norms, strict=True):
        missing = sorted(set(wanted) - set(result.spectra))
        if missing:
            return Verdict("missing", f"{len(missing)} of {len(wanted)}: {missing[:4]}")
        extra = sorted(set(result.spectra) - set(wanted))
        if extra:
            return Verdict("wrong", f"measured what the model has not: {extra[:4]}")
        scale = max(norm[0] for norm in wanted.values())
        errors = {"loss": abs(result.loss / loss - 1)}
        for key, norm in wanted.items():
            # a gradient that vanishes is compared with the others
            floor = scale if norm[0] < 1e-9 * scale else norm
            errors[str(key)] = float(np.abs((_norms(result.spectra[key]) - norm) / floor).max())
        for key, error in errors.items():
            if not error <= worst:
                worst, where = error, key
    if worst <= TOLERANCE:
        return Verdict("exact", "", worst)
    return Verdict("wrong", f"off by {worst:.1e} at {where}", worst)


def _run(model, places, projections, queued: bool = False) -> list:
    """Measure all samples in one batch, by the CPU's or the GPU's way of solving."""
    batch = pad(SAMPLES, 0, torch.device("cpu"))
    if not queued:
        return measure(model, places, projections, batch)
    original = _Collector._solve_each
    _Collector._solve_each = _Collector._queue
    try:
        return measure(model, places, projections, batch)
    finally:
        _Collector._solve_each = original


def _float64(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model in float64, or as it is if parts of it know float32 only."""
    exact = copy.deepcopy(model).double()
    with contextlib.suppress(Exception):
        exact.set_experts_implementation("eager")  # the fused kernels know no float64
    try:
        with torch.no_grad():
            exact(input_ids=torch.tensor([SAMPLES[0].ids]), use_cache=False)
    except RuntimeError:
        return copy.deepcopy(model)
    return exact


def _short(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno}"
    return f"{type(error).__name__}: {str(error)[:200]} ({place})"
