"""Captions: Markdown templates that say how to read a figure and state numbers from its data."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt

from layergrad.errors import UserError

MINUS = "\N{MINUS SIGN}"


SHIPPED = Path(__file__).with_suffix("")


class Captions:
    """Renders ``FAMILY.md.j2`` to HTML, from the first of the folders that has it.

    Text of data and configuration is escaped.
    """

    def __init__(self, *folders: Path):
        self.folders = folders
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folders),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # noqa: S701  Markdown without HTML: MarkdownIt escapes what is left
        )
        self._templates.filters |= {"number": number, "percent": percent, "listed": listed}

    def html(self, family: str, values: dict[str, Any]) -> str:
        """Render a family's caption; a :class:`UserError` names the file and line at fault."""
        name = f"{family}.md.j2"
        try:
            text = self._template(name).render(values)
        except jinja2.TemplateNotFound:
            raise UserError(f"{self._file(name)}: no such caption; restore it") from None
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{self._file(name)}, line {error.lineno}: {error}") from None
        except UnicodeDecodeError:
            raise UserError(f"{self._file(name)}: is no text in UTF-8") from None
        except (jinja2.UndefinedError, TypeError) as error:
            raise UserError(f"{self._file(name)}: {error}") from None
        return MarkdownIt("commonmark", {"html": False}).render(text)

    def _file(self, name: str) -> Path:
        files = [folder / name for folder in self.folders]
        return next(filter(Path.exists, files), files[-1])

    @cache  # noqa: B019  one object, alive as long as the page is written
    def _template(self, name: str) -> jinja2.Template:
        return self._templates.get_template(name)


def number(value: float | None, digits: int = 3) -> str:
    """Format to significant digits, without an exponent where people would write none."""
    if value is None:
        return "n/a"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 10**digits:
        text = f"{value:.{digits}g}"
    else:
        text = f"{value:,.0f}" if 1 <= abs(value) < 1e7 else f"{value:.{digits - 1}e}"
    return text.replace("-", MINUS, 1) if value < 0 else text


def percent(value: float | None) -> str:
    """Format a share as a signed percentage."""
    if value is None:
        return "n/a"
    text = f"{100 * value:+.1f}"
    text = "0.0" if text in {"+0.0", "-0.0"} else text.replace("-", MINUS)
    return f"{text}\N{NO-BREAK SPACE}%"


def listed(values: list[Any]) -> str:
    """Join numbers with slashes: one a projection."""
    return " / ".join(number(v) if isinstance(v, float | None) else str(v) for v in values)
