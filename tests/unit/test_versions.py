"""A change of the engine's code asks whether it changes spectra: if so, ENGINE_VERSION goes up.

Spectra are known by that number, not by a hash of code, so that a comment costs no GPU days. This
test is what keeps the number honest: whoever changes the code below decides, and writes down the
new fingerprint here.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from pathlib import Path

import layergrad
from layergrad.plan import ENGINE_VERSION

ENGINE = [
    "models/adapters.py",
    "models/encode.py",
    "models/fetch.py",
    "models/layouts.py",
    "models/lengths.py",
    "models/load.py",
    "models/prompts.py",
    "spectra/batches.py",
    "spectra/capture.py",
    "spectra/factors.py",
    "spectra/kernels.cu",
    "spectra/kernels.py",
    "spectra/measure.py",
    "spectra/solvers.py",
    "spectra/tokens.py",
    "spectra/two_stage.cu",
]
DECIDED = {2: "226c56c9dc68acef"}


def fingerprint(text: str, name: str) -> str:
    """Return what a file does: its text without comments, docstrings and layout."""
    lines = text.splitlines()
    if name.endswith(".cu"):
        lines = [line.split("//")[0] for line in lines]
    else:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
        for node in ast.walk(ast.parse(text)):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_docstring(body[0]):
                for row in range(body[0].lineno - 1, body[0].end_lineno):
                    lines[row] = ""
    return " ".join(word for line in lines for word in line.split())


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def engine_fingerprint() -> str:
    folder = Path(layergrad.__file__).parent
    texts = [fingerprint((folder / name).read_text(), name) for name in ENGINE]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def test_a_change_of_the_engine_was_decided_upon():
    assert DECIDED.get(ENGINE_VERSION) == engine_fingerprint(), (
        "the engine's code changed: if spectra change by more than rounding, raise ENGINE_VERSION "
        f"in layergrad/plan.py; then write down {ENGINE_VERSION}: {engine_fingerprint()!r} here"
    )


def test_comments_and_docstrings_do_not_count():
    code = '"""Says."""\ndef f(x):\n    """Does."""\n    return x  # why\n'
    assert fingerprint(code, "a.py") == fingerprint("def f(x):\n    return x\n", "a.py")
    assert fingerprint(code, "a.py") != fingerprint("def f(x):\n    return -x\n", "a.py")
    assert fingerprint("int a; // why\n", "a.cu") == fingerprint("int\n  a;", "a.cu")
