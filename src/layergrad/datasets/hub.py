"""Data sets of the Hugging Face hub, each mapped to instructions and responses.

A mapping takes one row of the original data set and returns the instruction and the responses that
the original holds: `none`, the final answer, and `simplified`, its human explanation with the final
answer in a closing line; for Wikipedia the article at three lengths. The slow response `detailed`
comes from a teacher (`layergrad teach`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from layergrad.config import HubDataSource
from layergrad.datasets.answers import PHRASE
from layergrad.datasets.files import read_file
from layergrad.datasets.knowledge import LENGTHS, cut
from layergrad.datasets.pool import Fault, Pool, Row, make_pool
from layergrad.datasets.values import BadRowError, read_text
from layergrad.errors import UserError
from layergrad.revisions import commit_of

Mapped = tuple[str, dict[str, str]]
_TRUE, _FALSE = {"true", "yes", "1"}, {"false", "no", "0"}


def load_hub(dataset: str, source: HubDataSource) -> Pool:
    """Read a data set of the hub, or a local folder in the hub's format, and map its rows.

    A row that cannot be used is left out and counted, unless ``bad_rows`` is ``refuse``.

    Raises
    ------
    UserError
        If the data set, its configuration, split or columns are not there, it cannot be read, or
        a row cannot be used.
    """
    columns, mapping = MAPPINGS[source.mapping]
    wanted = _titles(source)
    rows: list[Row] = []
    usable = 0
    for i, raw in enumerate(_read(dataset, source)):
        row = _renamed(dataset, source, columns, raw)
        try:
            if not _is_wanted(row, source, wanted):
                continue
            rows.append(Row(i, *mapping(row)))
            usable += 1
        except BadRowError as error:
            if source.bad_rows == "refuse":
                raise UserError(
                    f"{dataset}: {source.id}, row {i + 1}: {error}; leave such rows out with "
                    "`bad_rows: skip`"
                ) from None
            rows.append(Row(i, "", {}, fault=Fault(str(error), f"row {i + 1}")))
        if usable == (len(wanted) if wanted else source.rows):
            break
    absent = Fault("a wanted title is not in the data set")
    rows += [Row(-1, "", {}, fault=absent)] * (len(wanted) - len(rows))
    if not rows:
        raise UserError(f"{dataset}: {source.id} holds no rows{_viewed(source)}")
    return make_pool(dataset, rows)


def _viewed(source: HubDataSource) -> str:
    is_any = source.min_views is None and source.max_views is None
    return "" if is_any else " with as many views as min_views and max_views ask for"


def _read(dataset: str, source: HubDataSource) -> Iterator[dict[str, Any]]:
    """Give the rows of a data set; whatever the library meets becomes a message."""
    import datasets

    is_remote = source.revision is not None and not Path(source.id).is_dir()
    commit = commit_of("datasets", source.id, source.revision) if is_remote else None
    try:
        yield from datasets.load_dataset(
            source.id,
            source.config,
            split=source.split,
            revision=commit,
            streaming=source.streaming,
        )
    except Exception as error:  # of the library, and of those that it reads files and pages with
        where = f"{dataset}: {source.id}" + (f"@{source.revision}" if source.revision else "")
        raise UserError(f"{where}: {_told(error, not is_remote)}") from None


def _told(error: Exception, is_local: bool) -> str:
    """Return what went wrong with a data set, and what to do."""
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    if type(error) is DatasetGenerationError and error.__cause__ is not None:
        error = error.__cause__  # the error itself only says that there was one
    if isinstance(error, StopIteration):  # what the library meets in files without content
        return "holds no rows: its files are empty"
    text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, DatasetNotFoundError) or status in {401, 403, 404}:
        return (
            f"there is no such data set or revision, or it is private or gated ({text}); if it is "
            "gated, ask for access on its page and log in with `hf auth login`"
        )
    if is_local or isinstance(error, ValueError):  # configuration, split, content of the files
        return (
            f"could not be read ({text}); check its configuration, split and files: all must have "
            "the same columns"
        )
    return (
        f"could not be read ({text}); go online, set HF_ENDPOINT to a mirror, or give a local "
        "folder in the hub's format as `id`"
    )


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
    row = {column: raw[name] for column, name in names.items()}
    views = source.columns.get("views", "views")
    return row | ({"views": raw[views]} if views in raw else {})


def _titles(source: HubDataSource) -> set[str]:
    if source.titles is None:
        return set()
    lines = read_file(source.titles).split("\n")
    titles = [line.split("\t")[0].strip() for line in lines if line.strip()]
    if not titles:
        raise UserError(f"{source.titles}: holds no titles, one per line")
    return set(titles[: source.rows])


def _is_wanted(row: dict[str, Any], source: HubDataSource, wanted: set[str]) -> bool:
    if wanted:
        return isinstance(row["title"], str) and row["title"] in wanted
    if source.min_views is None and source.max_views is None:
        return True
    if "views" not in row:
        raise UserError(
            f"{source.id}: has no column of page views, as min_views and max_views need: name it "
            "under source.columns as `views`, or give a list of `titles`"
        )
    views = row["views"]
    if not isinstance(views, int | float) or views != views:  # NaN equals nothing
        raise BadRowError("'views' is no number")
    low, high = source.min_views or 0, source.max_views
    return views >= low and (high is None or views <= high)


# ------------------------------------------------------------------------------ cells


def _text(row: dict[str, Any], column: str) -> str:
    return read_text(row[column], column).strip()


def _texts(row: dict[str, Any], column: str) -> list[str]:
    if not isinstance(row[column], list) or not row[column]:
        raise BadRowError(f"{column!r} is no list of texts")
    return [read_text(value, column) for value in row[column]]


def _explanation(row: dict[str, Any], column: str) -> str:
    if isinstance(row[column], str) and not row[column].strip():
        raise BadRowError("no explanation")
    return _text(row, column)


def _truth(row: dict[str, Any], column: str) -> bool:
    """Return what a cell states: a bool, a label 0 or 1, or the word."""
    value = row[column]
    if isinstance(value, float) and value in {0.0, 1.0}:
        value = int(value)  # a label, of which some are missing
    stated = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    if stated not in _TRUE | _FALSE:
        raise BadRowError(f"{column!r} is neither true nor false")
    return stated in _TRUE


# ------------------------------------------------------------------------------ the mappings


def _explained(explanation: str, answer: str) -> dict[str, str]:
    return {"none": answer, "simplified": f"{explanation}\n{PHRASE} {answer}"}


def gsm8k(row: dict[str, Any]) -> Mapped:
    """Map GSM8K: its calculator notes (``<<2*3=6>>``) are left out, ``#### 6`` is the answer."""
    worded, mark, answer = _text(row, "answer").rpartition("####")
    worded, answer = re.sub(r"<<.*?>>", "", worded).strip(), answer.strip()
    if not mark or not answer:
        raise BadRowError("no final answer")
    if not worded:
        raise BadRowError("no explanation")
    return _text(row, "question"), _explained(worded, answer)


def aqua(row: dict[str, Any]) -> Mapped:
    """Map AQuA: five options with their letters, the letter of the right one, and a rationale."""
    found = [re.match(r"\s*\(?([A-H])\)\s*(.*)", o, re.DOTALL) for o in _texts(row, "options")]
    letters = list("ABCDEFGH"[: len(found)])
    if [option and option[1] for option in found] != letters:
        raise BadRowError("'options' are not labelled A), B), C), ... in this order")
    listed = [f"({option[1]}) {option[2]}" for option in found]
    right = _text(row, "correct")
    if right not in letters:
        raise BadRowError("'correct' names none of the options")
    instruction = "\n".join([_text(row, "question"), "Options:", *listed])
    return instruction, _explained(_explanation(row, "rationale"), f"({right})")


def strategyqa(row: dict[str, Any]) -> Mapped:
    """Map StrategyQA: a yes/no question and the facts that decide it."""
    if isinstance(row["facts"], list):
        facts = " ".join(fact.strip() for fact in _texts(row, "facts"))
    else:
        facts = _explanation(row, "facts")
    answer = "yes" if _truth(row, "answer") else "no"
    return _text(row, "question"), _explained(facts, answer)


def ecqa(row: dict[str, Any]) -> Mapped:
    """Map ECQA: five options in words, the right one, and a free-flowing explanation."""
    listed = [f"- {read_text(row[f'q_op{i}'], f'q_op{i}')}" for i in range(1, 6)]
    instruction = "\n".join([_text(row, "q_text"), "Options:", *listed])
    return instruction, _explained(_explanation(row, "taskB"), _text(row, "q_ans"))


def creak(row: dict[str, Any]) -> Mapped:
    """Map CREAK: a claim on an entity that is true or false, and why."""
    answer = "true" if _truth(row, "label") else "false"
    instruction = f'Is the following claim true or false?\n"{_text(row, "sentence")}"'
    return instruction, _explained(_explanation(row, "explanation"), answer)


def comve(row: dict[str, Any]) -> Mapped:
    """Map ComVE (Sensemaking): which of two sentences does not make sense, and why."""
    instruction = (
        "Which of the following two sentences does not make sense?\nOptions:\n"
        f'- Sentence A: "{_text(row, "sent0")}"\n- Sentence B: "{_text(row, "sent1")}"'
    )
    answer = f"Sentence {'B' if _truth(row, 'label') else 'A'}"
    return instruction, _explained(_explanation(row, "reason"), answer)


def math(row: dict[str, Any]) -> Mapped:
    r"""Map MATH: a problem and its worked solution, whose answer is in a ``\boxed{}``."""
    return _text(row, "problem"), {"simplified": _text(row, "solution")}


def wikipedia(row: dict[str, Any]) -> Mapped:
    """Map Wikipedia: an article up to the first sentence end after so many words.

    An article that is too short for a length has no response of that length.
    """
    text = _text(row, "text")
    words = len(text.split())
    responses = {r: cut(text, n, "words") for r, n in LENGTHS.items() if words >= n}
    if not responses:
        raise BadRowError("shorter than the shortest response")
    return f"Tell me about {read_text(row['title'], 'title')}.", responses


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
