"""``layergrad <step>``: one command a step, so that any rule can be run and debugged by hand."""

from layergrad.cli.app import app, main

__all__ = ["app", "main"]
