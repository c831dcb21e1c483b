"""Models whose treatment of a sample depends on how long it is, or was before.

Nearly every causal model treats a sample alike alone and padded in a batch. Three parts do not:
position encodings that are chosen by the longest sample of a batch (longrope) or grow with it
(dynamic) and remember the longest that they have seen, and sparse attention that selects its keys
among all positions of a batch. Samples that such a model treats alike may share a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel


def companies(model: PreTrainedModel, lengths: list[int]) -> list[list[int]]:
    """Group samples that may share a batch, by their lengths in tokens.

    Returns
    -------
    list of list of int
        Indices into `lengths`, each once, in order of their first; for most models one group.
    """
    sparse = any("Indexer" in type(module).__name__ for module in model.modules())
    limits = [(kind, limit) for kind, limit, *_ in _ropes(model)]
    groups: dict[tuple, list[int]] = {}
    for index, length in enumerate(lengths):
        key = [length if sparse else 0]
        for kind, limit in limits:
            long = length > limit
            key.append(length if "dynamic" in kind and long else int(long))
        groups.setdefault(tuple(key), []).append(index)
    return list(groups.values())


def forget(model: PreTrainedModel) -> None:
    """Put position encodings that grow with the longest sample seen back to where they began."""
    for kind, limit, module, prefix in _ropes(model):
        if "dynamic" in kind:
            original = getattr(module, f"{prefix}original_inv_freq")
            frequencies = getattr(module, f"{prefix}inv_freq")
            frequencies.copy_(original)
            setattr(module, f"{prefix}max_seq_len_cached", limit)


def _ropes(model: PreTrainedModel) -> Iterator[tuple[str, int, Module, str]]:
    """Yield kind, length limit, module and prefix of encodings that depend on the length."""
    for module in model.modules():
        types = getattr(module, "rope_type", None)
        if types is None or getattr(module, "config", None) is None:
            continue
        by_layer = types if isinstance(types, dict) else {None: types}
        for layer_type, kind in by_layer.items():
            if kind != "longrope" and "dynamic" not in kind:
                continue
            settings = module.config.rope_parameters
            settings = settings if layer_type is None else settings[layer_type]
            limit = module.config.max_position_embeddings
            if kind == "longrope":
                limit = settings["original_max_position_embeddings"]
            yield kind, limit, module, "" if layer_type is None else f"{layer_type}_"
