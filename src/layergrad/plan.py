"""What a study consists of: its cells, the key of each result, and the name of each file.

Everything here is computed from the configuration and the raw inputs alone, before any job runs.
Spectra are known by an explicit engine version, never by a hash of code: a comment must not cost
days of GPU time. Statistics and report are cheap and take the hash of their code.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from layergrad import provenance
from layergrad.config import (
    CORRECT,
    CUT,
    DatasetSpec,
    EmbeddedSource,
    FilesSource,
    HubDataSource,
    HubModel,
    LocalModel,
    ModelSource,
    ModelSpec,
    PublishedSource,
    ReasoningGymSource,
    Study,
)
from layergrad.errors import UserError
from layergrad.figures import (
    Figure,
    figures,
    find_figure,
    find_paper_figure,
    paper_figures,
)
from layergrad.models.adapters import adapter_files, base_of
from layergrad.models.files import is_adapter, model_files
from layergrad.provenance import content_hash, files_hash, key, pointer_hash
from layergrad.revisions import content_behind, planned_commit, record_content

# Raise when a change of code changes what the phase produces; tests ask for the first two.
DATASET_VERSION = 2
ENGINE_VERSION = 2
PREFLIGHT_VERSION = 2  # of the checks of a model

PACKAGE = Path(__file__).parent
# Tables of one (model, dataset), and of the whole study; see tables.py.
_SHARED_TABLES = (
    "curves",
    "mad",
    "rd",
    "rd_summary",
    "samples",
    "lengths",
    "ranks",
    "discrimination",
)
PAIR_TABLES = ("metrics", *_SHARED_TABLES, "estimates")
STUDY_TABLES = (*_SHARED_TABLES, "findings")
TABLE_FILES = (
    *(f"data/statistics/{table}.parquet" for table in STUDY_TABLES),
    f"data/statistics/{provenance.SUMS}",
)
OWN_CAPTIONS = Path("reports/captions")  # a study's own, before those of report/captions


class Cell(NamedTuple):
    """One (model, dataset, response, control): the unit of work, of caching and of reporting."""

    model: str
    dataset: str
    response: str
    control: str


def remembered(method: Callable[..., Any]) -> Callable[..., Any]:
    """Compute a key once for the same arguments: a dry run asks for some a hundred times."""

    @wraps(method)
    def once(plan: Plan, *arguments: str) -> Any:
        found = plan.__dict__.setdefault("_remembered", {})
        place = (method.__name__, *arguments)
        if place not in found:
            found[place] = method(plan, *arguments)
        return found[place]

    return once


@dataclass(frozen=True)
class Plan:
    """Cells, keys and file names of one study."""

    study: Study

    # ------------------------------------------------------------------------------------- cells

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Every (model, dataset): one load of a model serves all cells of a pair."""
        return [(m.name, d.name) for m in self.study.models for d in self.study.datasets]

    def cells(self, model: str, dataset: str) -> list[Cell]:
        """Return the cells of one pair."""
        spec = self.study.dataset(dataset)
        return [
            Cell(model, dataset, response, control)
            for response, control in self.study.variants_of(spec)
        ]

    @cached_property
    def all_cells(self) -> list[Cell]:
        """Every cell of the study."""
        return [cell for pair in self.pairs for cell in self.cells(*pair)]

    def equal_cells(self, model: str, dataset: str) -> list[Cell]:
        """Return the cells of a pair's responses cut to equal numbers of tokens, beside its own."""
        responses = self.study.equalised(self.study.dataset(dataset)) or ()
        return [Cell(model, dataset, response + CUT, CORRECT) for response in responses]

    def measured_cells(self, model: str, dataset: str) -> list[Cell]:
        """Return all cells that a pair's spectra consist of."""
        return [*self.cells(model, dataset), *self.equal_cells(model, dataset)]

    # -------------------------------------------------------------------------------------- keys

    @remembered
    def model_key(self, model: str) -> str:
        """Return the key of a model's weights."""
        return key("model", self.model_source(model))

    @remembered
    def model_source(self, model: str) -> dict[str, Any]:
        """Return what decides a model's weights and tokenizer."""
        return model_source(self.study.model(model))

    @remembered
    def samples_key(self, dataset: str, response: str, control: str) -> str:
        """Return the key of the samples of one response and control."""
        return key(
            "samples",
            DATASET_VERSION,
            dataset_source(self.study.dataset(dataset)),
            self.study.samples,
            self.study.seed,
            response,
            control,
        )

    @remembered
    def dataset_key(self, dataset: str) -> str:
        """Return the key of a built dataset, all responses and controls."""
        spec = self.study.dataset(dataset)
        parts = [
            (response, control, self.samples_key(dataset, response, control))
            for response, control in self.study.variants_of(spec)
        ]
        return key("dataset", dataset, parts)

    @cached_property
    def audit_parts(self) -> dict[str, str]:
        """Key of every part of the audit: ``DATASET/`` its text, ``DATASET/MODEL`` its tokens.

        An audit keeps the parts that it has, so that adding a model asks for no other one.
        """
        names = ("answers", "audit", "pool", "sentences")
        code = [provenance.digest(PACKAGE / "datasets" / f"{name}.py", "md5") for name in names]
        engines = {model.name: self.engine(model.name) for model in self.study.models}
        parts = {}
        for spec in self.study.datasets:
            if isinstance(spec.source, PublishedSource):
                continue  # there is no text to audit
            samples = self.dataset_key(spec.name)
            parts[f"{spec.name}/"] = key("text", samples, code)
            for model, engine in engines.items():
                parts[f"{spec.name}/{model}"] = key("tokens", samples, engine, code)
        return parts

    @cached_property
    def audit_key(self) -> str:
        """Key of the audit of all datasets, with the tokens that each model makes of them."""
        return key("audit", self.audit_parts)

    def engine(self, model: str) -> dict[str, Any]:
        """Return all that decides a spectrum beside the tokens."""
        return {
            "version": ENGINE_VERSION,
            "model": {
                **self.study.model(model).content(),
                "source": self.model_source(model),
                "weights": self.model_key(model),
            },
            "extraction": self.study.extraction.model_dump(mode="json"),
        }

    def preflight_key(self, model: str) -> str:
        """Return the key of a model's preflight: it depends on the model, not on any sample.

        Nor on what decides only how much of a sample is taken.
        """
        engine = self.engine(model)
        of_samples = {"max_length", "response_tokens"}
        engine["extraction"] = {
            k: v for k, v in engine["extraction"].items() if k not in of_samples
        }
        return key("preflight", PREFLIGHT_VERSION, engine)

    def cell_key(self, cell: Cell) -> str:
        """Return the key of a cell's spectra."""
        return key("spectra", self.engine(cell.model), self.cell_samples_key(cell))

    def cell_samples_key(self, cell: Cell) -> str:
        """Return the key of a cell's samples; cut ones depend on both responses compared."""
        if not cell.response.endswith(CUT):
            return self.samples_key(cell.dataset, cell.response, cell.control)
        both = self.study.equalised(self.study.dataset(cell.dataset)) or ()
        samples = [self.samples_key(cell.dataset, r, cell.control) for r in both]
        return key("equal tokens", cell.response, samples)

    @remembered
    def spectra_key(self, model: str, dataset: str) -> str:
        """Return the key of a pair's spectra, all cells."""
        cells = self.measured_cells(model, dataset)
        return key("pair", [[cell.response, cell.control, self.cell_key(cell)] for cell in cells])

    def similarity_key(self, model: str, dataset: str) -> str:
        """Return the key of a pair's cosines: they depend on what its spectra depend on."""
        return key("similarity", self.spectra_key(model, dataset))

    @remembered
    def statistics_key(self, model: str, dataset: str) -> str:
        """Return the key of a pair's statistics."""
        settings = self.study.statistics.model_dump(mode="json")
        files = [_metric_content(file) for file in self.study.statistics.metric_files]
        spectra = self.spectra_key(model, dataset)
        return key("statistics", spectra, settings, files, self._statistics_code)

    @cached_property
    def manifest_key(self) -> str:
        """Key of the list of all spectra that the study uses."""
        return key("manifest", [self.spectra_file(*pair) for pair in self.pairs])

    @cached_property
    def tables_key(self) -> str:
        """Key of the tables over all pairs."""
        models = [[m.name, m.family, m.tuning, m.label] for m in self.study.models]
        datasets = [[d.name, d.group, d.task, d.label] for d in self.study.datasets]
        return key("tables", models, datasets, [self.statistics_key(*p) for p in self.pairs])

    @cached_property
    def measures_key(self) -> str:
        """Key of the numbers by which versions of the study are compared."""
        return key("measures", self.tables_key, self.study.report.metric)

    def figure_key(self, name: str) -> str:
        """Return the key of a figure: the statistics it shows, how they are named, how it is drawn.

        Models and datasets that the figure does not show leave it as it is.
        """
        figure = self._figures.get(name) or find_figure(self.study, name)
        return self._figure_key("figure", figure, self._figures_code)

    def paper_key(self, name: str) -> str:
        """Return the key of a figure or table of the paper."""
        code = [self._figures_code, content_hash(PACKAGE / "report" / "paper.py")]
        return self._figure_key("paper", find_paper_figure(self.study, name), code)

    def _figure_key(self, what: str, figure: Figure, code: Any) -> str:
        models = [self.study.model(m) for m in dict.fromkeys(m for m, _ in figure.pairs)]
        datasets = [self.study.dataset(d) for d in dict.fromkeys(d for _, d in figure.pairs)]
        return key(
            what,
            figure.name,
            [[m.label, m.note, m.family, m.tuning] for m in models],
            [[d.label, d.group, d.task] for d in datasets],
            [self.statistics_key(*pair) for pair in figure.pairs],
            self.study.report.metric,
            code,
        )

    @cached_property
    def page_key(self) -> str:
        """Key of the page: all that it says, its figures, captions and style."""
        study = self.study.model_dump(mode="json", exclude={"runtime"})
        code = provenance.code_hash(PACKAGE / "report" / "__init__.py")
        captions = provenance.code_hash(OWN_CAPTIONS / "any")
        return key("page", self.tables_key, self.audit_key, study, captions, code)

    @property
    def figures(self) -> list[str]:
        """Names of the figures, made of slugs with dots between."""
        return list(self._figures)

    @cached_property
    def _figures(self) -> dict[str, Figure]:
        return {figure.name: figure for figure in figures(self.study)}

    def figures_of(self, model: str, dataset: str) -> list[str]:
        """Names of the figures that show a pair."""
        return [f.name for f in self._figures.values() if (model, dataset) in f.pairs]

    def papers_of(self, model: str, dataset: str) -> list[str]:
        """Names of the figures and tables of the paper that show a pair."""
        return [f.name for f in paper_figures(self.study) if (model, dataset) in f.pairs]

    @property
    def paper(self) -> list[str]:
        """Names of the figures and tables of the paper, as those of the figures."""
        return [figure.name for figure in paper_figures(self.study)]

    @cached_property
    def _figures_code(self) -> str:
        report = PACKAGE / "report"
        drawing = [provenance.digest(report / f"{name}.py", "md5") for name in ("draw", "families")]
        return key(provenance.code_hash(report / "figures" / "__init__.py"), drawing)

    @cached_property
    def _statistics_code(self) -> str:
        return provenance.code_hash(PACKAGE / "statistics" / "__init__.py")

    # ------------------------------------------------------------------------------------- files

    def model_file(self, model: str) -> str:
        """Name of the receipt that says where a model's files lie."""
        return f"data/models/{model}.{self.model_key(model)}.json"

    def dataset_file(self, dataset: str) -> str:
        """Name of a built dataset."""
        return f"data/datasets/{dataset}.{self.dataset_key(dataset)}.parquet"

    def cell_file(self, cell: Cell) -> str:
        """Name of a cell's spectra."""
        folder = f"data/spectra/{cell.model}/{cell.dataset}"
        return f"{folder}/{cell.response}.{cell.control}.{self.cell_key(cell)}.parquet"

    def preflight_file(self, model: str) -> str:
        """Name of the checks of one model, kept with its spectra."""
        return f"data/spectra/{model}/{self.preflight_key(model)}.preflight.json"

    def spectra_file(self, model: str, dataset: str) -> str:
        """Name of the index of a pair's spectra: the files of its cells, with their checksums."""
        return f"data/spectra/{model}/{dataset}.{self.spectra_key(model, dataset)}.json"

    def similarity_file(self, model: str, dataset: str) -> str:
        """Name of the cosines between the gradients of a pair's samples."""
        return f"data/similarity/{model}/{dataset}.{self.similarity_key(model, dataset)}.parquet"

    def statistics_file(self, model: str, dataset: str, table: str) -> str:
        """Name of one table of a pair's statistics."""
        return f"{self.statistics_folder(model, dataset)}/{table}.parquet"

    def statistics_folder(self, model: str, dataset: str) -> str:
        """Folder of a pair's statistics; those of the study lie in data/statistics."""
        return f"data/pairs/{model}/{dataset}.{self.statistics_key(model, dataset)}"

    def pair_files(self, model: str, dataset: str) -> list[str]:
        """Names of all tables of a pair's statistics, and of their checksums."""
        tables = [self.statistics_file(model, dataset, table) for table in PAIR_TABLES]
        return [*tables, self.checksums_file(model, dataset)]

    def checksums_file(self, model: str, dataset: str) -> str:
        """Name of the checksums of a pair's statistics."""
        return f"{self.statistics_folder(model, dataset)}/{provenance.SUMS}"

    def figure_files(self, name: str) -> list[str]:
        """Names of a figure's files: Vega-Lite with the key inside, pictures, numbers."""
        pictures = [f"reports/figures/{name}.{kind}" for kind in ("json", "svg", "png")]
        return [*pictures, f"reports/tables/{name}.csv"]

    def figure_labels(self, name: str) -> dict[str, str]:
        """Return by what a figure is found in a list: kind, models, datasets."""
        figure = find_figure(self.study, name)
        models = dict.fromkeys(model for model, _ in figure.pairs)
        datasets = dict.fromkeys(dataset for _, dataset in figure.pairs)
        labels = {"figure": figure.family}
        for what, names, every in (
            ("model", models, self.study.models),
            ("dataset", datasets, self.study.datasets),
        ):
            labels[what] = "all" if 1 < len(names) == len(every) else ", ".join(names)
        return labels

    def paper_files(self, name: str) -> list[str]:
        """Names of the files of a figure (SVG, PDF) or table (LaTeX, CSV) of the paper.

        The first holds the key.
        """
        kinds = ("tex", "csv") if name.startswith("mad.") else ("svg", "pdf")
        return [f"reports/paper/{name}.{kind}" for kind in ("json", *kinds)]


def model_source(spec: ModelSpec) -> dict[str, Any]:
    """Return what decides a model's weights and tokenizer: content or a commit, never a name."""
    source = spec.source
    if isinstance(source, LocalModel) and not source.folder.exists():
        pointer = Path(f"{source.folder}.dvc")
        content = content_behind(pointer_hash(source.folder)) if pointer.exists() else None
        if content is None:
            how = "run `dvc pull`" if pointer.exists() else "check the path"
            raise UserError(f"model {spec.name}: {source.folder}: no such folder; {how}")
        return {"kind": "path", "content": content}
    return _weights_source(source)


def _weights_source(source: ModelSource) -> dict[str, Any]:
    if isinstance(source, HubModel):
        commit = planned_commit("models", source.id, source.revision)
        return source.model_dump(mode="json") | {"revision": commit}
    if not isinstance(source, LocalModel):
        return source.model_dump(mode="json")
    folder = source.folder
    if is_adapter(folder):
        content = files_hash(folder, adapter_files(folder))
        base = base_of(folder)
        if base == LocalModel(path=str(folder)):
            return {"kind": "adapter", "content": content}
        return {"kind": "adapter", "content": content, "base": _weights_source(base)}
    content = files_hash(folder, model_files(folder))
    if Path(f"{folder}.dvc").exists() and content_hash(folder) == pointer_hash(folder):
        record_content(pointer_hash(folder), content)
    return {"kind": "path", "content": content}


def _metric_content(file: str) -> str:
    if not (Path(file).exists() or Path(f"{file}.dvc").exists()):
        raise UserError(
            f"statistics.metrics: {file}: there is no such file in {Path.cwd()}, where the study "
            "runs; give a path from there, or an absolute one"
        )
    return content_hash(file)


def source_files(spec: DatasetSpec) -> set[str]:
    """Return the local files that a dataset is built from."""
    files = set(spec.added.values())
    if isinstance(spec.source, HubDataSource) and spec.source.titles:
        files.add(spec.source.titles)
    if isinstance(spec.source, FilesSource):
        groups = (spec.source.responses, *spec.source.controls.values())
        files.update(file for group in groups for file in group.values())
    return files


def dataset_source(spec: DatasetSpec) -> dict[str, Any]:
    """Return what decides a dataset's rows: for local files their content, not their names."""
    _check_files(spec)
    source = spec.source.model_dump(mode="json")
    if isinstance(spec.source, HubDataSource):
        if spec.source.revision is None or Path(spec.source.id).is_dir():
            # a local folder, here or known by its pointer
            source |= {"id": content_hash(spec.source.id), "revision": None}
        else:
            commit = planned_commit("datasets", spec.source.id, spec.source.revision)
            source["revision"] = commit
        if spec.source.titles:
            source["titles"] = content_hash(spec.source.titles)
    if isinstance(spec.source, ReasoningGymSource) and spec.source.version is None:
        source["version"] = _installed("reasoning-gym")
    if isinstance(spec.source, EmbeddedSource):
        passages = PACKAGE / "datasets" / "embedded" / f"{spec.source.collection}.jsonl"
        source["content"] = content_hash(passages)
    if isinstance(spec.source, PublishedSource):
        return {"kind": "published", "content": content_hash(spec.source.folder)}
    if isinstance(spec.source, FilesSource):
        del source["obtain"]
        source["responses"] = {r: content_hash(f) for r, f in spec.source.responses.items()}
        source["controls"] = {
            control: {r: content_hash(f) for r, f in files.items()}
            for control, files in spec.source.controls.items()
        }
    if spec.added:
        source["added"] = {r: content_hash(f) for r, f in spec.added.items()}
    return source


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise UserError(f"{package} is not installed; see requirements.lock") from None


def _check_files(spec: DatasetSpec) -> None:
    """Refuse a dataset whose files are not there, and say how to get them."""
    for file in sorted(source_files(spec)):
        if Path(file).is_dir():
            raise UserError(f"{spec.name}: {file}: is a folder; name the file in it")
        if Path(file).exists() and not os.access(file, os.R_OK):
            raise UserError(f"{spec.name}: {file}: may not be read; check its permissions")
        if not Path(file).exists() and not Path(f"{file}.dvc").exists():
            obtain = getattr(spec.source, "obtain", "")
            how = f"get it with `{obtain}`" if obtain else "check the path"
            if file in spec.added.values():
                how = "write it with `layergrad teach`, or check the path"
            raise UserError(
                f"{spec.name}: {file}: no such file; {how} (`dvc pull` if it was imported before)"
            )


def check_key(what: str, planned: str, expected: str | None) -> None:
    """Refuse a step whose caller planned with another configuration than the step reads."""
    if expected is not None and expected != planned:
        raise UserError(
            f"{what}: the caller expects key {expected}, the configuration gives {planned}: the "
            "configuration or a raw file was changed while the workflow ran; run it again"
        )
