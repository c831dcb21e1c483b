"""From the description of a source to its pool, whatever its kind."""

from __future__ import annotations

from layergrad.config import (
    DatasetSpec,
    EmbeddedSource,
    FilesSource,
    ReasoningGymSource,
)
from layergrad.datasets.pool import Pool


def load_pool(spec: DatasetSpec) -> Pool:
    """Read or generate all rows of a dataset's source.

    Raises
    ------
    UserError
        If the source is missing or malformed.
    """
    # each kind imports its own library, and only when it is used
    source = spec.source
    if isinstance(source, ReasoningGymSource):
        from layergrad.datasets.reasoning import load_reasoning

        return load_reasoning(spec.name, source)
    if isinstance(source, EmbeddedSource):
        from layergrad.datasets.knowledge import load_embedded

        return load_embedded(spec.name, source)
    if isinstance(source, FilesSource):
        from layergrad.datasets.files import load_files

        return load_files(spec.name, source)
    raise TypeError(f"unknown source {source!r}")
