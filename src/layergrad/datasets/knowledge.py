"""Passages on well-known and obscure subjects, cut to three lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from layergrad.config import EmbeddedSource
from layergrad.datasets.pool import Pool, Row, make_pool
from layergrad.datasets.sentences import parse
from layergrad.errors import UserError

LENGTHS = {"len100": 100, "len500": 500, "len1000": 1000}
RESPONSES = tuple(LENGTHS)
FOLDER = Path(__file__).parent / "embedded"


def embedded_file(source: EmbeddedSource) -> Path:
    """Return the file of a collection."""
    return FOLDER / f"{source.collection}.jsonl"


def load_embedded(dataset: str, source: EmbeddedSource) -> Pool:
    """Read the passages and cut them to every length."""
    path = embedded_file(source)
    passages = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    rows = [
        Row(i, passage["instruction"], cut_all(passage["text"], f"{path.name}, line {i + 1}"))
        for i, passage in enumerate(passages)
        if source.popularity in (None, passage["popularity"])
    ]
    return make_pool(dataset, rows)


def cut_all(text: str, where: str) -> dict[str, str]:
    """Return a text cut to every length of the study; refuse one that is too short for the last."""
    longest = max(LENGTHS.values())
    if len(text) < longest:
        raise UserError(f"{where}: the text has {len(text)} characters, at least {longest} needed")
    return {response: cut(text, characters) for response, characters in LENGTHS.items()}


def cut(text: str, least: int, unit: Literal["characters", "words"] = "characters") -> str:
    """Return the text up to the first sentence end at which it has at least so many units."""
    length = 0
    for line in parse(text):
        length += len(line.mark)
        for sentence, gap in zip(line.sentences, line.gaps, strict=True):
            length += len(sentence)
            size = length if unit == "characters" else len(text[:length].split())
            if size >= least and sentence:
                return text[:length]
            length += len(gap)
        length += 1  # the line break
    return text.rstrip()
