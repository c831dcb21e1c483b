"""Sentences, and the form of a response: its lines, list marks and formulas.

Sentences are split by `sentencex`, line by line, since a line break ends a sentence in every
response; a response is a list of lines, so that other sentences can be put into the same form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

import sentencex

# Indentation and list marks of a line: "  - ", "3. ", "## ", "> ", "b) ".
_MARK = re.compile(r"^\s*(?:(?:#{1,6}|[-*+•>]|\d{1,3}[.)]|[A-Za-z]\))\s+)*")
# A line that titles those below it: "**Given:**", "**Step 1**", "We know that:".
_LABEL = re.compile(r"^(?:\*\*[^*]+\*\*|[^.!?]+:(?:\*\*)?)\s*$")
_FENCE = re.compile(r"^(?:\\\[|\\\]|\$\$|\\(?:begin|end)\{[^}]*\}[^\s\w]*|```\w*|=+ [^=]+ =+)$")
# A dollar that is money, not the edge of a formula: $20, \\$0.50.
_MONEY = re.compile(r"\\\$|\$\d[\d,]*(?:\.\d+)?(?![\d$\\^_{A-Za-z])")
_TITLES = (" Mr.", " Mrs.", " Ms.", " Dr.", " St.", " Prof.")
_FINE = re.compile(r"\n+|(?<=[.!?])\s+")
_TELLING = 20  # characters
_DOUBLED = re.compile(
    r"[.!?,;:]\s+[,;:!?.](?!\.|\d)"  # a sign, a space, a sign; not an ellipsis or .5
    r"|[,;:!?][.,;:](?![.\d/])"  # two signs; not ... or ://
    r"|(?<!\.)\.\.(?!\.)"  # two full stops, not three
)
_OPENS = re.compile(r"\\\[|\\begin\{")
_CLOSES = re.compile(r"\\\]|\\end\{")


@dataclass
class Line:
    """One line of a response.

    Attributes
    ----------
    mark
        Indentation and list marks, kept as they are.
    sentences
        Sentences without the space around them.
    gaps
        Space after each sentence.
    kind
        ``prose``, ``heading`` (marked with #), ``label`` (titles the lines below) or ``formula``
        (of display mathematics).
    """

    mark: str
    sentences: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    kind: str = "prose"

    def render(self) -> str:
        """Return the line as text."""
        pairs = zip(self.sentences, self.gaps, strict=True)
        return self.mark + "".join(sentence + gap for sentence, gap in pairs)


def parse(text: str) -> list[Line]:
    """Return the lines of a response; joined by line breaks they render to the very same text."""
    lines, depth = [], 0
    for raw in text.split("\n"):
        mark = _MARK.match(raw).group()
        line = Line(mark)
        body = raw[len(mark) :]
        if depth > 0 or _OPENS.match(body.strip()):
            line.kind = "formula"
        elif "#" in mark:
            line.kind = "heading"
        elif _LABEL.match(body):
            line.kind = "label"
        pieces = split(body) if line.kind == "prose" else [body]
        for piece in pieces:
            sentence = piece.rstrip()
            line.sentences.append(sentence)
            line.gaps.append(piece[len(sentence) :])
        depth = max(0, depth + len(_OPENS.findall(body)) - len(_CLOSES.findall(body)))
        lines.append(line)
    return lines


def render(lines: list[Line]) -> str:
    """Return the text of parsed lines."""
    return "\n".join(line.render() for line in lines)


def is_content(sentence: str) -> bool:
    """Whether a sentence says something: rules, fences and ``== Titles ==`` belong to the form."""
    return any(c.isalnum() for c in sentence) and not _FENCE.match(sentence.strip())


def sentences(text: str) -> list[str]:
    """Return the sentences of a text that say something, without list marks."""
    return [s for line in parse(text) for s in line.sentences if is_content(s)]


@lru_cache(maxsize=200_000)
def split(line: str) -> tuple[str, ...]:
    """Split one line into sentences, each with the space after it; joined they are the line.

    Pieces are joined again where a formula, bold type or a name after its title was cut in two.
    """
    pieces: list[str] = []
    for piece in sentencex.segment("en", line):
        if pieces and not (_is_closed(pieces[-1]) and is_content(piece)):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return tuple(pieces)


def _is_closed(piece: str) -> bool:
    if piece.rstrip().endswith(_TITLES):
        return False
    signs = _MONEY.sub("", piece)
    pairs = signs.count("$") % 2 == 0 and signs.count("**") % 2 == 0
    return pairs and signs.count(r"\(") == signs.count(r"\)")


def fragments(text: str) -> set[str]:
    """Return the pieces of a text that tell a copy: cut as finely as other splitters may cut.

    A piece ends at a line break and at every full stop, question or exclamation mark before a
    space, also within a name (``J. K. Rowling``). Short pieces (``Conclusion:``) tell nothing.
    """
    pieces = (piece.strip().rstrip(".") for piece in _FINE.split(text))
    return {piece for piece in pieces if len(piece) >= _TELLING and is_content(piece)}


def doubled_punctuation(text: str) -> bool:
    """Whether a text has punctuation after punctuation (``. ,``), as careless joining leaves."""
    return bool(_DOUBLED.search(text))


def plain(sentence: str) -> str:
    """Return what a sentence says, for comparison: no case, punctuation, marks or spacing."""
    return "".join(c for c in sentence.casefold() if c.isalnum() or c in "+-*/=<>^")
