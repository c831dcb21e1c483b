"""Data sets of the Hugging Face hub, each mapped to instructions and responses.

A mapping takes one row of the original data set and returns the instruction and the responses that
the original holds: `none`, the final answer, and `simplified`, its human explanation with the final
answer in a closing line; for Wikipedia the article at three lengths. The slow response `detailed`
comes from a teacher (`layergrad teach`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from layergrad.config import HubDataSource
from layergrad.datasets.answers import PHRASE
from layergrad.datasets.knowledge import LENGTHS, cut
from layergrad.datasets.pool import Pool, Row, make_pool
from layergrad.errors import UserError

Mapped = tuple[str, dict[str, str]]


class RefusedRowError(ValueError):
    """A row that cannot become a sample; the message says why."""


def load_hub(dataset: str, source: HubDataSource) -> Pool:
    """Read a data set of the hub, or a local folder in the hub's format, and map its rows.

    Raises
    ------
    UserError
        If the data set, its configuration, split or columns are not there, or the hub cannot be
        reached.
    """
    columns, mapping = MAPPINGS[source.mapping]
    wanted = _titles(source)
    rows: list[Row] = []
    refused: Counter[str] = Counter()
    for i, raw in enumerate(_read(dataset, source)):
        row = _renamed(dataset, source, columns, raw)
        if not _is_wanted(row, source, wanted):
            continue
        try:
            instruction, responses = mapping(row)
        except RefusedRowError as error:
            refused[str(error)] += 1
            continue
        rows.append(Row(i, instruction, responses))
        if len(rows) == (len(wanted) if wanted else source.rows):
            break
    if wanted and len(rows) < len(wanted):
        refused["a wanted title is not in the data set"] += len(wanted) - len(rows)
    return make_pool(dataset, rows, dict(refused))


def _read(dataset: str, source: HubDataSource) -> Iterable[dict[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    where = f"{dataset}: {source.id}" + (f"@{source.revision}" if source.revision else "")
    is_local = Path(source.id).is_dir()
    try:
        return datasets.load_dataset(
            source.id,
            source.config,
            split=source.split,
            revision=None if is_local else source.revision,
            streaming=source.streaming,
        )
    except DatasetNotFoundError as error:
        raise UserError(
            f"{where}: there is no such data set or revision, or it is private or gated ({error}); "
            "if it is gated, ask for access on its page and log in with `hf auth login`"
        ) from None
    except ValueError as error:  # unknown configuration or split
        raise UserError(f"{where}: {error}") from None
    except OSError as error:  # covers ConnectionError
        raise UserError(
            f"{where}: could not be read ({type(error).__name__}: {error}); go online, set "
            "HF_ENDPOINT to a mirror, or give a local folder in the hub's format as `id`"
        ) from None


def _renamed(
    dataset: str, source: HubDataSource, columns: tuple[str, ...], raw: dict[str, Any]
) -> dict[str, Any]:
    names = {column: source.columns.get(column, column) for column in columns}
    missing = [name for name in names.values() if name not in raw]
    if missing:
        raise UserError(
            f"{dataset}: {source.id} has no column {missing[0]!r} (it has {', '.join(raw)}); name "
            f"the columns of mapping {source.mapping!r} under source.columns"
        )
    views = source.columns.get("views", "views")
    return {column: raw[name] for column, name in names.items()} | {"views": raw.get(views)}


def _titles(source: HubDataSource) -> set[str]:
    if source.titles is None:
        return set()
    try:
        lines = Path(source.titles).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{source.titles}: could not be read: {error.strerror}") from None
    titles = [line.split("\t")[0].strip() for line in lines if line.strip()]
    if not titles:
        raise UserError(f"{source.titles}: holds no titles, one a line")
    return set(titles[: source.rows])


def _is_wanted(row: dict[str, Any], source: HubDataSource, wanted: set[str]) -> bool:
    if wanted:
        return row["title"] in wanted
    if source.min_views is None and source.max_views is None:
        return True
    if row["views"] is None:
        raise UserError(
            f"{source.id}: has no column of page views, as min_views and max_views need: name it "
            "under source.columns as `views`, or give a list of `titles`"
        )
    low, high = source.min_views or 0, source.max_views
    return row["views"] >= low and (high is None or row["views"] <= high)


# ------------------------------------------------------------------------------ the mappings


def _explained(explanation: str, answer: str) -> dict[str, str]:
    explanation = explanation.strip()
    if not explanation:
        raise RefusedRowError("no explanation")
    return {"none": answer, "simplified": f"{explanation}\n{PHRASE} {answer}"}


def gsm8k(row: dict[str, Any]) -> Mapped:
    """Map GSM8K: its calculator notes (``<<2*3=6>>``) are left out, ``#### 6`` is the answer."""
    worded, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise RefusedRowError("no final answer")
    return row["question"].strip(), _explained(re.sub(r"<<.*?>>", "", worded), answer.strip())


def aqua(row: dict[str, Any]) -> Mapped:
    """Map AQuA: five options, the letter of the right one, and a rationale."""
    listed = [re.sub(r"^([A-E])\)\s*", r"(\1) ", option) for option in row["options"]]
    instruction = "\n".join([row["question"].strip(), "Options:", *listed])
    return instruction, _explained(row["rationale"], f"({row['correct']})")


def strategyqa(row: dict[str, Any]) -> Mapped:
    """Map StrategyQA: a yes/no question and the facts that decide it."""
    facts = row["facts"]
    facts = facts if isinstance(facts, str) else " ".join(fact.strip() for fact in facts)
    return row["question"].strip(), _explained(facts, "yes" if row["answer"] else "no")


def ecqa(row: dict[str, Any]) -> Mapped:
    """Map ECQA: five options in words, the right one, and a free-flowing explanation."""
    listed = [f"- {row[f'q_op{i}']}" for i in range(1, 6)]
    instruction = "\n".join([row["q_text"].strip(), "Options:", *listed])
    return instruction, _explained(row["taskB"], row["q_ans"].strip())


def creak(row: dict[str, Any]) -> Mapped:
    """Map CREAK: a claim on an entity that is true or false, and why."""
    label = row["label"]
    answer = label.strip().lower() if isinstance(label, str) else str(bool(label)).lower()
    instruction = f'Is the following claim true or false?\n"{row["sentence"].strip()}"'
    return instruction, _explained(row["explanation"], answer)


def comve(row: dict[str, Any]) -> Mapped:
    """Map ComVE (Sensemaking): which of two sentences does not make sense, and why."""
    instruction = (
        "Which of the following two sentences does not make sense?\nOptions:\n"
        f'- Sentence A: "{row["sent0"].strip()}"\n- Sentence B: "{row["sent1"].strip()}"'
    )
    return instruction, _explained(row["reason"], f"Sentence {'AB'[int(row['label'])]}")


def math(row: dict[str, Any]) -> Mapped:
    r"""Map MATH: a problem and its worked solution, whose answer is in a ``\boxed{}``."""
    return row["problem"].strip(), {"simplified": row["solution"].strip()}


def wikipedia(row: dict[str, Any]) -> Mapped:
    """Map Wikipedia: an article up to the first sentence end after so many words.

    An article that is too short for a length has no response of that length.
    """
    text = row["text"].strip()
    words = len(text.split())
    responses = {r: cut(text, n, "words") for r, n in LENGTHS.items() if words >= n}
    if not responses:
        raise RefusedRowError("shorter than the shortest response")
    return f"Tell me about {row['title']}.", responses


MAPPINGS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Mapped]]] = {
    "gsm8k": (("question", "answer"), gsm8k),
    "aqua": (("question", "options", "rationale", "correct"), aqua),
    "strategyqa": (("question", "answer", "facts"), strategyqa),
    "ecqa": (("q_text", *(f"q_op{i}" for i in range(1, 6)), "q_ans", "taskB"), ecqa),
    "creak": (("sentence", "label", "explanation"), creak),
    "comve": (("sent0", "sent1", "label", "reason"), comve),
    "math": (("problem", "solution"), math),
    "wikipedia": (("title", "text"), wikipedia),
}
