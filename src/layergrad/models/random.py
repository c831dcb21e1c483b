"""Models of any shape with random weights and a byte-level tokenizer, for tests and benchmarks."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergrad.config import RandomModel
from layergrad.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# Small enough for a test, with grouped key and value heads where the architecture has them.
TINY = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 2048,
    "vocab_size": 300,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def random_model(architecture: str, shape: dict[str, Any], seed: int) -> PreTrainedModel:
    """Return a float32 causal language model with random weights.

    Parameters
    ----------
    architecture
        ``model_type`` of transformers.
    shape
        Arguments of the configuration class; those of `TINY` that it knows fill in the rest.
    seed
        Seed of the weights.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if architecture not in CONFIG_MAPPING:
        raise UserError(f"transformers knows no architecture {architecture!r}")
    config_class = CONFIG_MAPPING[architecture]
    known = _settings(config_class)
    renamed = {getattr(config_class, "attribute_map", {}).get(k, k): v for k, v in TINY.items()}
    settings = {k: v for k, v in renamed.items() if k in known} | shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config_class(**settings), dtype=torch.float32)
        # transformers zeroes biases and sets norms to one: random ones show a layout that is wrong
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                noise = torch.randn_like(parameter) * 0.1
                parameter.data.add_(noise if name.endswith("bias") else 0.5 * noise)
    return model.eval()


def _settings(config_class: type) -> set[str]:
    names = set(inspect.signature(config_class.__init__).parameters)
    for parent in config_class.__mro__:
        names |= set(getattr(parent, "__annotations__", {}))
    return names


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes with BOS, EOS, padding and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True)),
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_random_model(source: RandomModel, folder: Path) -> None:
    """Save a random model and its tokenizer as a model folder."""
    random_model(source.architecture, source.shape, source.seed).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
