"""Say what a file was made from, back to the raw inputs, and whether it is still current."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layergrad.config import FilesSource
from layergrad.errors import UserError
from layergrad.plan import STUDY_TABLES, Cell, Plan, model_source, source_files
from layergrad.provenance import content_hash, read_json, read_provenance, recorded_key
from layergrad.results import AUDIT_FILE

# Of more pairs than these only the first are followed; each can be asked for by itself.
MOST_PAIRS = 4


@dataclass
class Node:
    """A file, the key it records, the key the study asks for, and what it was made from."""

    what: str
    path: str
    recorded: str | None
    planned: str | None
    told: list[str] = field(default_factory=list)
    sources: list[Node] = field(default_factory=list)

    @property
    def status(self) -> str:
        """Whether the file is what the study asks for."""
        if not Path(self.path).exists():
            return "missing"
        if self.recorded == self.planned:
            return "current"
        if self.planned is None:
            return "not in the study; name the study it belongs to with --study"
        return f"outdated: it records {self.recorded}, the study asks for {self.planned}"

    def lines(self, depth: int = 0) -> Iterator[str]:
        """Yield the node and all that it was made from, indented."""
        indent = "  " * depth
        yield f"{indent}{self.path}"
        yield f"{indent}  {self.what}; {self.status}"
        for told in self.told:
            yield f"{indent}  {told}"
        for source in self.sources:
            yield from source.lines(depth + 1)


def explain(plan: Plan, file: Path) -> Node:
    """Return the node of a file of a study.

    Raises
    ------
    UserError
        If the file is missing, or is none that the workflow writes for this study.
    """
    if not file.exists():
        raise UserError(f"{file}: no such file; `snakemake {file}` makes it if the study has it")
    if file.is_absolute() and not file.resolve().is_relative_to(Path.cwd()):
        raise UserError(f"{file}: lies outside the project; run this in the folder it belongs to")
    path = str(file.resolve().relative_to(Path.cwd()) if file.is_absolute() else file)
    for pattern, found in _KINDS.items():
        match = re.fullmatch(pattern, path)
        if match:
            return found(plan, path, *match.groups())
    raise UserError(
        f"{file}: is no result of the workflow; ask for a figure, a table, the page, spectra, a "
        "dataset or a model's receipt"
    )


# ---------------------------------------------------------------------------------------- kinds


def _page(plan: Plan, path: str) -> Node:
    node = Node("the report", path, recorded_key(path), plan.page_key)
    node.sources = [_table(plan, f"data/statistics/{name}.parquet", name) for name in STUDY_TABLES]
    for table in node.sources[1:]:
        table.sources = []  # all tables come from the same pairs
    node.sources.append(_audit(plan, AUDIT_FILE))
    return node


def _audit(plan: Plan, path: str) -> Node:
    node = Node("audit of the datasets", path, recorded_key(path), plan.audit_key)
    node.sources = [_dataset(plan, spec.name) for spec in plan.study.datasets]
    return node


def _figure(plan: Plan, path: str, name: str) -> Node:
    spec = f"reports/figures/{name}.json"
    recorded = (read_json(spec) or {}).get("usermeta", {})
    known = name in plan.figures
    node = Node(
        f"figure {name}", path, recorded.get("key"), plan.figure_key(name) if known else None
    )
    node.told = [_versions(recorded.get("versions", {})), _settings(recorded.get("settings", {}))]
    pairs = [(pair["model"], pair["dataset"]) for pair in recorded.get("pairs", [])]
    return _with_pairs(plan, node, pairs)


def _paper(plan: Plan, path: str, name: str) -> Node:
    recorded = read_json(f"reports/paper/{name}.json") or {}
    planned = plan.paper_key(name) if name in plan.paper else None
    node = Node(f"{name} of the paper", path, recorded.get("key"), planned)
    node.told = [_versions(recorded.get("versions", {})), _settings(recorded.get("settings", {}))]
    pairs = [(pair["model"], pair["dataset"]) for pair in recorded.get("pairs", [])]
    return _with_pairs(plan, node, pairs)


def _table(plan: Plan, path: str, name: str) -> Node:
    recorded = read_provenance(path) or {}
    node = Node(f"table {name} over all pairs", path, recorded.get("key"), plan.tables_key)
    node.told = [_versions(recorded.get("versions", {})), _settings(recorded.get("settings", {}))]
    pairs = [tuple(pair.split("/", 1)) for pair in recorded.get("inputs", {})]
    return _with_pairs(plan, node, pairs)


def _with_pairs(
    plan: Plan,
    node: Node,
    pairs: list[tuple[str, str]],
    source: Callable[[Plan, str, str], Node] | None = None,
) -> Node:
    known = [pair for pair in pairs if pair in plan.pairs]
    node.sources = [(source or _statistics)(plan, *pair) for pair in known[:MOST_PAIRS]]
    if len(known) > MOST_PAIRS:
        node.told.append(f"and {len(known) - MOST_PAIRS} more models and datasets like these")
    node.told = [told for told in node.told if told]
    return node


def _statistics(plan: Plan, model: str, dataset: str) -> Node:
    path = plan.statistics_file(model, dataset, "curves")
    recorded = read_provenance(path) or {}
    node = Node(
        f"statistics of {model} on {dataset}",
        path,
        recorded.get("key"),
        plan.statistics_key(model, dataset),
        sources=[_spectra(plan, model, dataset)],
    )
    return node


def _pair_table(plan: Plan, path: str, model: str, pair: str) -> Node:
    dataset, _, key = pair.partition(".")
    recorded = recorded_key(path)
    if (model, dataset) not in plan.pairs:
        return Node(f"statistics of {model} on {dataset}, not in the study", path, key, None)
    node = _statistics(plan, model, dataset)
    if recorded != node.planned:  # made of something else than what the study is made of now
        inputs = (read_provenance(path) or {}).get("inputs", {})
        node.sources = []
        node.told = [f"made of {cell}: sha256 {sum_}" for cell, sum_ in inputs.items()]
    node.path, node.recorded = path, recorded
    return node


def _spectra(plan: Plan, model: str, dataset: str) -> Node:
    planned = plan.spectra_key(model, dataset)
    node = _read_index(plan.spectra_file(model, dataset), model, dataset, planned)
    node.sources = [_dataset(plan, dataset), _model(plan, model)]
    return node


def _read_index(path: str, model: str, dataset: str, planned: str | None) -> Node:
    """Return the node of an index of spectra, with what the index itself says."""
    index = read_json(path) or {}
    node = Node(f"spectra of {model} on {dataset}", path, index.get("key"), planned)
    cells = index.get("cells", [])
    if cells:
        measured, failed = sum(c["samples"] for c in cells), sum(c["failed"] for c in cells)
        node.told.append(f"{len(cells)} cells, {measured} samples measured, {failed} failed")
        node.told += [f"{c['response']}, {c['control']}: sha256 {c['sha256']}" for c in cells]
        made = (read_provenance(cells[0]["spectra"]) or {}).get("made", {})
        node.told += [f"measured with {flat(made)}"] if made else []
        node.told += _date(cells[0]["spectra"])
    return node


def _index(plan: Plan, path: str, model: str, name: str) -> Node:
    dataset = name.partition(".")[0]
    known = (model, dataset) in plan.pairs
    if known and path == plan.spectra_file(model, dataset):
        return _spectra(plan, model, dataset)
    planned = plan.spectra_key(model, dataset) if known else None
    return _read_index(path, model, dataset, planned)


def _cell(plan: Plan, path: str, model: str, dataset: str, response: str, control: str) -> Node:
    recorded = read_provenance(path) or {}
    cell = Cell(model, dataset, response, control)
    known = (model, dataset) in plan.pairs and cell in plan.measured_cells(model, dataset)
    node = Node(
        f"spectra of one cell: {', '.join(cell)}",
        path,
        recorded.get("key"),
        plan.cell_key(cell) if known else None,
    )
    made = recorded.get("made", {})
    node.told = [f"measured with {flat(made)}"] if made else []
    node.told += _date(path)
    if known:
        node.sources = [_dataset(plan, dataset), _model(plan, model)]
    return node


def _dataset(plan: Plan, name: str, path: str | None = None) -> Node:
    if name not in {spec.name for spec in plan.study.datasets}:
        recorded = (read_provenance(path) or {}).get("key")
        return Node(f"dataset {name}", path, recorded, None)
    spec = plan.study.dataset(name)
    path = path or plan.dataset_file(name)
    recorded = read_provenance(path) or {}
    node = Node(f"dataset {name}", path, recorded.get("key"), plan.dataset_key(name))
    if node.recorded not in (None, node.planned):
        source = recorded.get("dataset", {}).get("source", {})
        node.told = [f"source, as it was: {flat(source)}"]
        return node
    node.told = [f"source: {flat(spec.source.model_dump(mode='json', exclude={'columns'}))}"]
    if isinstance(spec.source, FilesSource):
        node.told += [f"raw file {f}: md5 {content_hash(f)}" for f in sorted(source_files(spec))]
    if spec.license:
        node.told.append(f"licence: {spec.license}")
    return node


def _dataset_file(plan: Plan, path: str, name: str) -> Node:
    return _dataset(plan, name, path)


def _model(plan: Plan, name: str, path: str | None = None) -> Node:
    if name not in {spec.name for spec in plan.study.models}:
        return Node(f"model {name}", path, (read_json(path) or {}).get("key"), None)
    path = path or plan.model_file(name)
    receipt = read_json(path) or {}
    node = Node(f"model {name}", path, receipt.get("key"), plan.model_key(name))
    spec = plan.study.model(name)
    node.told = [f"source: {flat(model_source(spec))}"]
    node.told += [f"{file}: sha256 {digest}" for file, digest in receipt.get("files", {}).items()]
    return node


def _receipt(plan: Plan, path: str, name: str) -> Node:
    return _model(plan, name, path)


def _manifest(plan: Plan, path: str) -> Node:
    node = Node("the spectra that the study uses", path, recorded_key(path), plan.manifest_key)
    return _with_pairs(plan, node, plan.pairs, _spectra)


def _table_sums(plan: Plan, path: str) -> Node:
    node = Node("checksums of the tables over all pairs", path, recorded_key(path), plan.tables_key)
    node.sources = [_table(plan, f"data/statistics/{name}.parquet", name) for name in STUDY_TABLES]
    return node


def _preflight(plan: Plan, path: str, model: str, key: str) -> Node:
    known = model in {spec.name for spec in plan.study.models}
    node = Node(f"checks of {model}", path, key, plan.preflight_key(model) if known else None)
    record = read_json(path) or {}
    node.told = [f"{c['status']}: {c['name']}: {c['detail']}" for c in record.get("checks", [])]
    node.sources = [_model(plan, model)] if known else []
    return node


def _similarity(plan: Plan, path: str, model: str, dataset: str) -> Node:
    known = (model, dataset) in plan.pairs
    planned = plan.similarity_key(model, dataset) if known else None
    recorded = (read_provenance(path) or {}).get("key")
    node = Node(f"cosines of gradients of {model} on {dataset}", path, recorded, planned)
    node.sources = [_dataset(plan, dataset), _model(plan, model)] if known else []
    return node


_NAME = r"([a-z0-9][a-z0-9_-]*)"
_KINDS = {
    r"reports/index\.html": _page,
    r"reports/figures/(.+)\.(?:json|svg|png)": _figure,
    r"reports/tables/(.+)\.csv": _figure,
    r"reports/paper/(.+)\.(?:json|svg|pdf|tex|csv)": _paper,
    r"data/statistics/audit\.parquet": _audit,
    rf"data/statistics/{_NAME}\.parquet": _table,
    r"data/statistics/sums\.json": _table_sums,
    r"data/manifest\.json": _manifest,
    rf"data/pairs/{_NAME}/([^/]+)/[^/]+\.(?:parquet|json)": _pair_table,
    rf"data/similarity/{_NAME}/{_NAME}\.[0-9a-f]+\.parquet": _similarity,
    rf"data/spectra/{_NAME}/([0-9a-f]+)\.preflight\.json": _preflight,
    rf"data/spectra/{_NAME}/([^/]+)\.json": _index,
    rf"data/spectra/{_NAME}/{_NAME}/{_NAME}\.{_NAME}\.[^/]+\.parquet": _cell,
    rf"data/datasets/{_NAME}\.[0-9a-f]+\.parquet": _dataset_file,
    rf"data/models/{_NAME}\.[0-9a-f]+\.json": _receipt,
}


# -------------------------------------------------------------------------------------- helpers


def flat(values: Any) -> str:
    """Return nested values on one line."""
    if isinstance(values, dict):
        return ", ".join(
            flat(value) if isinstance(value, dict) else f"{name} {flat(value)}"
            for name, value in values.items()
            if value not in (None, {}, [])
        )
    return " ".join(map(str, values)) if isinstance(values, list) else str(values)


def _versions(versions: dict[str, str]) -> str:
    return f"made with {flat(versions)}" if versions else ""


def _settings(settings: dict[str, Any]) -> str:
    return f"settings: {flat(settings)}" if settings else ""


def _date(path: str) -> list[str]:
    """Return the date of a file here: DVC and git do not keep it, so it may be that of a pull."""
    from datetime import UTC, datetime

    if not Path(path).exists():
        return []
    written = datetime.fromtimestamp(Path(path).stat().st_mtime, tz=UTC)
    return [f"written here {written:%Y-%m-%d %H:%M} UTC"]
