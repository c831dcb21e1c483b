"""The command line application and what all commands share."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from layergrad.encoding import fix_streams, use_utf8
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
    """Run the command line; what a user can fix becomes a message and exit status 1."""
    use_utf8()
    fix_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", status=130)
    except BrokenPipeError:  # whoever read the output, like `head`, has enough
        _discard_output()
        sys.exit(1)
    except OSError as error:
        _discard_output()
        fail(f"{error.filename or 'the output'}: {error.strerror or error}")


def fail(message: str, status: int = 1) -> NoReturn:
    """Say what is wrong and end."""
    print(f"layergrad: {message}", file=sys.stderr)
    sys.exit(status)


def _discard_output() -> None:
    """Let what is left of the output go nowhere: Python would fail on it once more at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
