"""The command line application and what all commands share."""

from __future__ import annotations

import sys

import typer

from layergrad.errors import UserError

app = typer.Typer(
    name="layergrad",
    help="Spectra of the gradients in each layer of a language model, from data to report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def main() -> None:
    """Run the command line; a :class:`UserError` becomes a message and exit status 1."""
    try:
        app()
    except UserError as error:
        print(f"layergrad: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("layergrad: interrupted", file=sys.stderr)
        sys.exit(130)
