"""One prompt of each response as the model sees it, with the tokens in the loss marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from layergrad.config import CORRECT
from layergrad.models import encode
from layergrad.models.encode import Encoded, Encoder, SampleError
from layergrad.tables import DATASET, read_table

# Of a long text the beginning and the end are kept: what a template wraps around it stands there.
MOST, HEAD, TAIL = 1500, 1000, 400


def examples(samples: str | Path, responses: Sequence[str], encoder: Encoder) -> dict[str, Any]:
    """Return what the index of a pair says about prompts.

    Returns
    -------
    dict
        ``notes`` on the encoder, and ``prompts``: for each response the row that is shown, its
        number of tokens, the `text` as [text, whether it is in the loss], and as ``printed`` for a
        terminal. A response none of whose samples can be written has none.
    """
    rows = read_table(samples, DATASET).filter(control=CORRECT)
    prompts = []
    for response in responses:
        for row in rows.filter(response=response).sort("row").iter_rows(named=True):
            try:
                encoded = encoder.encode(row["instruction"], row["response_text"])
            except SampleError:
                continue  # it is recorded as a failed sample
            prompts.append({"response": response, "row": row["row"], **example(encoder, encoded)})
            break
    return {"notes": encode.notes(encoder), "prompts": prompts}


def example(encoder: Encoder, encoded: Encoded) -> dict[str, Any]:
    """Return one sample with its tokens in the loss marked, as text and for a terminal."""
    marked = encode.view(encoder, encoded)
    return {
        "tokens": len(encoded.ids),
        "text": [
            [shortened("".join(text for text, _ in part)), in_loss]
            for in_loss, part in groupby(marked, key=lambda token: token[1])
        ],
        "printed": encode.printed(marked),
    }


def shortened(text: str) -> str:
    """Return a text, or its beginning and end."""
    return text if len(text) <= MOST else f"{text[:HEAD]} [...] {text[-TAIL:]}"
