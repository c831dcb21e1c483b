"""Text is UTF-8 whatever the locale says, and output never fails for the characters in it."""

from __future__ import annotations

import locale
import os
import sys


def use_utf8() -> None:
    """Start this program anew in Python's UTF-8 mode if the locale has another encoding.

    Else Python would look for a file that a study names under other bytes than those of its name,
    and libraries would read texts in the locale's encoding. The terminal keeps the locale's.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", f"{locale.getencoding()}:replace")
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606


def fix_streams() -> None:
    """Replace characters that standard output and error cannot show; open those that are closed.

    A terminal that says it has no width gets the usual one: tables of no width would be empty.
    """
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        else:
            getattr(sys, name).reconfigure(errors="replace")
