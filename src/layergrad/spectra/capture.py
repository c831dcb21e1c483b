"""The two factors of every projection's gradient, from one forward and one backward pass.

Only activations need gradients: weights are frozen and the embedding's output is where the graph
begins. When the gradients of all projections that share an input have arrived, the factors are
handed on and dropped: at most one such group is alive beside what the backward pass itself keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from layergrad.models.layouts import Place

# (layer, projections, X (batch, T, in), D of each projection (batch, T, out))
Receive = Callable[[int, list[str], Tensor, list[Tensor]], None]


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right to one length.

    Attributes
    ----------
    ids
        Token ids, shape ``(batch, T)``.
    starts, lengths
        First response token and number of tokens of each sample.
    """

    ids: Tensor
    starts: list[int]
    lengths: list[int]


def gradient_factors(
    model: PreTrainedModel, places: list[Place], batch: Batch, reduction: str, receive: Receive
) -> Tensor:
    """Run forward and backward once and hand on the factors of every projection.

    The loss of a sample is the mean or the sum of the cross-entropy over its own response tokens;
    the batch's loss is the sum of those, so no sample's gradient depends on its neighbours. Padding
    comes after a sample's tokens, where causal attention cannot see it, so no mask is needed.

    Returns
    -------
    Tensor
        float64, shape ``(batch,)``: the mean loss of each sample, whatever the reduction.
    """
    sample, position, targets = response_positions(batch)
    device = batch.ids.device
    with _capture(model, places, receive), _logits_at(model, sample, position), torch.enable_grad():
        # no cache: nothing is generated
        logits = model(input_ids=batch.ids, use_cache=False).logits
        losses = functional.cross_entropy(
            logits.float() if logits.dtype == torch.bfloat16 else logits,
            targets.to(logits.device),
            reduction="none",
        )
        counts = torch.bincount(sample, minlength=len(batch.lengths)).to(losses.device)
        sums = losses.new_zeros(len(batch.lengths)).index_add(0, sample.to(losses.device), losses)
        means = sums / counts
        (means if reduction == "mean" else sums).sum().backward()
    return means.detach().double().to(device)


def response_positions(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return sample index, position and target of every predicted response token.

    Each has shape ``(response tokens of the batch,)``; the token at `position` predicts the next.
    """
    spans = list(zip(batch.starts, batch.lengths, strict=True))
    sample = torch.cat([torch.full((end - start,), i) for i, (start, end) in enumerate(spans)])
    position = torch.cat([torch.arange(start - 1, end - 1) for start, end in spans])
    sample, position = sample.to(batch.ids.device), position.to(batch.ids.device)
    return sample, position, batch.ids[sample, position + 1]


@contextmanager
def _logits_at(model: PreTrainedModel, sample: Tensor, position: Tensor) -> Iterator[None]:
    """Let the output layer see the predicting positions only.

    Logits of a large vocabulary at every position cost more memory than the rest of the model.
    What a model does to its logits afterwards (scaling, soft caps) is elementwise.
    """

    def select(_module, args):
        hidden = args[0]
        return (hidden[sample.to(hidden.device), position.to(hidden.device)],)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _capture(model: PreTrainedModel, places: list[Place], receive: Receive) -> Iterator[None]:
    def open_graph(_module, _args, output):
        return output.requires_grad_(True)

    groups: dict[tuple[int, str], _Group] = {}
    for place in places:
        group = groups.setdefault((place.layer, place.group), _Group(place.layer, receive))
        group.places.append(place)
    handles = [model.get_input_embeddings().register_forward_hook(open_graph)]
    handles += [
        place.module.register_forward_hook(groups[place.layer, place.group].hook(place))
        for place in places
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Group:
    """Projections of one layer that share an input; hands on their factors when all are there."""

    def __init__(self, layer: int, receive: Receive):
        self.layer, self.receive = layer, receive
        self.places: list[Place] = []
        self.inputs: Tensor | None = None
        self.gradients: dict[str, Tensor] = {}

    def hook(self, place: Place):
        def on_forward(_module, args, output):
            self.inputs = args[0].detach()
            output.register_hook(lambda gradient: self._arrived(place, gradient))

        return on_forward

    def _arrived(self, place: Place, gradient: Tensor) -> None:
        self.gradients[place.name] = gradient.detach()
        if len(self.gradients) < len(self.places):
            return
        parts: dict[str, Tensor] = {}
        for held in self.places:
            divided = held.divide(self.gradients[held.name])
            parts.update(zip(held.projections, divided, strict=True))
        inputs, self.inputs, self.gradients = self.inputs, None, {}
        self.receive(self.layer, list(parts), inputs, list(parts.values()))
