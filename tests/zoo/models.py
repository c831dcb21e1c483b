"""Tiny random models of every architecture of transformers, made from its own default shapes.

A configuration class says which settings it has; each that decides a size is replaced by a small
one. What a class needs beyond that is in `CHANGES`. Nothing here knows how the engine works.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

LAYERS = 4
DROP = object()  # leave a setting at the default of its class


def _same(value: int, *names: str) -> dict[str, int]:
    return dict.fromkeys(names, value)


SMALL: dict[str, float] = {
    **_same(
        64, "hidden_size", "n_embd", "d_model", "dim", "embedding_size", "emb_dim", "lru_width"
    ),
    **_same(64, "input_embedding_size", "output_embedding_size", "word_embed_proj_dim"),
    **_same(64, "attention_hidden_size", "backbone_hidden_size", "out_hidden_size"),
    **_same(96, "intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"),
    **_same(96, "ffn_hidden_size", "dff", "dim_ff", "feed_forward_size", "intermediate_size_mlp"),
    **_same(96, "dense_intermediate_size"),
    **_same(48, "shared_intermediate_size"),
    **_same(
        32, "moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"
    ),
    **_same(32, "moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"),
    **_same(LAYERS, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"),
    **_same(LAYERS, "encoder_layers", "num_decoder_layers", "num_encoder_layers", "depth"),
    **_same(4, "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"),
    **_same(4, "encoder_attention_heads", "num_decoder_attention_heads", "attention_heads"),
    **_same(4, "num_encoder_attention_heads", "swa_num_attention_heads"),
    **_same(2, "num_key_value_heads", "num_kv_heads", "num_global_key_value_heads"),
    **_same(2, "swa_num_key_value_heads"),
    **_same(16, "head_dim", "dim_head", "d_kv", "kv_channels", "attention_head_size"),
    **_same(16, "global_head_dim", "swa_head_dim", "attention_head_dim"),
    # latent and sparse attention
    **_same(24, "q_lora_rank", "qk_head_dim"),
    **_same(16, "kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "o_lora_rank"),
    **_same(16, "index_head_dim", "index_topk", "rel_hidden_size"),
    **_same(8, "qk_rope_head_dim", "d_rel", "index_block_size", "block_size"),
    **_same(4, "index_n_heads"),
    **_same(2, "o_groups", "index_topk_blocks"),
    # experts
    **_same(4, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    **_same(2, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"),
    **_same(2, "zero_expert_num"),
    **_same(1, "n_group", "topk_group", "num_expert_group", "n_shared_experts"),
    **_same(1, "num_shared_experts", "first_k_dense_replace", "moe_layer_start_index"),
    **_same(1, "num_dense_layers", "expert_layer_offset"),
    **_same(LAYERS - 1, "moe_layer_end_index"),
    **_same(2, "expert_layer_period"),
    # state spaces and linear attention
    **_same(
        16, "mamba_d_state", "mamba_d_head", "mamba_chunk_size", "state_size", "ssm_state_size"
    ),
    **_same(16, "mamba_head_dim", "chunk_size", "linear_key_head_dim", "linear_value_head_dim"),
    **_same(16, "linear_head_dim"),
    **_same(128, "mamba_d_ssm"),
    **_same(8, "mamba_n_heads", "mamba_num_heads"),
    **_same(4, "mamba_dt_rank", "time_step_rank", "linear_num_value_heads", "linear_num_heads"),
    **_same(2, "n_mamba_heads", "linear_num_key_heads", "attn_layer_period"),
    **_same(1, "n_groups", "n_mamba_groups", "attn_layer_offset"),
    **_same(3, "conv_L_cache"),
    **_same(16, "block_multiple_of"),
    # windows, all shorter than the samples
    **_same(8, "sliding_window", "sliding_window_size", "attention_chunk_size", "window_size"),
    **_same(8, "attention_window_size", "local_attention_window_len"),
    **_same(16, "local_attention"),
    **_same(2048, "keep_window_size"),
    # vocabulary and positions
    **_same(300, "vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input"),
    **_same(300, "unpadded_vocab_size"),
    **_same(
        512, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"
    ),
    **_same(512, "max_target_positions", "original_max_position_embeddings"),
    **_same(0, "pad_token_id"),
    **_same(1, "bos_token_id", "decoder_start_token_id", "cls_token_id"),
    **_same(2, "eos_token_id", "sep_token_id", "forced_eos_token_id", "eod_token_id"),
    **_same(2, "type_vocab_size", "max_window_layers", "num_layers_per_stack"),
    **_same(3, "unk_token_id"),
    "initializer_range": 0.2,
    "init_std": 0.2,
    # parts that a few families have
    **_same(16, "hidden_size_per_layer_input", "ple_embed_dim", "prompt_mid_dim"),
    **_same(16, "pronunciation_embed_dim", "shape_embed_dim", "image_seq_length"),
    **_same(50, "pronunciation_vocab_size", "shape_vocab_size", "audio_vocab_size"),
    **_same(8, "laurel_rank", "hc_lowrank", "gated_norm_rank", "rotary_dim", "prompt_length"),
    **_same(8, "log_scaling_n_floor", "make_ngram_vocab_size_divisible_by", "num_mel_bins"),
    **_same(32, "rel_extent", "image_size"),
    **_same(2, "n_layers_per_attn_res_block", "split_ngram_parts", "heads_per_ngram"),
    **_same(2, "num_codebooks", "temporal_patch_size"),
    **_same(97, "ngram_vocab_size_base"),
    **_same(64, "max_source_positions"),
    **_same(16, "patch_size", "num_position_embeddings"),
    **_same(1, "num_kv_shared_layers"),
    **_same(0, "num_nextn_predict_layers"),
    **_same(4, "mm_tokens_per_image"),
    # tokens that stand for images and sounds: above every token of the samples
    **_same(290, "image_token_id", "image_token_index"),
    **_same(291, "video_token_id"),
    **_same(292, "audio_token_id"),
    **_same(293, "boi_token_id", "boi_token_index", "vision_start_token_id"),
    **_same(294, "eoi_token_id", "eoi_token_index", "vision_end_token_id"),
    **_same(295, "boa_token_id"),
    **_same(296, "eoa_token_id", "eoa_token_index"),
}
LAYER_LISTS = {"layer_types", "mlp_layer_types", "layers_block_type", "block_types"}
LAYER_LISTS |= {"indexer_types", "attn_layers"}

_LATENT = {"head_dim": DROP, "num_key_value_heads": 4}
_INDEXED = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}
_BLT = {"hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 16}
# Changes of the shrunken settings that a class checks or computes with.
CHANGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "bailing_hybrid", "deepseek_v3", "deepseek_v32", "axk2"), _LATENT),
    **dict.fromkeys(("glm4_moe_lite", "glm_moe_dsa", "kimi_linear", "minicpm3", "youtu"), _LATENT),
    "deepseek_v2": _LATENT | {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "mistral4": _LATENT,
    "hy_v4": {"head_dim": DROP, "indexer_types": ["full", "full", "shared", "shared"]},
    "longcat_flash": {"head_dim": 8, "num_key_value_heads": 4},
    **{t: {"head_dim": 16} for t in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "blt": {
        "encoder_hash_byte_group_vocab": 500,
        "encoder_config": {"hidden_size_global": 128},
        "decoder_config": {"hidden_size_global": 128},
        "global_config": _BLT,
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 3, 3],
            },
            "full_attention": None,
        },
    },
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {
        "num_key_value_heads": 4,
        "num_attention_heads": 4,
        "head_dim": 24,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "layer_types": ["indexed_attention"] * 4,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "attention_layers": DROP},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"] * 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "qwen4_exp_text": _INDEXED,
    "qwen4_exp": {"text_config": _INDEXED},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh", "local", "lsh"],
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [32, 32],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 32},
    "zamba2": {"attention_hidden_size": 128, "attention_head_dim": 32},
    "zaya": {"num_experts_per_tok": 1},
    "gemma3n_text": {
        "num_hidden_layers": 5,
        "layer_types": ["sliding_attention", "full_attention"] * 2 + ["full_attention"],
        "intermediate_size": 96,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0, 0.0],
        "num_kv_shared_layers": 2,
    },
    "gemma4_assistant": {
        "text_config": {
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 4,
        }
    },
}


def tiny_config(architecture: str, changes: dict[str, Any] | None = None):
    """Return a small configuration of a ``model_type`` of transformers."""
    config_class = CONFIG_MAPPING[architecture]
    asked = CHANGES.get(architecture, {}) | (changes or {})
    return config_class(**_shrunken(config_class, asked))


def tiny_model(
    architecture: str,
    changes: dict[str, Any] | None = None,
    attention: str | None = None,
    auto: Any = AutoModelForCausalLM,
    seed: int = 0,
):
    """Return a float32 model in evaluation mode with random weights, norms and biases too."""
    config = tiny_config(architecture, changes)
    with torch.device("meta"):
        count = sum(p.numel() for p in auto.from_config(copy.deepcopy(config)).parameters())
    if count > 60e6:
        raise RuntimeError(f"{count / 1e6:.0f} million parameters are not tiny")
    torch.manual_seed(seed)
    chosen = {} if attention is None else {"attn_implementation": attention}
    model = auto.from_config(config, dtype=torch.float32, **chosen)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
                # what is constant or tiny would hide a layout that is wrong
                if parameter.ndim <= 1 or parameter.float().std() < 0.02:
                    parameter.add_(0.1 * noise)
    return model.eval()


def _shrunken(config_class: type, asked: dict[str, Any]) -> dict[str, Any]:
    default = config_class()
    settings: dict[str, Any] = {}
    for name, value in default.to_dict().items():
        if name.startswith("_") or name in ("transformers_version", "model_type"):
            continue
        if isinstance(value, dict):
            part = getattr(default, name, None)
            if hasattr(part, "to_dict") and name.endswith(("config", "_encoder", "decoder")):
                settings[name] = _shrunken(type(part), asked.get(name) or {})
        elif isinstance(value, list | tuple):
            if name in LAYER_LISTS and value:
                settings[name] = _few_layers(list(value))
        elif name in SMALL and isinstance(value, int | float) and not isinstance(value, bool):
            settings[name] = SMALL[name]
    parts = {name for name, value in settings.items() if isinstance(value, dict)}
    settings |= {name: value for name, value in asked.items() if name not in parts}
    return {name: value for name, value in settings.items() if value is not DROP}


def _few_layers(types: list) -> list:
    """Return the kinds of layers of a model in `LAYERS` layers, every kind at least once."""
    kinds = list(dict.fromkeys(types))
    if len(kinds) > 1:  # the kind of the last layer matters to some classes
        kinds.remove(types[-1])
        kinds.append(types[-1])
    few = [kinds[i % len(kinds)] for i in range(LAYERS)]
    if len(kinds) <= LAYERS:
        few[-1] = types[-1]
    return few
