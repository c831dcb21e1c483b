"""``layergrad <step>``: one command a step, so that any rule can be run and debugged by hand."""

from layergrad.cli import models as _models  # noqa: F401
from layergrad.cli.app import app, main

__all__ = ["app", "main"]
