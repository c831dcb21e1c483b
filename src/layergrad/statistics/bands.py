"""Bands of depth: early, middle and late layers of a model."""

from __future__ import annotations

# Cuts that the paper's code states for its four depths: early = layers below the first, late =
# layers from the second on.
PAPER_CUTS = {26: (7, 20), 28: (7, 21), 32: (10, 20), 42: (12, 30)}
BANDS = ("all", "early", "middle", "late")


def bands(layers: int) -> dict[str, slice]:
    """Return the layers of each band of a model with that many layers.

    The paper's cuts at its four depths; elsewhere thirds, cut at ``layers // 3`` and
    ``2 * layers // 3`` and so equal up to one layer. ``all`` is every layer.
    """
    first, second = PAPER_CUTS.get(layers, (layers // 3, 2 * layers // 3))
    return {
        "all": slice(0, layers),
        "early": slice(0, first),
        "middle": slice(first, second),
        "late": slice(second, layers),
    }
