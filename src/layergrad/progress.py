"""Progress with rate and time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import TextIO

LOG_SECONDS = 10.0


class Progress:
    """Counts units of work on standard error.

    Parameters
    ----------
    title
        What is being done.
    total
        Units in all.
    unit
        Name of one unit.
    stream
        Where to write; standard error by default.
    """

    def __init__(self, title: str, total: int, unit: str, stream: TextIO | None = None):
        self.title, self.total, self.unit = title, total, unit
        self.stream = stream or sys.stderr
        self.done = self.told = 0
        self.began = self.said = time.monotonic()
        self.bar = None

    def __enter__(self) -> Progress:
        if self.stream.isatty():
            self._open_bar()
        else:
            self._say()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif self.done != self.told:
            self._say()

    def advance(self, units: int = 1) -> None:
        """Count units as done."""
        self.done += units
        if self.bar is not None:
            self.bar.advance(self.task, units)
        elif time.monotonic() - self.said > LOG_SECONDS:
            self._say()

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(self.unit + "s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Bar(*columns, console=Console(file=self.stream))
        self.task = self.bar.add_task(self.title, total=self.total)
        self.bar.start()

    def _say(self) -> None:
        self.said, self.told = time.monotonic(), self.done
        elapsed = self.said - self.began
        line = f"{self.title}: {self.done}/{self.total} {self.unit}s"
        if self.done:
            rate = self.done / max(elapsed, 1e-9)
            left = (self.total - self.done) / rate
            line += f", {rate:.2f} {self.unit}s/s, {elapsed:.0f} s elapsed, about {left:.0f} s left"
        say(line, self.stream)


def say(line: str, stream: TextIO | None = None) -> None:
    """Write one line of what is being done, standard error by default."""
    stream = stream or sys.stderr
    stream.write(f"{line}\n")
    stream.flush()
