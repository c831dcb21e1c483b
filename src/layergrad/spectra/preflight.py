"""Checks of one model on a few real samples, before its cells are measured.

Each check compares the engine with something that does not share its code path, or a sample with
itself in other company. A check that fails stops the model's cells: numbers that depend on padding
or that disagree with a full SVD must not reach a table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from layergrad.models.encode import Encoded, Encoder, SampleError
from layergrad.models.layouts import find_places
from layergrad.spectra.batches import pad
from layergrad.spectra.capture import gradient_factors
from layergrad.spectra.measure import measure

# Largest relative difference of a nuclear norm between batch size 1 and a padded batch. In bfloat16
# another batch shape takes other kernels, which round differently.
INVARIANCE = {"float64": 1e-8, "float32": 1e-3, "bfloat16": 1e-1}
# Largest relative difference of a nuclear norm between the factored way and a full SVD in float64
# of the product of the same factors.
AGREEMENT = 1e-4


@dataclass(frozen=True)
class Check:
    """Outcome of one check: `status` is ``passed``, ``failed`` or ``noted`` (told, not judged)."""

    name: str
    status: str
    detail: str
    value: float | None = None
    limit: float | None = None


def run_checks(
    model: PreTrainedModel,
    encoder: Encoder,
    rows: list[tuple[str, str]],
    settings: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return the outcome of every check.

    Parameters
    ----------
    model
        The loaded model.
    encoder
        Writes samples as tokens for it.
    rows
        (instruction, response) of a few samples.
    settings
        ``dtype`` and ``attention`` that were asked for, ``projections`` and ``reduction``.
    """
    encoded, texts = _encode(encoder, rows)
    if not encoded:
        detail = "none of the samples could be written as tokens"
        return [asdict(Check("samples", "failed", detail))]
    checks = [
        bos_count(encoder, encoded[0]),
        response_boundary(encoder, encoded, texts),
        precision(model, settings),
        invariance(model, encoded, settings),
        full_svd(model, min(encoded, key=lambda sample: len(sample.ids)), settings),
    ]
    return [asdict(check) for check in checks]


def _encode(encoder: Encoder, rows: list[tuple[str, str]]) -> tuple[list[Encoded], list[str]]:
    encoded, texts = [], []
    for instruction, response in rows:
        try:
            encoded.append(encoder.encode(instruction, response))
        except SampleError:
            continue  # the extraction records it as a failure of its own
        texts.append(response)
    return encoded, texts


def bos_count(encoder: Encoder, sample: Encoded) -> Check:
    """Count the BOS that begin a sample; the paper's protocol has two where a template adds one."""
    bos = encoder.tokenizer.bos_token_id
    count = next((i for i, token in enumerate(sample.ids) if token != bos), len(sample.ids))
    wanted = "a tokenizer without BOS" if bos is None else f"BOS is {encoder.tokenizer.bos_token!r}"
    detail = f"{count} at the start of a sample ({wanted})"
    if count <= 1:
        return Check("BOS count", "passed", detail, count, 1)
    status = "noted" if encoder.protocol == "paper" else "failed"
    return Check("BOS count", status, detail, count, 1)


def response_boundary(encoder: Encoder, samples: list[Encoded], texts: list[str]) -> Check:
    """Decode the supervised tokens and compare them with the response."""
    wrong, compared = [], 0
    for sample, text in zip(samples, texts, strict=True):
        if encoder.cut is not None or len(sample.ids) < sample.full_length:
            continue  # cut on purpose
        compared += 1
        supervised = encoder.tokenizer.decode(
            sample.ids[sample.start :], clean_up_tokenization_spaces=False
        )
        # sentencepiece writes the space before a word into its token
        if supervised.removeprefix(" ") != text.removeprefix(" "):
            wrong.append(f"{supervised[:40]!r} instead of {text[:40]!r}")
    if not compared:
        return Check("response boundary", "noted", "not compared: every response is cut", 0)
    if not wrong:
        return Check("response boundary", "passed", f"{compared} responses decoded exactly", 0)
    status = "noted" if encoder.protocol == "paper" else "failed"
    detail = f"{len(wrong)} of {compared} differ; the loss is over {wrong[0]}"
    return Check("response boundary", status, detail, len(wrong), 0)


def precision(model: PreTrainedModel, settings: dict[str, Any]) -> Check:
    """Compare the precision and the attention in use with those that were asked for."""
    used = (str(model.dtype).removeprefix("torch."), model.config._attn_implementation)
    asked = (settings["dtype"], settings["attention"])
    detail = f"{used[0]}, {used[1]} attention, TF32 {torch.backends.cuda.matmul.allow_tf32}"
    if used == asked:
        return Check("precision", "passed", detail)
    return Check("precision", "failed", f"{detail}; asked for {asked[0]}, {asked[1]}")


def invariance(model: PreTrainedModel, samples: list[Encoded], settings: dict[str, Any]) -> Check:
    """Compare the nuclear norms of a sample alone and padded to the length of others."""
    device = model.get_input_embeddings().weight.device
    projections, reduction = settings["projections"], settings["reduction"]
    places = find_places(model, projections)
    ordered = sorted(samples, key=lambda sample: len(sample.ids))
    shorter = ordered[: max(len(ordered) * 2 // 3, 3)]  # the longest would cost most of a minute
    chosen = [shorter[0], shorter[len(shorter) // 2], shorter[-1]]
    together = measure(model, places, projections, pad(chosen, 0, device), reduction)[0]
    alone = measure(model, places, projections, pad(chosen[:1], 0, device), reduction)[0]
    differences = [
        abs(values.sum() / together.spectra[place].sum() - 1)
        for place, values in alone.spectra.items()
        if values.sum() != 0  # what is not a number stays in, and fails
    ]
    worst = float(np.max(differences, initial=0.0))
    limit = INVARIANCE[settings["dtype"]]
    detail = (
        f"nuclear norms of a sample of {len(chosen[0].ids)} tokens, alone and in a batch padded to "
        f"{len(chosen[-1].ids)}, differ by {worst:.1e} at most"
    )
    fine = np.isfinite(worst) and worst < limit
    return Check("padding and batch", "passed" if fine else "failed", detail, worst, limit)


def full_svd(model: PreTrainedModel, sample: Encoded, settings: dict[str, Any]) -> Check:
    """Compare the factored spectra with full SVDs of D^T X, in the first, middle and last layer."""
    device = model.get_input_embeddings().weight.device
    projections = settings["projections"]
    places = find_places(model, projections)
    layers = sorted({place.layer for place in places})
    chosen = {layers[0], layers[len(layers) // 2], layers[-1]}
    exact: dict[tuple[int, str], float] = {}

    def receive(layer: int, names: list[str], inputs: Tensor, gradients: list[Tensor]) -> None:
        for name, gradient in zip(names, gradients, strict=True):
            if layer in chosen and name in projections:
                product = gradient[0].double().T @ inputs[0].double()
                finite = bool(product.isfinite().all())  # an SVD of anything else would raise
                norm = torch.linalg.svdvals(product).sum().item() if finite else np.nan
                exact[layer, name] = norm

    batch = pad([sample], 0, device)
    gradient_factors(model, places, batch, settings["reduction"], receive)
    found = measure(model, places, projections, batch, settings["reduction"])[0].spectra
    differences = [abs(found[p].sum() / norm - 1) for p, norm in exact.items() if norm != 0]
    worst = float(np.max(differences, initial=0.0))
    detail = (
        f"nuclear norms of {len(exact)} gradients of a sample of {len(sample.ids)} tokens agree "
        f"with full SVDs to {worst:.1e}"
    )
    fine = np.isfinite(worst) and worst < AGREEMENT
    return Check(
        "factored against full SVD", "passed" if fine else "failed", detail, worst, AGREEMENT
    )
