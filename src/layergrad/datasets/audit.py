"""Audit of built datasets: what could make a control or a response misleading, counted.

Every count is per dataset, response and control; a wrong response is compared, row by row, with the
right one of the same instruction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import polars as pl

from layergrad.config import RESPONSE_ORDER
from layergrad.datasets.answers import final_answer, same_answer, split_closing
from layergrad.datasets.pool import right_answer
from layergrad.datasets.sentences import doubled_punctuation, fragments
from layergrad.models.prompts import REASONS, UNWRITTEN
from layergrad.tables import AUDIT, conform

MEASURES = {
    "rows": "rows of the built dataset",
    "left_out": "rows of the source that were left out, since they cannot be used",
    "duplicates": "rows whose instruction occurred before",
    "unclosed": "rows whose text ends within a sentence",
    "answers": "rows whose final answer can be compared with the right one",
    "same_answer": "of those, rows whose final answer is the right one",
    "unchanged": "rows whose text is the right response itself",
    "own_sentences": "rows that hold a piece of the right response, word for word",
    "doubled_punctuation": "rows with punctuation after punctuation",
    "words": "words of a response, median",
    "line_breaks": "line breaks of a response, mean",
    "line_breaks_changed": "rows with another number of line breaks than the right response",
    "length_ratio": "characters over those of the right response, mean",
    "tokens": "tokens of a sample, median",
    "response_tokens": "tokens of a response, median",
    "longest": "tokens of the longest sample",
    "too_long": "rows with more tokens than max_length",
    **{reason: f"rows that fail: {why}" for reason, why in REASONS.items() if reason != "too_long"},
}

SHOULD_BE_ZERO = (
    "duplicates",
    "same_answer",
    "unchanged",
    "own_sentences",
    "doubled_punctuation",
    *REASONS,
)


def audit(samples: pl.DataFrame) -> pl.DataFrame:
    """Audit the text of a built dataset.

    Parameters
    ----------
    samples
        Table DATASET, of one or more datasets.

    Returns
    -------
    pl.DataFrame
        Table AUDIT; the measures are explained in :data:`MEASURES`. Measures that compare with the
        right response are there for the other controls alone, and only if the right response is.
    """
    rows = []
    for (dataset,), part in samples.partition_by("dataset", as_dict=True).items():
        right = _right_responses(part)
        for (response, control), cell in part.partition_by(
            "response", "control", as_dict=True
        ).items():
            texts = dict(zip(cell["sample_id"], cell["response_text"], strict=True))
            found = _form(cell, response)
            if control != "correct" and response in right:
                found |= _against(texts, response, right)
            rows += _rows(dataset, response, control, "", found)
    return conform(pl.DataFrame(rows, infer_schema_length=None), AUDIT)


def audit_source(samples: pl.DataFrame, left_out: int) -> pl.DataFrame:
    """State with every cell of a built dataset how many rows of its source were left out."""
    cells = samples.select("dataset", "response", "control").unique().iter_rows()
    rows = [row for cell in cells for row in _rows(*cell, "", {"left_out": left_out})]
    return conform(pl.DataFrame(rows, infer_schema_length=None), AUDIT)


def audit_tokens(samples: pl.DataFrame, model: str, encoder) -> pl.DataFrame:
    """Count the tokens of a built dataset as a model reads it.

    Parameters
    ----------
    samples
        Table DATASET.
    model
        Name of the model.
    encoder
        :class:`~layergrad.models.encode.Encoder` of the model; its `max_length` is the limit.
    """
    rows = []
    for (dataset, response, control), cell in samples.partition_by(
        "dataset", "response", "control", as_dict=True
    ).items():
        found = _tokens(cell, encoder)
        rows += _rows(dataset, response, control, model, found)
    return conform(pl.DataFrame(rows, infer_schema_length=None), AUDIT)


def wide(table: pl.DataFrame, tokens: bool = False) -> pl.DataFrame:
    """Return an audit for people: one row per response and control, measures as columns.

    Parameters
    ----------
    table
        Table AUDIT.
    tokens
        Show what is counted per model instead of what is seen in the text.
    """
    keys = ["dataset", "response", "control", *(["model"] if tokens else [])]
    shown = table.filter((pl.col("model") != "") if tokens else (pl.col("model") == ""))
    frame = shown.pivot("measure", index=keys, values="value", maintain_order=True)
    order = [*RESPONSE_ORDER, *sorted(set(frame["response"]) - set(RESPONSE_ORDER))]
    frame = frame.with_columns(pl.col("response").cast(pl.Enum(order))).sort(keys)
    return frame.select(*keys, *(m for m in MEASURES if m in frame.columns))


def problems(table: pl.DataFrame) -> list[str]:
    """Return a line for each count of an audit that should be zero and is not.

    Parameters
    ----------
    table
        Table AUDIT.
    """
    found = table.filter(pl.col("measure").is_in(list(SHOULD_BE_ZERO)), pl.col("value") > 0)
    lines = []
    for row in found.iter_rows(named=True):
        where = f"{row['dataset']} {row['response']}.{row['control']} {row['model']}".strip()
        told = MEASURES[row["measure"]].removeprefix("of those, ")
        lines.append(f"{where}: {row['value']:.0f} {told}")
    return lines


def _rows(
    dataset: str, response: str, control: str, model: str, found: dict[str, float]
) -> list[dict[str, object]]:
    names = {"dataset": dataset, "response": response, "control": control, "model": model}
    return [{**names, "measure": m, "value": round(float(v), 6)} for m, v in found.items()]


def _right_responses(part: pl.DataFrame) -> dict[str, dict[str, str]]:
    """Return response -> sample_id -> right text."""
    correct = part.filter(pl.col("control") == "correct")
    return {
        response: dict(zip(cell["sample_id"], cell["response_text"], strict=True))
        for (response,), cell in correct.partition_by("response", as_dict=True).items()
    }


def _form(cell: pl.DataFrame, response: str) -> dict[str, float]:
    texts = cell["response_text"].to_list()
    found = {
        "rows": len(texts),
        "duplicates": sum(n - 1 for n in Counter(cell["instruction"]).values()),
        "doubled_punctuation": sum(map(doubled_punctuation, texts)),
        "words": _median(len(text.split()) for text in texts),
        "line_breaks": sum(text.count("\n") for text in texts) / len(texts),
    }
    if response != "none":
        found["unclosed"] = sum(map(_is_unclosed, texts))
    return found


def _is_unclosed(text: str) -> bool:
    body, closing = split_closing(text)
    end = body.rstrip()[-1:]
    return not closing and (end.isalnum() or end in ",;:-(")


def _against(
    texts: dict[str, str], response: str, right: dict[str, dict[str, str]]
) -> dict[str, float]:
    own = right[response]
    pairs = [(text, own[sample]) for sample, text in texts.items() if sample in own]
    found = {
        "unchanged": sum(a == b for a, b in pairs),
        "line_breaks_changed": sum(a.count("\n") != b.count("\n") for a, b in pairs),
        "length_ratio": sum(len(a) / len(b) for a, b in pairs) / len(pairs),
    }
    if response != "none":
        found["own_sentences"] = sum(
            not fragments(split_closing(text)[0]).isdisjoint(fragments(split_closing(original)[0]))
            for text, original in pairs
        )
    stated = [
        (answer, correct)
        for sample, text in texts.items()
        if (answer := text if response == "none" else final_answer(text)) is not None
        and (correct := _right_answer(sample, right)) is not None
    ]
    found["answers"] = len(stated)
    found["same_answer"] = sum(same_answer(answer, correct) for answer, correct in stated)
    return found


def _right_answer(sample: str, right: dict[str, dict[str, str]]) -> str | None:
    return right_answer({r: texts[sample] for r, texts in right.items() if sample in texts})


def _tokens(cell: pl.DataFrame, encoder) -> dict[str, float]:
    from layergrad.models.encode import SampleError

    lengths, responses, failed = [], [], Counter()
    for instruction, text in cell.select("instruction", "response_text").iter_rows():
        try:
            encoded = encoder.encode(instruction, text)
        except SampleError as error:
            failed[error.reason] += 1
            if error.reason not in UNWRITTEN:
                text = encoder.prompt(instruction) + text
                lengths.append(len(encoder.tokenizer(text)["input_ids"]))
            continue
        lengths.append(encoded.full_length)
        responses.append(encoded.response_tokens)
    return {
        "tokens": _median(lengths) if lengths else 0,
        "longest": max(lengths, default=0),
        "response_tokens": _median(responses) if responses else 0,
        "too_long": sum(length > encoder.max_length for length in lengths),
        "no_response_tokens": failed.pop("no_response_tokens", 0),
        **{reason: failed[reason] for reason in REASONS if reason != "too_long" and failed[reason]},
    }


def _median(numbers: Iterable[float]) -> float:
    return float(pl.Series(list(numbers)).median())
