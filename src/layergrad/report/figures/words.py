"""What metrics, responses, bands and projections are called in figures and captions."""

from __future__ import annotations

from collections.abc import Iterable

METRICS = {
    "nuclear_norm": "Nuclear norm",
    "sigma1_ratio": "Sigma-1 ratio",
    "effective_rank": "Effective rank",
    "frobenius_norm": "Frobenius norm",
    "spectral_norm": "Spectral norm",
    "stable_rank": "Stable rank",
}
RESPONSES = {
    "none": "None (fast)",
    "simplified": "Simplified",
    "detailed": "Detailed (slow)",
    "len100": "Length 100",
    "len500": "Length 500",
    "len1000": "Length 1000",
}
BANDS = {
    "all": "All layers",
    "early": "Early layers",
    "middle": "Middle layers",
    "late": "Late layers",
}
# Titles of the families of figures.
FAMILIES = {
    "curves": "{metric} by layer",
    "mad": "{metric}: change from layer to layer (MAD)",
    "rd": "{metric}: relative difference of wrong responses by layer",
    "length": "{metric} against response length",
}
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


def metric_title(metric: str) -> str:
    """Return the name of a metric for people."""
    return METRICS.get(metric, _plain(metric))


def response_title(response: str) -> str:
    """Return the name of a response for people."""
    return RESPONSES.get(response, _plain(response))


def band_title(band: str) -> str:
    """Return the name of a band of layers for people."""
    return BANDS.get(band, _plain(band))


def projection_title(projection: str) -> str:
    """Return the name of a projection for people."""
    return f"{projection} projection"


def within_sentence(title: str) -> str:
    """Return a title with a small first letter."""
    return title[:1].lower() + title[1:]


def in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    """Return distinct names, those of `order` first and in its order, then the others sorted."""
    found = set(names)
    known = [name for name in order if name in found]
    return known + sorted(found - set(known))


def _plain(name: str) -> str:
    return name.replace("_", " ").capitalize()
