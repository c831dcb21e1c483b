"""What metrics, responses, bands and projections are called in figures and captions."""

from __future__ import annotations

from collections.abc import Iterable

SUM_LOSS = "sum_loss."
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
CUT = ", cut"  # ends the titles of responses cut to equal numbers of tokens
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
    "auc": "Telling wrong responses from correct ones (AUC)",
    "length": "{metric} against response length",
    "controls": "Effects of thinking with length taken out",
    "spectra": "Singular values by rank",
    "tuning": "{metric} by layer, base against instruct",
    "knowledge": "{metric} against length: knowledge and reasoning",
    "samples": "Samples",
    "findings": "Claims and verdicts",
}
# Parts of the six claims, by number and name in the table of findings.
PARTS = {
    "1. size": "1. Fast thinking: larger gradients",
    "2. all": "2. Fast thinking: layers differ more (MAD)",
    "2. early": "2. The excess is larger in early layers",
    "3. size": "3. Base models less affected than instruct",
    "4. slow": "4. Slow thinking tells wrong responses",
    "4. fast": "4. Fast thinking does not tell them",
    "4. both": "4. Slow thinking tells them better than fast",
    "5. slow": "5. Instruct models tell them no better",
    "6. size": "6. Length alone does less than thinking",
}
# Ways of testing a claim, the main ones first.
VARIANTS = {
    "raw": "as measured",
    "classifier": "classifier of the curve",
    "metric": "mean over layers",
    "sum_loss": "sum of token losses",
    "log_tokens": "length as covariate",
    "equal_tokens": "equal number of tokens",
    "per_log_token": "per log token",
    "relative": "relative to the curve's mean",
}
# Verdicts and their colours.
VERDICTS = {
    "supported": "#00695c",
    "inconclusive": "#a2a9b1",
    "contradicted": "#b3371b",
    "not testable": "#dde1e6",
}
# Signs of verdicts, since colour alone must not tell them apart.
VERDICT_SIGNS = {"supported": "✓", "inconclusive": "?", "contradicted": "✗", "not testable": "○"}
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


def metric_title(metric: str) -> str:
    """Return the name of a metric for people."""
    if metric.startswith(SUM_LOSS):
        return f"{metric_title(metric.removeprefix(SUM_LOSS))} of the summed loss"
    return METRICS.get(metric, _plain(metric))


def response_title(response: str) -> str:
    """Return the name of a response for people."""
    if response.endswith("_cut"):
        return response_title(response.removesuffix("_cut")) + CUT
    return RESPONSES.get(response, _plain(response))


def band_title(band: str) -> str:
    """Return the name of a band of layers for people."""
    return BANDS.get(band, _plain(band))


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
