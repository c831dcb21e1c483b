"""Loading a fetched model: explicit precision and attention, frozen weights, no foreign code.

Only the model's own files are seen, and what was loaded must be the checkpoint, whole: a weight
that would be random, left out, quantised or not finite is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergrad.errors import UserError
from layergrad.models.checkpoint import (
    Stored,
    parameter_count,
    refuse_quantised,
    refuse_quantised_tensors,
    stored_tensors,
)
from layergrad.models.files import (
    CONFIG,
    VOCABULARY,
    is_adapter,
    matches,
    model_files,
    read_object,
    tokenizer_files,
    view,
)
from layergrad.models.loaded import (
    language_part,
    refuse_incomplete,
    refuse_integer_parameters,
    refuse_not_finite,
    refuse_unplaced,
)

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


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
    """Load the tokenizer of a model folder.

    Raises
    ------
    UserError
        If it is missing, broken, or needs code of its own.
    """
    from transformers import AutoTokenizer

    names = tokenizer_files(folder)
    if not any(matches(name, VOCABULARY) for name in names):
        raise UserError(
            f"{folder}: holds no tokenizer (tokenizer.json, tokenizer.model, vocab.json, ...): "
            "fetch the model again, or copy the tokenizer of the model that it was trained from"
        )
    for name in names:
        if name.endswith(".json"):
            read_object(Path(folder, name))
    if Path(folder, CONFIG).exists():
        names.append(CONFIG)
    try:
        with view(folder, names) as files:
            if CONFIG in names:
                _read_config(folder, files)  # refuses a broken one in words of its own
            tokenizer = AutoTokenizer.from_pretrained(str(files), trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{folder}: the tokenizer could not be loaded: {_reason(error)}") from error
    if len(tokenizer) <= len(tokenizer.get_added_vocab()):
        raise UserError(f"{folder}: the tokenizer is empty: fetch the model again")
    return tokenizer


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
        If the folder holds no model that transformers knows, the weights are broken, quantised,
        not finite, not those of the architecture or only an adapter, or they do not fit in memory.
    """
    if is_adapter(folder):
        raise UserError(
            f"{folder}: holds an adapter, which `layergrad fetch` merges with its base; it is "
            "never applied on the way"
        )
    return load_weights(folder, dtype, attention, device)


def load_weights(
    folder: str | Path, dtype: str, attention: str, device: torch.device
) -> PreTrainedModel:
    """Load a model as :func:`load_model` does, without the adapter that may lie beside it."""
    import torch

    names = model_files(folder)
    refuse_quantised(folder)
    tensors = stored_tensors(folder)
    refuse_quantised_tensors(folder, tensors)
    _check_memory(folder, tensors, dtype, device)
    several = device.type == "cuda" and torch.cuda.device_count() > 1
    with view(folder, names) as files:
        config = _read_config(folder, files)
        config._attn_implementation = attention  # over what config.json may name
        try:
            model, info = _auto_class(folder, config).from_pretrained(
                str(files),
                config=config,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
                device_map="auto" if several else {"": device},
            )
        except (torch.OutOfMemoryError, MemoryError):
            raise UserError(f"{folder}: the weights do not fit on {device} in {dtype}") from None
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{folder}: {_why_not_loaded(error, attention)}") from error
    unused = info["unexpected_keys"]
    if type(model.config) is not type(config):  # the language part alone of a larger model
        info["unexpected_keys"] = language_part(unused)
    refuse_incomplete(folder, model, info)
    refuse_integer_parameters(folder, model, tensors, unused)
    refuse_unplaced(folder, model, device)
    refuse_not_finite(folder, model)
    return model.requires_grad_(False).eval()


def _read_config(folder: str | Path, files: Path) -> PretrainedConfig:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    settings = read_object(files / CONFIG)
    kind = settings.get("model_type")
    if kind is None:
        raise UserError(f"{Path(folder, CONFIG)}: names no `model_type`: is it a model's?")
    if not isinstance(kind, str):
        raise UserError(
            f"{Path(folder, CONFIG)}: `model_type` is {str(kind)[:80]}, not the name of an "
            "architecture: fetch the model again"
        )
    if kind not in CONFIG_MAPPING:
        if settings.get("auto_map"):
            raise _needs_code(folder, kind)
        raise UserError(
            f"{folder}: transformers {transformers.__version__} has no architecture {kind!r}"
        )
    try:
        return transformers.AutoConfig.from_pretrained(str(files), trust_remote_code=False)
    except Exception as error:
        raise UserError(
            f"{Path(folder, CONFIG)}: is no configuration of {kind}: {_reason(error)}"
        ) from error


def _auto_class(folder: str | Path, config: PretrainedConfig) -> Any:
    """Return the automatic class that knows a configuration: a language model, alone or in part."""
    import transformers

    for mapping, auto in (
        (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.AutoModelForCausalLM),
        (
            transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
            transformers.AutoModelForImageTextToText,
        ),
    ):
        if type(config) in mapping:
            return auto
    if getattr(config, "auto_map", None):
        raise _needs_code(folder, config.model_type)
    raise UserError(f"{folder}: {config.model_type} is no causal language model of transformers")


def _needs_code(folder: str | Path, kind: str) -> UserError:
    return UserError(
        f"{folder}: {kind} needs code that comes with the model, which is never run: give a "
        "version of the model in an architecture that transformers has"
    )


def _why_not_loaded(error: Exception, attention: str) -> str:
    text = str(error)
    if "scaled_dot_product_attention" in text or "attn_implementation" in text:
        return (
            f"this architecture does not support attention {attention!r}: set `attention: eager` "
            "for this model (`--attention eager`)"
        )
    if "automatic conversion" in text:
        return "the tensors of the checkpoint cannot be turned into those of the architecture"
    return f"the model could not be loaded: {_reason(error)}"


def _reason(error: Exception) -> str:
    """Return what went wrong in one line, without advice that cannot be followed here."""
    line = " ".join(str(error).split()) or "no reason"
    line = line if len(line) <= 300 else f"{line[:300]}..."
    if "trust_remote_code" in str(error):
        return "it needs code that comes with the model, which is never run"
    return line if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {line}"


def _check_memory(
    folder: str | Path, tensors: dict[str, Stored], dtype: str, device: torch.device
) -> None:
    """Refuse weights that are larger than the memory they would go to."""
    import psutil
    import torch

    weights = parameter_count(tensors) * torch.finfo(getattr(torch, dtype)).bits // 8
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
