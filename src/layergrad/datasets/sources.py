"""From the description of a source to its pool, whatever its kind."""

from __future__ import annotations

from layergrad.config import (
    DatasetSpec,
    EmbeddedSource,
    FilesSource,
    HubDataSource,
    ReasoningGymSource,
)
from layergrad.datasets.pool import Pool, Row, make_pool
from layergrad.errors import UserError


def load_pool(spec: DatasetSpec) -> Pool:
    """Read or generate all rows of a dataset, with the responses that are added to its source.

    Rows that lack one of the dataset's responses are left out and counted.

    Raises
    ------
    UserError
        If the source is missing or malformed, or no row has all responses.
    """
    pool = load_source(spec)
    added = {response: _added(spec, path) for response, path in spec.added.items()}
    rows, refused = [], dict(pool.refused)
    for sample in pool.samples:
        texts = {r: t[sample.sample_id] for r, t in added.items() if sample.sample_id in t}
        responses = {**sample.responses, **texts}
        lacking = [r for r in spec.responses if r not in responses]
        if lacking:
            reason = f"there is no response {lacking[0]!r}"
            refused[reason] = refused.get(reason, 0) + 1
            continue
        rows.append(Row(sample.row, sample.instruction, responses, sample.given))
    if not rows:
        raise UserError(
            f"{spec.name}: no row of the source has all of the responses "
            f"{', '.join(spec.responses)} ({refused})"
        )
    return make_pool(spec.name, rows, refused)


def _added(spec: DatasetSpec, path: str) -> dict[str, str]:
    """Return sample_id -> response of a file that adds responses."""
    from layergrad.datasets.files import read_pairs

    rows = (
        Row(i, instruction, {"": text}) for i, (instruction, text) in enumerate(read_pairs(path))
    )
    return {sample.sample_id: sample.responses[""] for sample in make_pool(spec.name, rows).samples}


def load_source(spec: DatasetSpec) -> Pool:
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
    if isinstance(source, HubDataSource):
        from layergrad.datasets.hub import load_hub

        return load_hub(spec.name, source)
    raise UserError(f"{spec.name}: only published statistics of it are here, no text to build")
