"""The two factors of every projection's gradient, from one forward and one backward pass.

Only activations need gradients: weights are frozen and the embedding's output is where the graph
begins. When the gradients of all projections that share an input have arrived, the factors are
handed on and dropped: at most one such group is alive beside what the backward pass itself keeps.

Hooks see what a model does, not what its modules are called. So whatever would make a factor wrong
or missing without a word is refused here, by the name of the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from layergrad.errors import UserError
from layergrad.models.layouts import Place
from layergrad.models.lengths import companies, forget

# Where tokens see only earlier ones, the gradient at the last token of a sample is zero; this part
# of the gradient at the first predicting token is rounding.
INFLUENCE = 1e-5

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

    def select(self, rows: list[int]) -> Batch:
        """Return some of the samples, padded to the longest of them."""
        lengths = [self.lengths[row] for row in rows]
        return replace(
            self,
            ids=self.ids[rows, : max(lengths)],
            starts=[self.starts[row] for row in rows],
            lengths=lengths,
        )


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

    Raises
    ------
    UserError
        If some place did not arrive exactly once, or its factors are not what they seem: a module
        that is called twice, an input changed in place, axes that are not samples and tokens,
        attention to later tokens, or samples that cannot share a batch
        (:func:`layergrad.models.lengths.companies`).
    """
    if len(companies(model, batch.lengths)) > 1:
        raise UserError(
            f"{type(model).__name__} treats samples of {min(batch.lengths)} and of "
            f"{max(batch.lengths)} tokens differently: they cannot share a batch"
        )
    forget(model)
    sample, position, targets = response_positions(batch)
    device = batch.ids.device
    with (
        _capture(model, places, batch, receive),
        _logits_at(model, sample, position),
        torch.enable_grad(),
    ):
        # no cache: nothing is generated
        logits = model(input_ids=batch.ids, use_cache=False).logits
        if logits.shape[:-1] != targets.shape:
            raise UserError(
                f"{type(model).__name__} does not make its logits with its output layer alone: "
                f"they have shape {tuple(logits.shape)} for {len(targets)} predicted tokens"
            )
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


def padded_factors(
    model: PreTrainedModel, places: list[Place], batch: Batch, receive: Receive
) -> None:
    """Hand on the factors of a batch, also if its samples cannot share a pass.

    Then each sample goes alone and all factors are kept until the last, so this is for few samples.
    The loss is the mean.
    """
    if len(companies(model, batch.lengths)) == 1:
        gradient_factors(model, places, batch, "mean", receive)
        return
    kept: dict[tuple[int, tuple[str, ...]], list[tuple[Tensor, list[Tensor]]]] = {}

    def keep(layer: int, names: list[str], inputs: Tensor, gradients: list[Tensor]) -> None:
        factors = inputs[0], [gradient[0] for gradient in gradients]
        kept.setdefault((layer, tuple(names)), []).append(factors)

    for row in range(len(batch.lengths)):
        gradient_factors(model, places, batch.select([row]), "mean", keep)
    for (layer, names), factors in kept.items():
        inputs = pad_sequence([X for X, _ in factors], batch_first=True)
        gradients = [
            pad_sequence(list(D), batch_first=True)
            for D in zip(*(gradients for _, gradients in factors), strict=True)
        ]
        receive(layer, list(names), inputs, gradients)


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

    head = model.get_output_embeddings()
    if head is None:
        raise UserError(f"{type(model).__name__} has no output layer over its vocabulary")
    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _capture(
    model: PreTrainedModel, places: list[Place], batch: Batch, receive: Receive
) -> Iterator[None]:
    """Capture the factors of places, and refuse the pass if one of them did not arrive once."""

    def open_graph(_module, _args, output):
        # a copy, since some models go on to scale their embeddings in place
        return output.requires_grad_(True).clone()

    groups: dict[tuple[int, str], _Group] = {}
    for place in places:
        key = place.layer, place.group
        groups.setdefault(key, _Group(place.layer, batch, receive)).places.append(place)
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
    _refuse_missing(model, [place for group in groups.values() for place in group.missing()])
    _refuse_later_tokens(list(groups.values()))


class _Group:
    """Projections of one layer that arrive together; hands on their factors when all are there.

    Those that read one and the same tensor are handed on in one call, others in calls of their own.
    """

    def __init__(self, layer: int, batch: Batch, receive: Receive):
        self.layer, self.batch, self.receive = layer, batch, receive
        device = batch.ids.device
        self.rows = torch.arange(len(batch.lengths), device=device)
        self.last = torch.tensor(batch.lengths, device=device) - 1
        self.first = torch.tensor(batch.starts, device=device) - 1
        self.places: list[Place] = []
        self.inputs: dict[str, tuple[Tensor, int]] = {}
        self.gradients: dict[str, Tensor] = {}
        self.called: set[str] = set()
        self.arrived: set[str] = set()
        self.later: dict[str, Tensor] = {}

    def hook(self, place: Place):
        def on_forward(_module, args, output):
            if not args or not isinstance(args[0], Tensor) or not isinstance(output, Tensor):
                raise UserError(f"{place.name} does not turn one tensor into one tensor")
            if place.name in self.called:
                raise UserError(
                    f"{place.name} is called more than once in a forward pass: the gradient of its "
                    "weight is a sum over the calls, which is not covered"
                )
            self.called.add(place.name)
            # detached tensors share the counter of changes in place
            self.inputs[place.name] = (args[0].detach(), args[0]._version)
            if output.requires_grad:
                output.register_hook(lambda gradient: self._arrived(place, gradient))

        return on_forward

    def missing(self) -> list[Place]:
        """Return the places whose gradient did not arrive."""
        return [place for place in self.places if place.name not in self.arrived]

    def _arrived(self, place: Place, gradient: Tensor) -> None:
        if place.name in self.arrived:
            raise UserError(f"{place.name}: its gradient arrived twice in a backward pass")
        self.arrived.add(place.name)
        self.gradients[place.name] = self._by_token(place, gradient.detach())
        if len(self.gradients) < len(self.places):
            return
        gradients, inputs = self.gradients, self.inputs
        self.gradients, self.inputs = {}, {}
        for sharing in self._by_input(inputs):
            parts: dict[str, Tensor] = {}
            for held in sharing:
                divided = held.divide(gradients[held.name])
                parts.update(zip(held.projections, divided, strict=True))
                self.later[held.name] = self._of_last_tokens(gradients[held.name])
            X = self._by_token(sharing[0], inputs[sharing[0].name][0])
            self.receive(self.layer, list(parts), X, list(parts.values()))

    def _by_input(self, inputs: dict[str, tuple[Tensor, int]]) -> list[list[Place]]:
        """Sort the places by what they read: all inputs are alive, so equal memory is equal."""
        together: dict[tuple, list[Place]] = {}
        for place in self.places:
            X, version = inputs[place.name]
            if X._version != version:
                raise UserError(
                    f"{place.name}: its input was changed in place after it was read, so its "
                    "gradient cannot be known"
                )
            key = (X.data_ptr(), X.shape, X.stride(), X.dtype)
            together.setdefault(key, []).append(place)
        return list(together.values())

    def _by_token(self, place: Place, factor: Tensor) -> Tensor:
        """Return a factor as (batch, T, width); some modules see (batch * T, width), or more."""
        batch, tokens = self.batch.ids.shape
        axes = [size for size in factor.shape[:-1] if size != 1]
        if axes not in ([n for n in (batch, tokens) if n != 1], [batch * tokens]):
            raise UserError(
                f"{place.name}: its input or output has shape {tuple(factor.shape)} for {batch} "
                f"samples of {tokens} tokens: what belongs to which token cannot be known"
            )
        return factor.reshape(batch, tokens, factor.shape[-1])

    def _of_last_tokens(self, gradient: Tensor) -> Tensor:
        """Return how large the gradient is at the last tokens, relative to the first predicting.

        A scalar on the gradient's device, so that nothing waits for it.
        """
        sizes = [
            gradient[self.rows.to(gradient.device), where.to(gradient.device)].abs().amax()
            for where in (self.last, self.first)
        ]
        return sizes[0] / sizes[1]


def _refuse_missing(model: PreTrainedModel, missing: list[Place]) -> None:
    if not missing:
        return
    own = set(model.modules())
    if any(place.module not in own for place in missing):
        raise UserError(
            f"{missing[0].name} belongs to another model object than the one that was given"
        )
    named = ", ".join(place.name for place in missing[:4]) + (", ..." if missing[4:] else "")
    raise UserError(
        f"{len(missing)} modules were not called, or did not contribute to the loss: {named}. "
        "Their projections would be missing from the spectra"
    )


def _refuse_later_tokens(groups: list[_Group]) -> None:
    """Refuse attention to later tokens.

    Nothing is predicted from the last token of a sample, so where tokens see only earlier ones its
    gradient is zero in every layer. One comparison at the end, since each waits for the device.
    """
    names, values = [], []
    for group in groups:
        names += list(group.later)
        values += list(group.later.values())
    shares = [value.to(values[0].device).float() for value in values]
    found = torch.stack(shares).tolist() if shares else []
    seen = [name for name, value in zip(names, found, strict=True) if value > INFLUENCE]
    if seen:
        raise UserError(
            f"{seen[0]}: the last token of a sample influences earlier predictions: tokens attend "
            "to later ones, so the loss of a next token is not defined for this model"
        )
