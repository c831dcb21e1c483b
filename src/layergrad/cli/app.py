"""The command line application and what all commands share."""

from __future__ import annotations

import os
import sys

import typer

from layergrad.errors import UserError

# Threads of torch that wait for each other must not hold a core that another process needs. On two
# cores shared with other work two samples of 150 tokens took 46 s with the default, 9 s with this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
