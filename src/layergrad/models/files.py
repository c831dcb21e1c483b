"""Which files of a folder are the model: those that are loaded, and no other.

They decide the model's key, are fetched, counted and checksummed, and are all that transformers
gets to see (:func:`view`). A README, a second copy of the weights or the state of an optimizer
beside a model changes nothing; an adapter is merged with the model, or refused.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from layergrad.errors import UserError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_ANY_ADAPTER_WEIGHTS = ("adapter_model*.safetensors", "adapter_model*.bin")
# Any of these holds a vocabulary; without one transformers makes up an empty tokenizer.
VOCABULARY = (
    "tokenizer.json",
    "tokenizer.model*",
    "tekken.json",
    "vocab.*",
    "spiece.model",
    "spm*.model",
    "sentencepiece*.model",
    "*.tiktoken",
    "byte_maps.json",
    "dict.txt",
)
TOKENIZER = (
    *VOCABULARY,
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "bpe.codes",
    "normalizer.json",
    "emoji.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
# Say that weights are quantised, beside or instead of an entry in config.json.
QUANTISATION = (
    "hf_quant_config.json",
    "quantize_config.json",
    "quant_config.json",
    "quantization_config.json",
)


def is_adapter(folder: str | Path) -> bool:
    """Tell whether a folder holds an adapter, with or without the weights it belongs to."""
    return Path(folder, ADAPTER_CONFIG).exists()


def has_weights(folder: str | Path) -> bool:
    """Tell whether a folder holds a model's own configuration and weights."""
    return Path(folder, CONFIG).exists() and any(
        Path(folder, name).exists() for name in (WEIGHTS, INDEX)
    )


def model_files(folder: str | Path) -> list[str]:
    """Return the names of the files that are a model: configuration, weights, tokenizer.

    Parameters
    ----------
    folder
        A model's folder.

    Returns
    -------
    list of str
        Names as seen from the folder, sorted.

    Raises
    ------
    UserError
        If there is no configuration, no safetensors, or an index names files that are absent.
    """
    return sorted({CONFIG, *weight_files(folder), *tokenizer_files(folder)})


def weight_files(folder: str | Path) -> list[str]:
    """Return the names of the safetensors that transformers loads, and of their index."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check the path")
    _refuse_half_adapter(folder)
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder}: is no model folder (there is no {CONFIG} in it)")
    named = read_object(folder / CONFIG).get("transformers_weights")
    first = named or WEIGHTS
    if not isinstance(first, str) or not _stays_inside(first):
        raise UserError(f"{folder / CONFIG}: `transformers_weights` names no file of the folder")
    if not first.endswith(".index.json"):
        if (folder / first).exists():
            return [first]
        first = INDEX
    if not (folder / first).exists():
        if named:
            raise UserError(
                f"{folder}: {named}, which `transformers_weights` of {CONFIG} names, is absent: "
                "fetch the model again, or correct that entry"
            )
        raise UserError(f"{folder}: {_why_no_weights(folder)}")
    shards = indexed_files(folder / first)
    absent = [shard for shard in shards if not (folder / shard).exists()]
    if absent:
        raise UserError(
            f"{folder}: {first} names {len(shards)} files of weights, of which {len(absent)} are "
            f"absent, the first {absent[0]}: fetch the model again"
        )
    return [first, *shards]


def indexed_files(index: str | Path) -> list[str]:
    """Return the names of the files that an index of sharded weights lists."""
    content = read_object(index)
    if not isinstance(content.get("metadata"), dict):
        raise UserError(
            f'{index}: has no `metadata`, which transformers needs: add "metadata": {{}}'
        )
    places = content.get("weight_map")
    named = set(places.values()) if isinstance(places, dict) and places else {None}
    if not all(isinstance(name, str) and _stays_inside(name) for name in named):
        raise UserError(f"{index}: is no index of weights (`weight_map` names no files beside it)")
    return sorted(named)


def tokenizer_files(folder: str | Path) -> list[str]:
    """Return the names of the files that a folder's tokenizer and chat templates consist of."""
    folder = Path(folder)
    names = (file.relative_to(folder).as_posix() for file in _near(folder) if file.is_file())
    return sorted(name for name in names if matches(name, TOKENIZER))


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a name fits one of the patterns, in which `*` does not match a slash."""
    return any(
        fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns
    )


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON object of a model's folder; what is wrong with it becomes a message."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: could not be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text in UTF-8: fetch the model again") from None
    refuse_pointer(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"is not valid JSON ({error})" if text.strip() else "is empty"
        raise UserError(f"{path}: {what}: fetch the model again") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: is no JSON object: fetch the model again")
    return data


def refuse_pointer(path: Path) -> None:
    """Refuse a file that only says where Git LFS keeps the real one."""
    try:
        with open(path, "rb") as file:
            start = file.read(40)
    except OSError as error:
        raise UserError(f"{path}: could not be read: {error.strerror}") from None
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path}: is a Git LFS pointer instead of the file: run `git lfs pull` in the "
            "model's folder"
        )


@contextmanager
def view(folder: str | Path, names: list[str]) -> Iterator[Path]:
    """Give a temporary folder of links to these files: all that transformers gets to see.

    Left to itself it applies an adapter that lies beside a model wherever `peft` is installed,
    prefers the shards of a distributed checkpoint, and reads generation settings.
    """
    with tempfile.TemporaryDirectory(prefix="layergrad-") as aside:
        for name in names:
            link = Path(aside, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(folder, name).resolve())
        yield Path(aside)


def _near(folder: Path) -> list[Path]:
    """Return what lies in a folder and in the folder of chat templates."""
    return [*folder.iterdir(), *(folder / "additional_chat_templates").glob("*.jinja")]


def _refuse_half_adapter(folder: Path) -> None:
    """Refuse weights of an adapter without its settings: without them the bare base is loaded."""
    held = [name.name for name in folder.iterdir() if matches(name.name, _ANY_ADAPTER_WEIGHTS)]
    if held and not is_adapter(folder):
        raise UserError(
            f"{folder}: holds the weights of an adapter ({min(held)}) without {ADAPTER_CONFIG}: "
            f"copy {ADAPTER_CONFIG} from where the adapter comes from, or, to measure the model "
            f"without the adapter, remove {min(held)}"
        )


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _why_no_weights(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    safetensors = [name for name in names if name.endswith(".safetensors")]
    if safetensors:
        return (
            f"holds neither {WEIGHTS} nor {INDEX}, which says which of its "
            f"{len(safetensors)} *.safetensors ({safetensors[0]}, ...) are the weights: fetch the "
            "model again, or save it anew with transformers' save_pretrained"
        )
    if any(name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")) for name in names):
        return (
            "holds no *.safetensors; pickled weights are not loaded, since a pickle can run code: "
            "convert them with transformers' save_pretrained(safe_serialization=True)"
        )
    return f"holds no weights ({WEIGHTS}, or {INDEX} and the files it lists): fetch the model again"
