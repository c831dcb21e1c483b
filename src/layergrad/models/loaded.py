"""Whether a loaded model is the checkpoint, whole: what was made up or left out is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from layergrad.errors import UserError
from layergrad.models.checkpoint import FLOATS, Stored, refuse_not_floating

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# What names of tensors carry when a wrapped model was saved -> what to save instead.
_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "base_model.model.": "PEFT",
    ".base_layer.": "PEFT",
    "_forward_module.": "DeepSpeed or Lightning",
    "module.": "DDP",
}
_QUANTISED = re.compile(
    r"(scales?|scale_inv|scale_2|qweight|qzeros|g_idx|absmax|quant_map|quant_state[\w.]*|SCB"
    r"|weight_format|weight_packed|weight_shape|zero_point|trellis|suh|svh|codes|codebooks|blocks)$"
)
# Modules that see, hear or connect, beside the language part of a multimodal checkpoint.
_OTHER_PARTS = re.compile(r"(^|\.)(vision|visual|image|audio|multi_?modal|mm)(_\w+)?\.")


def language_part(names: Iterable[str]) -> set[str]:
    """Return those names of tensors that belong to the language part of a multimodal model."""
    return {name for name in names if not _OTHER_PARTS.search(name)}


def refuse_incomplete(where: Any, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Refuse a model of which a tensor did not come from the checkpoint, or that left one out.

    Parameters
    ----------
    where
        What was loaded, for the message.
    model
        The model that was loaded.
    info
        What transformers reports with ``output_loading_info=True``. Tensors that it ties, or that
        the class declares ignorable in a checkpoint, are no longer in it.
    """
    wanted = sorted(info["missing_keys"])
    held = sorted(info["unexpected_keys"])
    reshaped = sorted(info["mismatched_keys"])
    if reshaped:
        name, in_file, in_model = reshaped[0]
        raise UserError(
            f"{where}: {name} has shape {tuple(in_file)} in the checkpoint, {tuple(in_model)} by "
            f"config.json{_more(reshaped)}: the two do not belong together"
        )
    if not wanted and not held:
        return
    sides = []
    if held:
        sides.append(f"the checkpoint holds {held[0]}{_more(held)}, which the model does not use")
    if wanted:
        sides.append(
            f"{type(model).__name__} wants {wanted[0]}{_more(wanted)}, which the checkpoint lacks"
        )
    raise UserError(f"{where}: {'; '.join(sides)}. {_advice(held, wanted)}")


def _more(names: list[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _advice(held: list[str], wanted: list[str]) -> str:
    for mark, wrapper in _WRAPPERS.items():
        if any(name.startswith(mark) or f".{mark.lstrip('.')}" in name for name in held):
            return (
                f"The names carry `{mark.strip('.')}`, as a model wrapped by {wrapper} is saved: "
                "save the model without its wrapper"
            )
    if any(_QUANTISED.search(name) for name in held):
        return "The weights look quantised: give the unquantised checkpoint"
    if not held and all("head" in name or "embed_out" in name for name in wanted):
        return (
            "Weights without a language-model head (an embedding or reward model) give no loss of "
            "next tokens: give the causal language model"
        )
    return (
        "Weights that are missing would be random, weights that are left out would not be "
        "measured: give the checkpoint and the config.json that belong together"
    )


def refuse_integer_parameters(
    where: Any, model: PreTrainedModel, tensors: dict[str, Stored], unused: Iterable[str]
) -> None:
    """Refuse parameters stored as integers, truth values or complex numbers: loading casts them.

    Parameters
    ----------
    where
        What was loaded, for the message.
    model
        The model that was loaded.
    tensors
        What the checkpoint holds.
    unused
        Names of those that were not loaded.
    """
    parameters = {_last_two(name) for name, _ in model.named_parameters()}
    buffers = {_last_two(n) for n, b in model.named_buffers() if not b.is_floating_point()}
    ignored = model._keys_to_ignore_on_load_unexpected or ()

    def is_parameter(name: str) -> bool:
        end = _last_two(name)  # prefixes of the checkpoint and of the model differ
        if end in parameters:
            return True
        dropped = name in unused or any(re.search(pattern, name) for pattern in ignored)
        return not dropped and end not in buffers

    odd = {name: stored for name, stored in tensors.items() if stored.dtype not in FLOATS}
    refuse_not_floating(where, {n: stored for n, stored in odd.items() if is_parameter(n)})


def _last_two(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def refuse_not_finite(where: Any, model: PreTrainedModel) -> None:
    """Refuse a model with a weight that is NaN or infinite, naming it."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"{where}: {name} is not finite in {str(tensor.dtype).removeprefix('torch.')} (it "
                "holds NaN or infinity): training diverged or the file is damaged"
            )


def refuse_unplaced(where: Any, model: PreTrainedModel, device: torch.device) -> None:
    """Refuse a model of which a part did not fit on the devices, and waits on the CPU or a disk."""
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    aside = sorted(
        places & ({"cpu", "disk", "meta"} if device.type == "cuda" else {"disk", "meta"})
    )
    unloaded = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if aside or unloaded:
        what = f"layers were left on {aside[0]}" if aside else f"{unloaded[0]} was not loaded"
        raise UserError(
            f"{where}: the weights do not fit on the devices ({what}): give the job more GPUs "
            "(`gpus`) or use bfloat16"
        )
