"""Loading a fetched model: explicit precision and attention, frozen weights, no foreign code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergrad.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def choose_device(wanted: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; refuse `cuda` where there is none."""
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError(
            "device cuda was asked for, but torch sees no CUDA device: check `nvidia-smi`, that "
            "torch is a CUDA build, and CUDA_VISIBLE_DEVICES; or use device cpu"
        )
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the tokenizer could not be loaded: {error}") from None


def load_model(
    folder: str | Path, dtype: str, attention: str, device: torch.device
) -> PreTrainedModel:
    """Load a model for gradients of activations: weights frozen, evaluation mode.

    Parameters
    ----------
    folder
        Folder with ``config.json`` and safetensors.
    dtype
        ``float32``, ``bfloat16`` or ``float64``; the precision the checkpoint was saved in does
        not matter.
    attention
        ``eager`` or ``sdpa``.
    device
        A CPU, or CUDA; with several visible CUDA devices the layers are spread over them.

    Raises
    ------
    UserError
        If the folder holds no model that transformers knows, or the weights do not fit in memory.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _check_memory(folder, dtype, device)
    several = device.type == "cuda" and torch.cuda.device_count() > 1
    placement: dict[str, Any] = {"device_map": "auto" if several else {"": device}}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            **placement,
        )
    except torch.OutOfMemoryError:
        raise UserError(f"{folder}: the weights do not fit on {device} in {dtype}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the model could not be loaded: {error}") from None
    return model.requires_grad_(False).eval()


def _check_memory(folder: str | Path, dtype: str, device: torch.device) -> None:
    """Refuse weights that are larger than the memory they would go to."""
    import psutil
    import torch

    weights = parameter_count(folder) * torch.finfo(getattr(torch, dtype)).bits // 8
    if device.type == "cuda":
        devices = range(torch.cuda.device_count())
        free = sum(torch.cuda.mem_get_info(i)[0] for i in devices)
    else:
        free = psutil.virtual_memory().available
    if weights > free:
        raise UserError(
            f"{folder}: {weights / 1e9:.1f} GB of weights in {dtype} do not fit in the "
            f"{free / 1e9:.1f} GB free on {device}: give the job more GPUs (`gpus`) or use bfloat16"
        )


def parameter_count(folder: str | Path) -> int:
    """Return the number of parameters in a folder's safetensors, read from their headers."""
    from safetensors import safe_open

    total = 0
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                shape = tensors.get_slice(name).get_shape()
                total += _product(shape)
    return total


def _product(shape: list[int]) -> int:
    result = 1
    for side in shape:
        result *= side
    return result
