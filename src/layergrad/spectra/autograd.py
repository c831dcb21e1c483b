"""Gradients of weights by autograd alone: what preflight compares the engine with.

Nothing here is shared with the engine. The weights themselves require gradients, the loss is
written out, and which rows of a weight are queries, keys, values or gates is read off the attention
and the activations that the model runs, not off a table of layouts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# A full SVD of 1024 x 1024 takes a second on one core; beyond that the gradient is compressed.
FULL_SIDE = 1024

_SOFTMAX = {torch.softmax, functional.softmax, Tensor.softmax}
_PRODUCT = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
_ACTIVATION = {
    functional.silu,
    functional.gelu,
    functional.relu,
    torch.sigmoid,
    torch.tanh,
    torch.relu,
    Tensor.relu,
}


@dataclass
class Truth:
    """What autograd says of one sample.

    Attributes
    ----------
    loss
        Mean cross-entropy over the response tokens.
    gradients
        Module name -> dL/dW, shape ``(out, in)``; None for a module that has no single weight.
    rows
        Module name -> projection -> which rows of the weight feed it, shape ``(out,)``, bool; for a
        module whose attention or activation was seen.
    """

    loss: float
    gradients: dict[str, Tensor | None]
    rows: dict[str, dict[str, Tensor]]


def true_gradients(
    model: PreTrainedModel, ids: Sequence[int], start: int, reduction: str, names: list[str]
) -> Truth:
    """Return the gradients of the weights of some modules for one sample.

    Parameters
    ----------
    model
        Model with frozen weights; only those of `names` are opened, and frozen again.
    ids, start
        Token ids of the sample, and the first that is in the loss.
    reduction
        ``mean`` or ``sum`` over the tokens in the loss.
    names
        Names of the modules.
    """
    modules = {name: model.get_submodule(name) for name in names}
    weights = {
        name: module.weight
        for name, module in modules.items()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
    }
    tokens = torch.tensor([list(ids)], device=model.get_input_embeddings().weight.device)
    with _requiring_gradients(list(weights.values())), torch.enable_grad():
        with _Watch(model, names, len(ids)) as watch:
            logits = model(input_ids=tokens, use_cache=False).logits[0].double()
        chances = logits.log_softmax(dim=-1)
        losses = [-chances[i - 1, token] for i, token in enumerate(ids) if i >= start]
        total = torch.stack(losses).sum()
        rows = {name: watch.rows(name) for name in weights}
        loss = total / len(losses) if reduction == "mean" else total
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    gradients: dict[str, Tensor | None] = dict.fromkeys(names)
    for (name, weight), gradient in zip(weights.items(), found, strict=True):
        gradient = torch.zeros_like(weight) if gradient is None else gradient
        gradients[name] = gradient.T if isinstance(modules[name], Conv1D) else gradient
    return Truth(total.item() / len(losses), gradients, rows)


def singular_values(gradient: Tensor, rank: int) -> Tensor:
    """Return the first `rank` singular values of a gradient, float64, by a full SVD.

    They are NaN if the gradient is not finite, of which there is no SVD.

    A large gradient of rank `rank`, as one of so many tokens is, is first compressed to an
    orthonormal basis of its columns, which keeps its singular values: the full SVD of a matrix of
    4096 x 4096 takes minutes on one core.
    """
    G = gradient.double()
    if not G.isfinite().all():
        return torch.full((rank,), torch.nan, dtype=G.dtype)
    if min(G.shape) > FULL_SIDE:
        generator = torch.Generator().manual_seed(0)
        mixing = torch.randn(G.shape[1], 2 * rank, dtype=G.dtype, generator=generator)
        basis = torch.linalg.qr(G @ mixing.to(G.device)).Q
        G = basis.T @ G
    return torch.linalg.svdvals(G)[:rank]


@contextmanager
def _requiring_gradients(weights: list[nn.Parameter]) -> Iterator[None]:
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


@dataclass
class _Seen:
    """One tensor that attention or an activation took in, and the modules that were running."""

    kind: str  # q, k, v, gate, or scores: before the softmax
    tensor: Tensor
    running: frozenset[str]


class _Watch(TorchFunctionMode):
    """Sees what goes into attention and activations while the model runs.

    Fused attention is called with queries, keys and values. Eager attention is a product, a softmax
    over scores of T x T and another product, whose second factor are the values; the score of
    position i for position j depends on the query at i and the key at j alone.
    """

    def __init__(self, model: PreTrainedModel, names: list[str], tokens: int):
        super().__init__()
        self.model, self.names, self.tokens = model, names, tokens
        self.seen: list[_Seen] = []
        self.outputs: dict[str, Tensor] = {}
        self._running: list[str] = []
        self._after_softmax = False
        self._handles: list[Any] = []

    def __enter__(self) -> _Watch:
        around = {a for name in self.names for a in self._around(name)}
        for name in around:
            module = self.model.get_submodule(name)
            self._handles += [
                module.register_forward_pre_hook(lambda *_, n=name: self._running.append(n)),
                module.register_forward_hook(lambda *_: self._running.pop() and None),
            ]
        for name in self.names:
            self._handles.append(
                self.model.get_submodule(name).register_forward_hook(
                    lambda _module, _args, output, n=name: self.outputs.update({n: output})
                )
            )
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Run a function of torch and note what it was given, if it is one that matters."""
        given = kwargs or {}
        result = function(*args, **given)
        if not self._running:
            return result
        first = args[0] if args else given.get("input")
        if function is functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | given
            for kind, name in (("q", "query"), ("k", "key"), ("v", "value")):
                self._note(kind, named[name])
        elif function in _SOFTMAX and self._is_square(first):
            self._note("scores", first)
            self._after_softmax = True
        elif function in _PRODUCT and self._after_softmax and self._is_square(first):
            self._note("v", args[1])
            self._after_softmax = False
        elif function in _ACTIVATION:
            self._note("gate", first)
        return result

    def rows(self, name: str) -> dict[str, Tensor]:
        """Return, for each projection that was seen, which rows of a module's weight feed it."""
        output = self.outputs.get(name)
        if not isinstance(output, Tensor) or not output.requires_grad:
            return {}
        found: dict[str, Tensor] = {}
        for seen in self._of(name):
            for kind, rows in _fed(seen, output).items():
                found[kind] = found[kind] | rows if kind in found else rows
        return found

    def _of(self, name: str) -> list[_Seen]:
        """Return what was seen in the nearest module around `name` that contains anything."""
        for kinds in ({"q", "k", "v", "scores"}, {"gate"}):
            for around in self._around(name):
                inside = [s for s in self.seen if around in s.running and s.kind in kinds]
                if any(seen.kind in kinds and _fed(seen, self.outputs[name]) for seen in inside):
                    return inside
        return []

    def _note(self, kind: str, tensor: Tensor) -> None:
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            self.seen.append(_Seen(kind, tensor, frozenset(self._running)))

    def _is_square(self, tensor: Any) -> bool:
        """Say whether a tensor is scores or weights of attention; some have a sink as a column."""
        sides = (self.tokens, self.tokens + 1)
        return (
            isinstance(tensor, Tensor)
            and tensor.ndim >= 3
            and tensor.shape[-2] == self.tokens
            and tensor.shape[-1] in sides
        )

    @staticmethod
    def _around(name: str) -> list[str]:
        """Return the modules around a module, nearest first, up to its layer (``... .3``)."""
        found = []
        while "." in name:
            name = name.rpartition(".")[0]
            found.append(name)
            if name.rpartition(".")[2].isdigit():
                break
        return found


def _fed(seen: _Seen, output: Tensor) -> dict[str, Tensor]:
    """Return which columns of a module's output, bool, what was seen depends on; none: empty."""
    generator = torch.Generator().manual_seed(0)
    target = seen.tensor
    if seen.kind == "scores":
        target = target[..., -1, -2]  # inside any window; of every head
    mixing = torch.randn(target.shape, generator=generator)  # plain sums cancel after a norm
    (gradient,) = torch.autograd.grad(
        (target * mixing.to(target)).sum(), output, retain_graph=True, allow_unused=True
    )
    if gradient is None:
        return {}
    moved = gradient.reshape(-1, output.shape[-1]) != 0
    parts = {seen.kind: moved.any(0)}
    if seen.kind == "scores":
        parts = {"q": moved[-1], "k": moved[-2]}
    return {kind: rows for kind, rows in parts.items() if rows.any()}
