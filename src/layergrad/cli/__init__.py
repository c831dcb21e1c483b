"""``layergrad <step>``: one command a step, so that any rule can be run and debugged by hand."""

from layergrad.cli import datasets as _datasets  # noqa: F401
from layergrad.cli import models as _models  # noqa: F401
from layergrad.cli import report as _report  # noqa: F401
from layergrad.cli import spectra as _spectra  # noqa: F401
from layergrad.cli import statistics as _statistics  # noqa: F401
from layergrad.cli import workflow as _workflow  # noqa: F401
from layergrad.cli.app import app, main

__all__ = ["app", "main"]
