"""From the description of a source to its pool, whatever its kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from layergrad.config import (
    DatasetSpec,
    EmbeddedSource,
    FilesSource,
    HubDataSource,
    ReasoningGymSource,
)
from layergrad.datasets.pool import Fault, Pool, Row, identified, pool_of, right_answer
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
    added = {response: _added(spec, path, pool) for response, path in spec.added.items()}
    samples, lacking = [], []
    for sample in pool.samples:
        found = {r: rows[sample.sample_id] for r, rows in added.items() if sample.sample_id in rows}
        fault = next((row.fault for row in found.values() if row.fault), None)
        responses = sample.responses | {r: row.responses.get("", "") for r, row in found.items()}
        missing = [r for r in spec.responses if r not in responses]
        if fault or missing:
            lacking.append(fault or Fault(f"there is no response {missing[0]!r}"))
            continue
        samples.append(replace(sample, responses=responses, answer=right_answer(responses)))
    whole = pool_of(spec.name, samples, lacking)
    return replace(
        whole,
        refused=dict(Counter(pool.refused) + Counter(whole.refused)),
        first_refused=whole.first_refused | pool.first_refused,
    )


def _added(spec: DatasetSpec, path: str, pool: Pool) -> dict[str, Row]:
    """Return sample_id -> row of a file that adds responses to the samples of a pool.

    Where a row that cannot be read may be a sample's, the sample's row has a fault.
    """
    from layergrad.datasets import files

    entries = files.read_entries(path, bad_rows=getattr(spec.source, "bad_rows", "refuse"))
    rows = (
        Row(i, e.instruction or "", {"": e.response}, fault=e.fault) for i, e in enumerate(entries)
    )
    read = dict(identified(rows))
    hidden = next((entry.fault for entry in entries if entry.instruction is None), None)
    uncertain = files.uncertain_repeats(pool.occurrences, files.occurrences(entries))
    found = {}
    for sample in pool.samples:
        if sample.instruction in uncertain:
            fault = files.uncertain_fault(hidden)
            found[sample.sample_id] = Row(sample.row, sample.instruction, {}, fault=fault)
        elif sample.sample_id in read:
            found[sample.sample_id] = read[sample.sample_id]
        elif hidden:
            fault = files.unreadable_fault(hidden)
            found[sample.sample_id] = Row(sample.row, sample.instruction, {}, fault=fault)
    return found


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
