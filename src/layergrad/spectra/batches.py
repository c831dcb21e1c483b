"""Packing samples into batches by a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layergrad.models.encode import Encoded
from layergrad.spectra.capture import Batch

if TYPE_CHECKING:
    import torch


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group samples so that no batch exceeds the budget, padding included.

    Sorted by length, longest first: neighbours are of like length, so little is padded, and the
    batch that needs the most memory comes first. A sample longer than the budget goes alone.

    Parameters
    ----------
    lengths
        Tokens of each sample.
    budget
        Tokens of a batch: its samples times its longest.

    Returns
    -------
    list of list of int
        Indices into `lengths`; every index once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pad(samples: Sequence[Encoded], padding_id: int, device: torch.device) -> Batch:
    """Return samples as one batch, padded on the right."""
    import torch

    longest = max(len(sample.ids) for sample in samples)
    ids = torch.full((len(samples), longest), padding_id)
    for row, sample in zip(ids, samples, strict=True):
        row[: len(sample.ids)] = torch.tensor(sample.ids)
    return Batch(
        ids.to(device), [s.start for s in samples], [len(sample.ids) for sample in samples]
    )
