"""LoRA adapters: merged with their base by `peft`, exactly, or refused.

The merged weights are computed and kept in float32, so that a folder gives the same numbers
wherever it is measured; an adapter is never applied while a model is loaded.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from layergrad.config import HubModel, LocalModel
from layergrad.errors import UserError, one_line
from layergrad.models.checkpoint import header_of, refuse_not_floating
from layergrad.models.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    VOCABULARY,
    has_weights,
    is_adapter,
    matches,
    read_object,
    tokenizer_files,
    weight_files,
)

BY_HAND = (
    "or merge it yourself (`merge_and_unload()`, then `save_pretrained`) and give the merged folder"
)
# Settings that change how a model is trained, or that merging takes into account.
_UNDERSTOOD = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "peft_version",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
}


def adapter_files(folder: str | Path) -> list[str]:
    """Return the names of the files that an adapter's folder is, with base weights if it has them.

    Raises
    ------
    UserError
        If the adapter is of a kind that is not merged here, or its safetensors are absent.
    """
    folder = Path(folder)
    _check_settings(folder, read_object(folder / ADAPTER_CONFIG))
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise UserError(
            f"{folder}: holds an adapter without {ADAPTER_WEIGHTS}; pickled weights are not loaded"
        )
    names = {ADAPTER_CONFIG, ADAPTER_WEIGHTS, *tokenizer_files(folder)}
    if has_weights(folder):
        names |= {"config.json", *weight_files(folder)}
    return sorted(names)


def base_of(folder: str | Path) -> LocalModel | HubModel:
    """Return where the base of an adapter is: in its own folder, another one, or on the hub.

    ``owner/name`` is a hub id, never a folder; any other relative path is seen from the adapter's
    folder. So an adapter has the same base wherever one stands.
    """
    folder = Path(folder)
    if has_weights(folder):
        return LocalModel(path=str(folder))
    settings = read_object(folder / ADAPTER_CONFIG)
    named = settings.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: names no `base_model_name_or_path`: write there the "
            f"folder or hub id of the model that the adapter belongs to, {BY_HAND}"
        )
    if re.fullmatch(r"[\w-][^/\s]*/[^/\s]+", named):
        return HubModel(id=named, revision=_revision(folder, settings))
    # unlike Path.expanduser, leaves a user that is not here as it is
    base = folder / os.path.expanduser(os.path.expandvars(named))  # noqa: PTH111
    if not base.is_dir():
        raise UserError(
            f"{folder}: holds an adapter, whose base {base} is no folder here: write the absolute "
            f"path or the hub id (owner/name) of the base as `base_model_name_or_path` in its "
            f"{ADAPTER_CONFIG}, {BY_HAND}"
        )
    if is_adapter(base):
        raise UserError(f"{folder}: its base {base} holds an adapter itself: merge that first")
    return LocalModel(path=str(base))


def merge_adapter(folder: str | Path, base: str | Path, target: Path) -> dict[str, Any]:
    """Write the base with the adapter merged into it, in float32, as a model folder.

    Parameters
    ----------
    folder
        Folder of the adapter; its tokenizer is used if it has one, else that of the base.
    base
        Folder of the weights that it was trained for.
    target
        Empty folder to write to.

    Returns
    -------
    dict
        What provenance says of it: ``adapter``, ``base``, ``merged_by``.
    """
    if find_spec("peft") is None:
        raise UserError(
            f"{folder}: holds a LoRA adapter, which `peft` merges with its base: install it with "
            f"`pip install 'layergrad[lora]'`, {BY_HAND}"
        )
    import peft
    import torch

    from layergrad.models.load import load_weights

    held = dict(header_of(Path(folder, ADAPTER_WEIGHTS)))  # refuses a broken file
    refuse_not_floating(folder, held)
    model = load_weights(base, "float32", "eager", torch.device("cpu"))
    _refuse_tied(folder, held, getattr(model, "all_tied_weights_keys", {}))
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(folder))
        _refuse_unused(folder, set(held), set(peft.get_peft_model_state_dict(adapted)))
        merged = adapted.merge_and_unload(safe_merge=True)
        merged.save_pretrained(target, safe_serialization=True)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{folder}: peft could not merge the adapter with {base}: {one_line(error)}"
        ) from error
    _copy_tokenizer(Path(folder), Path(base), target)
    return {"adapter": str(folder), "base": str(base), "merged_by": f"peft {peft.__version__}"}


def _revision(folder: Path, settings: dict[str, Any]) -> str:
    revision = settings.get("revision") or "main"
    if not isinstance(revision, str) or not re.fullmatch(r"\S+", revision):
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: `revision` is {revision!r}, no branch, tag or commit of "
            "the base"
        )
    return revision


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise UserError(
            f"{folder}: holds an adapter of type {kind}; only LORA is merged with its base: merge "
            "it yourself if it can be, and give the merged folder"
        )
    unknown: dict[str, Any] = {
        name: value
        for name, value in settings.items()
        if name not in _UNDERSTOOD
        and value not in (None, False, [], {}, "")
        # of kinds that are not asked for by a setting of their own
        and name not in ("loftq_config", "megatron_core", "qalora_group_size")
    }
    if settings.get("bias") not in (None, "none"):
        unknown["bias"] = settings["bias"]
    if settings.get("init_lora_weights", True) not in (True, False, "gaussian"):
        unknown["init_lora_weights"] = settings["init_lora_weights"]
    if unknown:
        name, value = next(iter(unknown.items()))
        raise UserError(
            f"{folder}: holds an adapter with `{name}: {value}`, which is not merged here: merge "
            "it yourself (`merge_and_unload()`, then `save_pretrained`) and give the merged folder"
        )


def _refuse_tied(folder: str | Path, held: Iterable[str], tied: dict[str, str]) -> None:
    """Refuse an adapter of an embedding that is also the output layer: merging changes both."""
    modules = {name.removesuffix(".weight") for pair in tied.items() for name in pair}
    for key in sorted(held):
        if any(f".{module}.lora_" in key for module in modules):
            raise UserError(
                f"{folder}: the adapter changes {key.split('.lora_')[0]}, which its base shares "
                "with another layer: merging would change both"
            )


def _refuse_unused(folder: str | Path, held: set[str], used: set[str]) -> None:
    """Refuse an adapter of which a tensor was not loaded, or made up, since names do not fit."""
    for names, what in (
        (held - used, "fits nothing in its base"),
        (used - held, "is not in the adapter"),
    ):
        if names:
            raise UserError(
                f"{folder}: the adapter and its base do not belong together: {min(names)} {what} "
                f"({len(names)} such tensors)"
            )


def _copy_tokenizer(adapter: Path, base: Path, target: Path) -> None:
    """Copy the tokenizer: the adapter's over the base's, or alone if it has a vocabulary."""
    own = tokenizer_files(adapter)
    complete = any(matches(name, VOCABULARY) for name in own)
    _copy([] if complete else tokenizer_files(base), base, target)
    _copy(own, adapter, target)


def _copy(names: list[str], source: Path, target: Path) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
