"""What a checkpoint's files hold, from their headers: broken and quantised ones are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from layergrad.errors import UserError
from layergrad.models.files import (
    CONFIG,
    QUANTISATION,
    read_object,
    refuse_pointer,
    weight_files,
)

FLOATS = {"F64", "F32", "F16", "BF16"}
_QUANTISATION_ENTRIES = ("quantization_config", "compression_config", "quantization")


class Stored(NamedTuple):
    """A tensor as its header describes it: shape, and dtype in the words of safetensors."""

    shape: tuple[int, ...]
    dtype: str


def stored_tensors(folder: str | Path) -> dict[str, Stored]:
    """Return every tensor that a model's safetensors hold, by name.

    Raises
    ------
    UserError
        If a file is broken, cut short, empty or a Git LFS pointer, or two files hold the same
        tensor.
    """
    tensors: dict[str, Stored] = {}
    for name in weight_files(folder):
        if name.endswith(".json"):
            continue
        for tensor, stored in header_of(Path(folder, name)):
            if tensor in tensors:
                raise UserError(
                    f"{folder}: two of its files hold the tensor {tensor}, one of them {name}: "
                    "save the model anew with transformers' save_pretrained"
                )
            tensors[tensor] = stored
    return tensors


def header_of(path: Path) -> Iterator[tuple[str, Stored]]:
    """Yield the tensors of one safetensors file with their descriptions."""
    from safetensors import SafetensorError, safe_open

    refuse_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                tensor = file.get_slice(name)
                yield name, Stored(tuple(tensor.get_shape()), str(tensor.get_dtype()))
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        what = "is empty" if not path.stat().st_size else f"is broken or cut short ({error})"
        raise UserError(f"{path}: {what}: fetch it again") from None


def parameter_count(tensors: dict[str, Stored]) -> int:
    """Return the number of parameters of tensors."""
    return sum(math.prod(stored.shape) for stored in tensors.values())


def refuse_quantised(folder: str | Path) -> None:
    """Refuse a folder whose files say that its weights are quantised, before it is loaded.

    transformers skips methods that it does not know, and some that it knows change what a forward
    pass computes: gradients of such a model are not those of any weights.
    """
    folder = Path(folder)
    found = _quantisation(read_object(folder / CONFIG), CONFIG)
    for name in QUANTISATION:
        if found is None and (folder / name).exists():
            settings = read_object(folder / name)
            found = name, _method(settings.get("quantization") or settings)
    if found is not None:
        where, method = found
        raise UserError(
            f"{folder}: the weights are quantised ({method}, says {where}): give the unquantised "
            "checkpoint; if they are not quantised after all, remove that entry"
        )


def refuse_quantised_tensors(folder: str | Path, tensors: dict[str, Stored]) -> None:
    """Refuse weights stored in 8 bits or fewer, or as integers, whatever the configuration says."""
    for name, stored in tensors.items():
        small_float = re.match(r"F[468](_|$)", stored.dtype) is not None
        integer = stored.dtype not in FLOATS and name.endswith("weight")
        if small_float or integer:
            raise UserError(
                f"{folder}: the weights are quantised ({name} is stored as {stored.dtype}): give "
                "the unquantised checkpoint"
            )


def refuse_not_floating(where: Any, tensors: dict[str, Stored]) -> None:
    """Refuse tensors of a training's result that are no floating-point numbers of 16 bits or more.

    Parameters
    ----------
    where
        What holds them, for the message.
    tensors
        Those that become parameters, by name.
    """
    for name, stored in tensors.items():
        if stored.dtype not in FLOATS:
            raise UserError(
                f"{where}: {name} is stored as {stored.dtype}, which holds no trained parameters: "
                "it was quantised or damaged; give a checkpoint in floating-point numbers"
            )


def _quantisation(config: dict[str, Any], where: str) -> tuple[str, str] | None:
    """Find an entry on quantisation, also in the configuration of a part of the model."""
    for entry, value in config.items():
        # transformers takes even an empty `quantization_config` for one
        if entry in _QUANTISATION_ENTRIES and (
            value or (entry == "quantization_config" and value is not None)
        ):
            return f"`{entry}` of {where}", _method(value)
        if isinstance(value, dict):
            found = _quantisation(value, where)
            if found is not None:
                return found
    return None


def _method(settings: Any) -> str:
    if not isinstance(settings, dict):
        return str(settings)
    method = settings.get("quant_method") or settings.get("quant_algo")
    if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = "bitsandbytes"
    bits = settings.get("bits") or settings.get("w_bit")
    return str(method or (f"{bits} bits" if bits else "method not named"))
