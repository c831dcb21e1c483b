"""Loss and spectra of every sample of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from layergrad.models.layouts import Place
from layergrad.models.lengths import companies
from layergrad.spectra.capture import Batch, gradient_factors
from layergrad.spectra.factors import reduced_grams, roots, singular_values
from layergrad.spectra.solvers import eigenvalues

# Matrices of one size wait until they fill this much memory and are then solved together: a solver
# call on CUDA is a fixed cost, and what waits is small beside the activations.
PENDING_BYTES = 1 << 30


@dataclass
class Measured:
    """What one sample gives.

    Attributes
    ----------
    loss
        Mean cross-entropy over the response tokens.
    spectra
        (layer, projection) -> singular values, float32, descending, at most
        ``min(tokens, in, out)`` long.
    """

    loss: float
    spectra: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)

    def fault(self) -> str | None:
        """Say what is not finite, None if all is well."""
        if not np.isfinite(self.loss):
            return f"the loss is {self.loss}"
        for (layer, projection), values in self.spectra.items():
            if not np.isfinite(values).all():
                return f"the gradient of {projection} in layer {layer} is not finite"
        return None


def measure(
    model: PreTrainedModel,
    places: list[Place],
    projections: list[str],
    batch: Batch,
    reduction: str = "mean",
) -> list[Measured]:
    """Return loss and spectra of every sample of a batch, in one forward and one backward pass.

    Models that treat samples of other lengths differently take as many passes as they need
    (:func:`layergrad.models.lengths.companies`).

    Parameters
    ----------
    model
        Model with frozen weights.
    places
        Where its projections are; see :func:`layergrad.models.layouts.find_places`.
    projections
        Which of them to measure.
    batch
        Padded samples on the device of the model's embedding.
    reduction
        ``mean`` or ``sum`` of the loss over a sample's response tokens.
    """
    together = companies(model, batch.lengths)
    if len(together) == 1:
        return _measure(model, places, projections, batch, reduction)
    found: dict[int, Measured] = {}
    for rows in together:
        part = _measure(model, places, projections, batch.select(rows), reduction)
        found.update(zip(rows, part, strict=True))
    return [found[row] for row in range(len(batch.lengths))]


def _measure(
    model: PreTrainedModel,
    places: list[Place],
    projections: list[str],
    batch: Batch,
    reduction: str,
) -> list[Measured]:
    collector = _Collector(batch, set(projections))
    losses = gradient_factors(model, places, batch, reduction, collector.receive)
    return collector.finish(losses.tolist())


class _Collector:
    """Takes factors as the backward pass delivers them, and turns them into spectra."""

    def __init__(self, batch: Batch, wanted: set[str]):
        self.lengths, self.wanted = batch.lengths, wanted
        self.spectra: list[dict[tuple[int, str], np.ndarray]] = [{} for _ in batch.lengths]
        self.pending: dict[tuple[torch.device, int], list[tuple[int, str, int, Tensor]]] = {}
        self.pending_bytes = 0

    def receive(
        self, layer: int, names: list[str], inputs: Tensor, gradients: list[Tensor]
    ) -> None:
        kept = [(n, g) for n, g in zip(names, gradients, strict=True) if n in self.wanted]
        names, gradients = [n for n, _ in kept], [g for _, g in kept]
        if inputs.is_cuda:
            self._queue(layer, names, inputs, gradients)
        else:
            self._solve_each(layer, names, inputs, gradients)

    def finish(self, losses: list[float]) -> list[Measured]:
        self._solve_pending()
        return [Measured(loss, s) for loss, s in zip(losses, self.spectra, strict=True)]

    def _solve_each(
        self, layer: int, names: list[str], inputs: Tensor, gradients: list[Tensor]
    ) -> None:
        """On a CPU each sample goes at its own length: no padding is multiplied."""
        for index, length in enumerate(self.lengths):
            parts = [gradient[index, :length] for gradient in gradients]
            values = singular_values(inputs[index, :length], parts)
            for name, row in zip(names, values, strict=True):
                self.spectra[index][layer, name] = row.float().numpy()

    def _queue(self, layer: int, names: list[str], inputs: Tensor, gradients: list[Tensor]) -> None:
        """On CUDA the batch goes at once, and equal sizes of many layers are solved together."""
        tokens, width = inputs.shape[-2:]
        for name, gradient, gram in zip(
            names, gradients, reduced_grams(inputs, gradients), strict=True
        ):
            rank = min(tokens, width, gradient.shape[-1])
            size = (gram.device, gram.shape[-1])
            self.pending.setdefault(size, []).append((layer, name, rank, gram))
            self.pending_bytes += gram.numel() * gram.element_size()
        if self.pending_bytes > PENDING_BYTES:
            self._solve_pending()

    def _solve_pending(self) -> None:
        for entries in self.pending.values():
            solved = eigenvalues(torch.stack([gram for *_, gram in entries]))
            values = roots(solved).float().cpu().numpy()
            for (layer, name, rank, _), rows in zip(entries, values, strict=True):
                for index, length in enumerate(self.lengths):
                    self.spectra[index][layer, name] = rows[index, : min(length, rank)]
        self.pending, self.pending_bytes = {}, 0
