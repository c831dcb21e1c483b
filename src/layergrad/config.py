"""The configuration of a study: typed, validated before the first job, every field described.

``config.yaml`` names models and datasets of the catalog, or spells them out in place;
:func:`load_study` resolves the names, checks everything that can be checked without loading a
model, and raises one :class:`~layergrad.errors.UserError` that lists all that is wrong.
"""

from __future__ import annotations

import datetime
import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from layergrad.errors import UserError

Projection = Literal["q", "k", "v", "o", "gate", "up", "down"]
Response = str
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

METRICS = (
    "nuclear_norm",
    "sigma1_ratio",
    "effective_rank",
    "frobenius_norm",
    "spectral_norm",
    "stable_rank",
    "participation_ratio",
    "nuclear_rank",
    "loss_normalised_nuclear_norm",
)
SUM_LOSS = "sum_loss."  # before a metric: the same of the gradient of the sum of token losses
METRIC_PATTERN = rf"(sum_loss\.)?({'|'.join(METRICS)}|energy_top[1-9]\d*|[^:]+\.py:[A-Za-z_]\w*)"
# How a response is made wrong; each is documented in layergrad.datasets.controls.
CONTROLS = (
    "correct",
    "irrelevant",
    "mosaic_paper",
    "other_response",
    "wrong_answer",
    "shuffled_steps",
)
RESPONSE_ORDER = ("none", "simplified", "detailed", "len100", "len500", "len1000")
CORRECT = "correct"
# What chat templates take for today: the date that Llama 3 writes where it is given none.
TEMPLATE_DATE = datetime.date(2024, 7, 26)
# Ends the name of a response cut to as many tokens as the one it is compared with.
CUT = "_cut"


def metric_label(name: str) -> str:
    """Return the name of a metric in tables: that of the function, for a metric of the user's."""
    prefix = SUM_LOSS if name.startswith(SUM_LOSS) else ""
    return prefix + name.removeprefix(SUM_LOSS).rsplit(":", 1)[-1]


def _distinct(names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"listed twice: {', '.join(twice)}")
    return names


Distinct = AfterValidator(_distinct)  # of a list


def _expanded(path: str) -> str:
    # of os.path, since a `~user` that is not known stays as it is
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111


DataPath = Annotated[str, AfterValidator(_expanded)]  # `~` and $VARIABLES stand for what they are
BadRows = Literal["refuse", "skip"]


class Entry(BaseModel):
    """Base of every configuration object: unknown keys are errors, objects are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --------------------------------------------------------------------------------------- models


class HubModel(Entry):
    """A model of the Hugging Face hub at a commit, or at the commit that a lock file keeps."""

    kind: Literal["hub"] = Field("hub", description="Where the weights come from.")
    id: str = Field(
        description="Repository on the hub, `owner/name`.", pattern=r"^[^/\s]+/[^/\s]+$"
    )
    revision: str = Field(
        description="Commit, tag or branch; what a tag or branch stands for when it is first used "
        "is kept in `revisions.lock.json`.",
        pattern=r"^\S+$",
    )


class LocalModel(Entry):
    """A directory with `config.json`, safetensors and a tokenizer."""

    kind: Literal["path"] = Field("path", description="Where the weights come from.")
    path: str = Field(
        description="Directory of the model, or of a LoRA adapter, which is merged with its base; "
        "`~` and environment variables are expanded."
    )

    @property
    def folder(self) -> Path:
        """The directory, with `~` and environment variables expanded."""
        return Path(os.path.expandvars(self.path)).expanduser()


class WheelModel(Entry):
    """A GGUF model that ships inside Python packages; dequantised once to safetensors."""

    kind: Literal["wheel"] = Field("wheel", description="Where the weights come from.")
    packages: list[str] = Field(
        min_length=1,
        description="Pinned packages, `name==version`; several parts are concatenated.",
    )
    file: str = Field(description="Glob of the GGUF file, or of its parts, inside the wheels.")
    sha256: Sha256 = Field(description="Checksum of the (concatenated) GGUF file.")

    @field_validator("packages")
    @classmethod
    def _pinned(cls, packages: list[str]) -> list[str]:
        for package in packages:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.]+", package):
                raise ValueError(f"{package!r} is not pinned: write name==version")
        return packages


class RandomModel(Entry):
    """Random weights of a given shape, with a byte-level tokenizer: for tests and benchmarks."""

    kind: Literal["random"] = Field("random", description="Where the weights come from.")
    architecture: str = Field(
        description="`model_type` of transformers: llama, qwen2, gemma3_text, ..."
    )
    shape: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the architecture's configuration class."
    )
    seed: int = Field(0, description="Seed of the weights.")


class PublishedModel(Entry):
    """A model of which only statistics are here, as `layergrad import-published` leaves them."""

    kind: Literal["published"] = Field("published", description="Where the numbers come from.")
    id: str = Field(description="Name under which they were published.")


ModelSource = Annotated[
    HubModel | LocalModel | WheelModel | RandomModel | PublishedModel, Field(discriminator="kind")
]


# Settings of a model that mean something with a chat template alone.
_OF_TEMPLATES = {"system", "template", "template_arguments", "date"}


class ModelSpec(Entry):
    """One initial model: which weights, in which precision, and how samples are written for it."""

    name: Slug = Field(
        description="Name in files, tables and figures: lower case, digits, - and _."
    )
    title: str = Field("", description="Name for people; the slug if empty.")
    source: ModelSource = Field(description="Where the weights come from.")
    family: str = Field(description="Models of one family are compared, base against instruct.")
    tuning: Literal["base", "instruct"] = Field(description="Pre-trained or instruction-tuned.")
    protocol: Literal["paper", "clean"] = Field(
        "clean",
        description="How samples become tokens: `paper` as the authors did (two BOS, truncation); "
        "`clean` with one BOS and the response boundary from character offsets.",
    )
    chat: bool = Field(
        False, description="Write the instruction with the tokenizer's chat template."
    )
    system: str | None = Field(
        None,
        description="System turn of the chat template; null: none (`paper` adds the authors' own).",
    )
    template: str | None = Field(
        None, description="Which of several named chat templates; null: the default one."
    )
    template_arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="Variables of the chat template, such as `enable_thinking: false`.",
    )
    date: datetime.date = Field(
        TEMPLATE_DATE, description="Date that chat templates write as today's (YYYY-MM-DD)."
    )
    dtype: Literal["float32", "bfloat16", "float64"] = Field(
        "float32", description="Precision of weights and activations."
    )
    attention: Literal["eager", "sdpa"] = Field("sdpa", description="Attention implementation.")
    note: str = Field("", description="Shown wherever the model's numbers are shown.")
    billions: float | None = Field(
        None, gt=0, description="Parameters in billions; only to estimate what a study costs."
    )
    layers: int | None = Field(
        None, ge=1, description="Layers; only to estimate what a study costs."
    )
    gpus: int = Field(
        1, ge=0, description="GPUs of one extraction job; above 1 the weights are sharded."
    )

    @property
    def label(self) -> str:
        """Name for people."""
        return self.title or self.name

    def content(self) -> dict[str, Any]:
        """Return what decides the spectra: not the names, nor how many GPUs carry the weights."""
        counted = {"source", "protocol", "chat", "system", "dtype", "attention"}
        content = self.model_dump(mode="json", include=counted)
        # newer settings count once they are used, so that adding them changed no key
        newer = _OF_TEMPLATES - counted
        return content | self.model_dump(mode="json", include=newer, exclude_defaults=True)

    @model_validator(mode="after")
    def _used(self) -> ModelSpec:
        given = self.model_dump(include=_OF_TEMPLATES, exclude_defaults=True)
        if given and not self.chat:
            raise ValueError(
                f"{', '.join(sorted(given))}: only chat templates have that; set `chat: true`"
            )
        if self.protocol == "paper" and self.system is not None:
            raise ValueError("system: the paper's protocol has its own; set `protocol: clean`")
        return self


# -------------------------------------------------------------------------------------- datasets


class Columns(Entry):
    """Names of the columns of a user's file."""

    instruction: str = Field("instruction", description="Column of the instruction.")
    input: str | None = Field(
        "input",
        description="Column appended to the instruction; may be missing under this name alone.",
    )
    output: str = Field("output", description="Column of the response.")


class ReasoningGymSource(Entry):
    """Questions with worded steps that reasoning-gym generates from a seed."""

    kind: Literal["reasoning_gym"] = Field("reasoning_gym", description="Kind of source.")
    generator: Literal["gsm_symbolic"] = Field("gsm_symbolic", description="Generator.")
    rows: int = Field(200, ge=2, description="Rows generated: samples and controls draw from them.")
    seed: int = Field(0, description="Seed of the generator.")
    version: str | None = Field(
        None,
        description="Version of reasoning-gym, with another one the rows are not built; null: the "
        "installed one, whatever it is.",
    )

    def offers(self) -> tuple[str, ...]:
        """Return the responses that the source has."""
        return ("none", "simplified", "detailed")


class EmbeddedSource(Entry):
    """Passages that ship with layergrad."""

    kind: Literal["embedded"] = Field("embedded", description="Kind of source.")
    collection: Literal["knowledge"] = Field("knowledge", description="Which passages.")
    popularity: Literal["popular", "obscure"] | None = Field(
        None, description="Only well-known or only obscure subjects; null: both."
    )

    def offers(self) -> tuple[str, ...]:
        """Return the responses that the source has."""
        return ("len100", "len500", "len1000")


class FilesSource(Entry):
    """Local JSON, JSONL or Parquet files, one per response (and one per control, if given)."""

    kind: Literal["files"] = Field("files", description="Kind of source.")
    responses: dict[Response, DataPath] = Field(
        min_length=1, description="Response -> file with columns instruction, input, output."
    )
    controls: dict[str, dict[Response, DataPath]] = Field(
        default_factory=dict,
        description="Ready-made wrong responses: control -> response -> file with the same rows.",
    )
    columns: Columns = Field(default_factory=Columns, description="Names of the columns.")
    obtain: str = Field("", description="How to get the files; shown when one is missing.")
    checks: dict[str, int] = Field(
        default_factory=dict, description="Expected counts: `rows` stops a study on other data."
    )
    bad_rows: BadRows = Field(
        "refuse",
        description="A row that cannot be used (a null, a list, an empty text): `refuse` the "
        "file, or `skip` the row in all files and count it.",
    )

    def offers(self) -> tuple[str, ...]:
        """Return the responses that the source has."""
        return tuple(self.responses)


class HubDataSource(Entry):
    """A data set of the Hugging Face hub, or a local folder in the hub's format."""

    kind: Literal["hub"] = Field("hub", description="Kind of source.")
    id: DataPath = Field(description="Repository on the hub, `owner/name`, or a local folder.")
    config: str | None = Field(None, description="Configuration (subset) of the data set.")
    split: str = Field("train", description="Split.")
    revision: str | None = Field(
        None,
        description="Commit, tag or branch, as of a model; required for a data set on the hub.",
    )
    mapping: Literal[
        "gsm8k", "aqua", "strategyqa", "ecqa", "creak", "comve", "math", "wikipedia"
    ] = Field(description="How a row becomes an instruction and its responses.")
    columns: dict[str, str] = Field(
        default_factory=dict, description="Column that the mapping reads -> column of the data set."
    )
    rows: int | None = Field(None, ge=2, description="At most so many rows, the first; null: all.")
    streaming: bool = Field(False, description="Read row by row instead of downloading it whole.")
    titles: DataPath | None = Field(
        None, description="Wikipedia: file of the titles to take, one per line, views after a tab."
    )
    min_views: int | None = Field(None, ge=0, description="Wikipedia: fewest page views.")
    max_views: int | None = Field(None, ge=0, description="Wikipedia: most page views.")
    bad_rows: BadRows = Field(
        "skip",
        description="A row that cannot be used: `skip` it and count it, since nobody can fix a "
        "published data set, or `refuse` the data set.",
    )

    def offers(self) -> tuple[str, ...]:
        """Return the responses that the source has."""
        if self.mapping == "wikipedia":
            return ("len100", "len500", "len1000")
        return ("simplified",) if self.mapping == "math" else ("none", "simplified")

    @model_validator(mode="after")
    def _check(self) -> HubDataSource:
        here = Path(self.id).is_dir() or Path(f"{self.id}.dvc").exists()
        if self.revision is None and not here:
            raise ValueError(
                f"{self.id}: give the revision (a commit or branch) of a data set on the hub; if "
                "it is a local folder, there is none of that name"
            )
        chosen = (self.titles, self.min_views, self.max_views)
        if self.mapping != "wikipedia" and any(choice is not None for choice in chosen):
            raise ValueError("titles, min_views and max_views are for the mapping `wikipedia`")
        return self


class PublishedSource(Entry):
    """Published statistics instead of instructions and responses: nothing can be extracted."""

    kind: Literal["published"] = Field("published", description="Kind of source.")
    folder: DataPath = Field(description="Folder of the imported tables of this dataset.")
    responses: list[Response] = Field(min_length=1, description="Responses that were published.")
    controls: dict[str, list[Response]] = Field(
        default_factory=dict, description="Wrong responses that were published, by control."
    )

    def offers(self) -> tuple[str, ...]:
        """Return the responses that the source has."""
        return tuple(self.responses)


DatasetSource = Annotated[
    ReasoningGymSource | EmbeddedSource | FilesSource | HubDataSource | PublishedSource,
    Field(discriminator="kind"),
]


class DatasetSpec(Entry):
    """A set of instructions with one or more responses each."""

    name: Slug = Field(description="Name in files, tables and figures.")
    title: str = Field("", description="Name for people; the slug if empty.")
    group: str = Field("other", description="Panel in figures: math, commonsense, knowledge, ...")
    task: Literal["reasoning", "knowledge"] = Field(
        "reasoning",
        description="`reasoning`: responses differ in thinking; `knowledge`: in length.",
    )
    source: DatasetSource = Field(description="Where the rows come from.")
    responses: Annotated[list[Slug], Distinct] = Field(
        min_length=1, description="Responses to study, fast to slow."
    )
    added: dict[Slug, DataPath] = Field(
        default_factory=dict,
        description="More responses: name -> file with the same instructions, such as a teacher's "
        "answers; instructions that it lacks are left out.",
    )
    controls: Annotated[list[Slug], Distinct] | None = Field(
        None, description="Controls of this dataset; null: the study's."
    )
    license: str = Field("", description="Licence of the data.")

    @model_validator(mode="after")
    def _offered(self) -> DatasetSpec:
        offered = (*self.source.offers(), *self.added)
        for response in self.responses:
            if response.endswith(CUT):
                raise ValueError(
                    f"{self.name}: response {response!r}: names that end in {CUT!r} are those of "
                    "responses cut to equal numbers of tokens (`equal_tokens`); rename it"
                )
            if response not in offered:
                raise ValueError(
                    f"{self.name}: unknown response {response!r}; {_hint(response, offered)}"
                )
        return self

    @property
    def label(self) -> str:
        """Name for people."""
        return self.title or self.name


# ----------------------------------------------------------------------------------------- study


class ExtractionSettings(Entry):
    """What decides the numbers of a spectrum, beside the model and the tokens."""

    projections: Annotated[list[Projection], Distinct] = Field(
        ["q", "k", "v", "o"], min_length=1, description="Projections whose gradients are measured."
    )
    reduction: Literal["mean", "sum"] = Field(
        "mean", description="Loss over the response tokens: `mean` (the paper's) or `sum`."
    )
    max_length: int = Field(1024, ge=8, description="Longest sample in tokens.")
    response_tokens: int | None = Field(
        None, ge=1, description="Cut every response to this many tokens; null: whole responses."
    )
    tf32: bool = Field(False, description="Allow TF32 in float32 products on CUDA.")


class StatisticsSettings(Entry):
    """What is computed from the spectra."""

    metrics: Annotated[list[str], Distinct] = Field(
        ["nuclear_norm", "sigma1_ratio", "effective_rank", "frobenius_norm"],
        min_length=1,
        description="Metrics of a spectrum: names of METRICS, `energy_topK`, `FILE.py:FUNCTION` for"
        " one of your own, `sum_loss.` before any for the gradient of the sum of token losses.",
    )
    draws: int = Field(2000, ge=100, description="Bootstrap draws.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Coverage of the intervals.")
    seed: int = Field(0, ge=0, description="Seed of the bootstrap and the folds of classifiers.")
    claim_metric: str = Field("nuclear_norm", description="Metric by which claims are tested.")
    tells: float = Field(
        0.6,
        ge=0.5,
        lt=1,
        description="AUC above which gradients count as telling wrong responses from correct ones.",
    )
    margin: float = Field(
        0.05, ge=0, lt=0.5, description="Difference of AUC that counts as no better."
    )

    @field_validator("metrics", "claim_metric")
    @classmethod
    def _known(cls, names: list[str] | str) -> list[str] | str:
        for name in [names] if isinstance(names, str) else names:
            if not re.fullmatch(METRIC_PATTERN, name):
                near = difflib.get_close_matches(name, METRICS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(METRICS)}"
                raise ValueError(f"unknown metric {name!r}; {hint}")
        return names

    @field_validator("claim_metric")
    @classmethod
    def _of_the_loss(cls, name: str) -> str:
        if name.startswith(SUM_LOSS):
            raise ValueError(f"leave out {SUM_LOSS!r}: claims are tested with both losses anyway")
        return name

    @model_validator(mode="after")
    def _told_apart(self) -> StatisticsSettings:
        named: dict[str, str] = {}
        for name in (*self.metrics, self.claim_metric):
            known = named.setdefault(metric_label(name), name)
            if known != name:
                raise ValueError(f"{known} and {name} have the same name in tables; rename one")
        return self

    @property
    def metric_files(self) -> list[str]:
        """The user's files that metrics come from: their content counts."""
        names = [*self.metrics, self.claim_metric]
        return sorted({n.removeprefix(SUM_LOSS).rsplit(":", 1)[0] for n in names if ":" in n})


class ReportSettings(Entry):
    """How results are shown; never what is computed."""

    title: str = Field("Fast and slow thinking in the layers", description="Title of the page.")
    metric: str = Field("nuclear_norm", description="Metric that the figures open with.")
    prompts: bool = Field(
        True, description="Show one prompt per model, dataset and response on the page."
    )


TEACHER_OPTIONS = ("temperature", "max_tokens", "seed")  # sent as they are, unless null


class TeacherSettings(Entry):
    """A model behind an OpenAI-compatible endpoint that writes slow responses: `layergrad teach`.

    The key to the endpoint comes from the environment alone.
    """

    base_url: str = Field("https://api.openai.com/v1", description="Address of the endpoint.")
    key_variable: str | None = Field(
        "OPENAI_API_KEY", description="Environment variable with the key; null: none is needed."
    )
    model: str = Field("gpt-4o", description="Name of the model at the endpoint.")
    system: str | None = Field(None, description="System turn; null: none.")
    prompt: str = Field(
        "{instruction}\n\nReason step by step and in detail. End with one line that says "
        "`The final answer is X`, X being the answer alone.",
        description="What is asked; {instruction} stands for the instruction.",
    )
    temperature: float | None = Field(
        0.0, ge=0, le=2, description="Temperature of the sampling; null: not sent."
    )
    seed: int | None = Field(
        0, description="Seed of the sampling, where the endpoint supports it; null: not sent."
    )
    max_tokens: int | None = Field(
        1024, ge=1, description="Longest answer in tokens; null: not sent."
    )
    extra: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="More parameters of the request, as the endpoint names them, such as "
        "`{max_completion_tokens: 2000, reasoning_effort: low}`.",
    )
    concurrency: int = Field(4, ge=1, description="Requests under way at once.")
    requests_per_minute: float | None = Field(None, gt=0, description="Pace; null: no limit.")
    timeout: float = Field(120.0, gt=0, description="Seconds to wait for an answer.")
    attempts: int = Field(6, ge=1, description="Requests for one answer before it is given up.")
    max_requests: int = Field(
        1000, ge=1, description="Budget: requests of one run, repeated ones included."
    )
    wrong: Literal["keep", "drop"] = Field(
        "drop", description="Answers whose final answer is not the right one."
    )
    unfinished: Literal["keep", "drop"] = Field(
        "drop", description="Answers that were cut off at the longest length."
    )

    @field_validator("prompt")
    @classmethod
    def _asks(cls, prompt: str) -> str:
        if "{instruction}" not in prompt:
            raise ValueError("must contain {instruction}")
        return prompt

    @field_validator("extra")
    @classmethod
    def _added(cls, extra: dict[str, Any]) -> dict[str, Any]:
        own = sorted(extra.keys() & {"model", "messages", *TEACHER_OPTIONS})
        if own:
            raise ValueError(f"{own[0]} has a setting of its own")
        unread = sorted(extra.keys() & {"stream", "n"})
        if unread:
            raise ValueError(f"{unread[0]}: one whole answer is read for each question; leave out")
        return extra


class RuntimeSettings(Entry):
    """Where and how fast work runs; no result depends on it."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device of the extraction.")
    token_budget: int | None = Field(
        None, ge=1, description="Tokens of a batch, padding included; null: from free memory."
    )
    threads: int = Field(2, ge=1, description="Threads of one extraction job on the CPU.")


class Study(Entry):
    """A whole study, names resolved."""

    models: list[ModelSpec] = Field(min_length=1, description="Models to study.")
    datasets: list[DatasetSpec] = Field(min_length=1, description="Datasets to study.")
    controls: Annotated[list[Slug], Distinct] = Field(
        ["correct", "irrelevant"], min_length=1, description="Controls of every dataset."
    )
    samples: int = Field(
        8, ge=1, strict=True, description="Samples of a cell; fewer where a source has fewer."
    )
    seed: int = Field(0, ge=0, description="Seed of the choice of samples and of the controls.")
    equal_tokens: bool = Field(
        True,
        description="Also measure the fastest and the slowest right response of reasoning datasets "
        "cut, instruction by instruction, to the smaller number of tokens of the two: tells "
        "thinking from length.",
    )
    similarity: bool = Field(
        False,
        description="Also measure cosines between the gradients of an instruction's responses.",
    )
    extraction: ExtractionSettings = Field(
        default_factory=ExtractionSettings, description="Engine."
    )
    statistics: StatisticsSettings = Field(
        default_factory=StatisticsSettings, description="Statistics."
    )
    report: ReportSettings = Field(default_factory=ReportSettings, description="Report.")
    runtime: RuntimeSettings = Field(default_factory=RuntimeSettings, description="Machine.")
    teacher: TeacherSettings = Field(
        default_factory=TeacherSettings, description="Writer of slow responses."
    )

    @model_validator(mode="after")
    def _check(self) -> Study:
        for what, specs in (("model", self.models), ("dataset", self.datasets)):
            names = [spec.name for spec in specs]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} listed twice: {', '.join(twice)}")
        for dataset in self.datasets:
            for control in self.controls_of(dataset):
                _check_control(dataset, control)
        if self.report.metric not in self.statistics.metrics:
            raise ValueError(
                f"report.metric {self.report.metric!r} is not among statistics.metrics "
                f"({', '.join(self.statistics.metrics)}): figures can only open with one of these"
            )
        kinds = {spec.source.kind == "published" for spec in (*self.models, *self.datasets)}
        if len(kinds) > 1:
            named = [s.name for s in (*self.models, *self.datasets) if s.source.kind == "published"]
            raise ValueError(
                f"of {', '.join(named)} only published statistics are here, nothing can be "
                "measured: keep them in a study of their own (`layergrad import-published` writes "
                "it) and set the two beside each other with `layergrad compare`"
            )
        return self

    def model(self, name: str) -> ModelSpec:
        """Return the model of that name; a :class:`UserError` names the nearest one otherwise."""
        return _pick("model", {spec.name: spec for spec in self.models}, name)

    def dataset(self, name: str) -> DatasetSpec:
        """Return the dataset of that name; a :class:`UserError` names the nearest one otherwise."""
        return _pick("dataset", {spec.name: spec for spec in self.datasets}, name)

    def controls_of(self, dataset: DatasetSpec) -> list[str]:
        """Return the controls of a dataset: its own, or the study's."""
        return list(dataset.controls if dataset.controls is not None else self.controls)

    def variants_of(self, dataset: DatasetSpec) -> list[tuple[str, str]]:
        """Return every (response, control) of a dataset; a lone answer has no steps to shuffle."""
        return [
            (response, control)
            for response in dataset.responses
            for control in self.controls_of(dataset)
            if (response, control) != ("none", "shuffled_steps")
        ]

    def equalised(self, dataset: DatasetSpec) -> tuple[str, str] | None:
        """Return the fastest and the slowest response if they are also measured at equal tokens."""
        applies = (
            self.equal_tokens
            and dataset.task == "reasoning"
            and len(dataset.responses) > 1
            and CORRECT in self.controls_of(dataset)
            and dataset.source.kind != "published"
        )
        return (dataset.responses[0], dataset.responses[-1]) if applies else None


def _check_control(dataset: DatasetSpec, control: str) -> None:
    ready_made = getattr(dataset.source, "controls", {})
    if control not in CONTROLS and control not in ready_made:
        known = (*CONTROLS, *ready_made)
        raise ValueError(f"{dataset.name}: unknown control {control!r}; {_hint(control, known)}")
    missing = [r for r in dataset.responses if r not in ready_made.get(control, dataset.responses)]
    if missing:
        raise ValueError(f"{dataset.name}: control {control!r} has no file for {missing[0]!r}")


def _pick(what: str, known: dict[str, Any], name: str) -> Any:
    if name in known:
        return known[name]
    raise UserError(f"unknown {what} {name!r}; {_hint(name, known)}")


def _hint(name: str, known: Iterable[str]) -> str:
    """Name the nearest known name, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"


# --------------------------------------------------------------------------------------- reading


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping; a :class:`UserError` names the file and line otherwise."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text in UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold a mapping of keys to values")
    return data


def load_study(path: str | Path, catalog: str | Path = "catalog") -> Study:
    """Read and resolve a study file (``config.yaml``, or a resolved study written as JSON)."""
    return resolve_study(read_yaml(path), catalog, where=str(path))


def resolve_study(
    raw: dict[str, Any], catalog: str | Path = "catalog", where: str = "config"
) -> Study:
    """Resolve the names of a raw configuration against the catalog and validate it.

    Parameters
    ----------
    raw
        Configuration as read from YAML. An entry of ``models`` or ``datasets`` is a name of the
        catalog, or a mapping; a mapping with ``from: NAME`` starts from a catalog entry.
    catalog
        Folder with ``models.yaml`` and ``datasets.yaml``.
    where
        Name of the file, for messages.

    Raises
    ------
    UserError
        With every fault found, one per line: key, what is wrong, what was given.
    """
    raw = dict(raw)
    for what in ("models", "datasets"):
        if what in raw:
            raw[what] = _resolve_entries(raw[what], what, Path(catalog) / f"{what}.yaml", where)
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        raise UserError(_explain(error, raw, where)) from None


def _resolve_entries(entries: Any, what: str, file: Path, where: str) -> list[Any]:
    if not isinstance(entries, list):
        raise UserError(f"{where}: {what}: must be a list of names or mappings")
    known = read_yaml(file) if file.exists() else {}
    resolved = []
    for entry in entries:
        if isinstance(entry, str):
            entry = {"from": entry}
        if not isinstance(entry, dict):
            raise UserError(f"{where}: {what}: {entry!r} is neither a name nor a mapping")
        entry = dict(entry)
        base = entry.pop("from", None)
        if base is not None:
            if not isinstance(base, str):
                raise UserError(f"{where}: {what}: `from` must be a name, got {base!r}")
            if not file.exists():
                raise UserError(
                    f"{where}: {what}: {base!r} is a name of a catalog, and there is no catalog "
                    f"here: {file.absolute()} is missing; run this in the project's folder, copy "
                    "its folder catalog here, or write the entry out"
                )
            try:
                picked = _pick(what[:-1], known, base)
            except UserError as error:
                raise UserError(f"{where}: {what}: {error} (catalog: {file})") from None
            entry = {"name": base, **picked, **entry}
        resolved.append(entry)
    return resolved


def _explain(error: ValidationError, raw: dict[str, Any], where: str) -> str:
    lines = [f"{where}: the configuration is not valid:"]
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"]) or "study"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = f"unknown key{_near_key(fault['loc'])}"
        elif fault["type"] != "missing" and not isinstance(fault["input"], dict | list):
            message += f", got {fault['input']!r}"
        lines.append(f"  {place}: {message}")
    return "\n".join(lines)


def _near_key(loc: tuple[Any, ...]) -> str:
    """Name the field, of those that may stand at the place, that a misspelt key is nearest to."""
    within = Study.model_fields[loc[0]].annotation if loc[0] in Study.model_fields else None
    if len(loc) == 1:
        classes = [Study]
    elif isinstance(within, type) and issubclass(within, Entry):
        classes = [within]
    else:
        classes = [c for c in Entry.__subclasses__() if c is not Study]
    fields = {name for model in classes for name in model.model_fields} - {loc[-1]}
    near = difflib.get_close_matches(str(loc[-1]), fields, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
