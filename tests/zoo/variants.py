"""Shapes of published checkpoints that a type's defaults do not show, and multimodal models."""

from __future__ import annotations

from typing import Any

_LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 32,
    },
    "original_max_position_embeddings": 32,
}
_DYNAMIC = {
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "max_position_embeddings": 32,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_GEMMA4 = {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0}
_GRANITE4 = {
    "layer_types": ["attention"] * 4,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "shared_intermediate_size": 96,
}

# name -> (type, changes of its settings, attention)
VARIANTS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "Llama 3 (scaled RoPE, tied embeddings)": (
        "llama",
        {"rope_parameters": _LLAMA3, "tie_word_embeddings": True},
        None,
    ),
    "Llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}, None),
    "Llama, one layer without attention": (
        "llama",
        {"per_layer_config": {1: {"skip": ["attention"]}}},
        None,
    ),
    "Llama, dynamic RoPE": ("llama", _DYNAMIC, None),
    "Llama, not causal": ("llama", {"is_causal": False}, None),
    "EmbeddingGemma (bidirectional)": (
        "gemma3_text",
        {"use_bidirectional_attention": True},
        None,
    ),
    "Phi-3.5, Phi-4-mini (longrope)": ("phi3", _LONGROPE, None),
    "InternLM 3 (dynamic RoPE)": ("internlm3", _DYNAMIC, None),
    "Gemma 4 31B (keys are values)": (
        "gemma4_text",
        _GEMMA4 | {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        None,
    ),
    "Gemma 4 E2B (shared keys and values)": (
        "gemma4_text",
        {
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "hidden_size_per_layer_input": 16,
        },
        None,
    ),
    "Gemma 4 26B-A4B (experts)": (
        "gemma4_text",
        _GEMMA4
        | {
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
            "attention_k_eq_v": True,
        },
        None,
    ),
    "Qwen3.5, full attention in every layer": (
        "qwen3_5_text",
        {"layer_types": ["full_attention"] * 4},
        None,
    ),
    "Falcon 40B": (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2},
        None,
    ),
    "Falcon 7B": ("falcon", {"multi_query": True, "new_decoder_architecture": False}, None),
    "Falcon RW": (
        "falcon",
        {
            "multi_query": False,
            "new_decoder_architecture": False,
            "alibi": True,
            "bias": True,
            "parallel_attn": False,
            "num_kv_heads": 4,
        },
        None,
    ),
    "GPTBigCode, one key per head": ("gpt_bigcode", {"multi_query": False}, None),
    "GPTBigCode, StarCoder": ("gpt_bigcode", {"multi_query": True}, None),
    "DeepSeek V2 Lite": ("deepseek_v2", {"q_lora_rank": None}, None),
    "Granite 4 dense": ("granitemoehybrid", _GRANITE4, None),
    "Granite 4 H": (
        "granitemoehybrid",
        {"layer_types": ["mamba", "attention", "mamba", "mamba"]},
        None,
    ),
    "LFM2": ("lfm2", {"layer_types": ["conv", "conv", "full_attention", "conv"]}, None),
    "Nemotron-H": ("nemotron_h", {"layers_block_type": ["mamba", "mlp", "attention", "mlp"]}, None),
    "MiniMax-01, lightning attention": (
        "minimax",
        {"layer_types": ["linear_attention"] * 4},
        None,
    ),
    "OPT 350M": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}, None),
    "GPT-NeoX, sequential": ("gpt_neox", {"use_parallel_residual": False}, None),
    "GPT-2 with cross-attention": ("gpt2", {"add_cross_attention": True}, None),
    "BLOOM, slow and exact": ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}, None),
    "Zamba, hybrid in every layer": ("zamba", {"layers_block_type": ["hybrid"] * 4}, None),
    "gpt-oss": (
        "gpt_oss",
        {"layer_types": ["sliding_attention", "full_attention"] * 2},
        "eager",
    ),
    "BERT as a decoder": ("bert", {"is_decoder": True}, None),
    "Llama 3.2 Vision, text layers only": (
        "mllama",
        {"text_config": {"cross_attention_layers": []}},
        None,
    ),
}

_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
# Multimodal types measured on text; towers have as many layers as the text on purpose.
MULTIMODAL: dict[str, dict[str, Any]] = {
    "aya_vision": {},
    "cohere2_vision": {},
    "gemma3": {},
    "gemma4": {},
    "glm4v": {"text_config": {"rope_parameters": _MROPE}},
    "idefics3": {},
    "internvl": {},
    "kimi_k25": {"text_config": {"head_dim": 8, "num_key_value_heads": 4}},
    "lfm2_vl": {},
    "llama4": {},
    "llava": {},
    "minimax_m3_vl": {},
    "mistral3": {},
    "mllama": {},
    "paligemma": {},
    "qwen2_5_vl": {"text_config": {"rope_parameters": _MROPE}},
    "qwen2_vl": {
        "text_config": {"rope_parameters": _MROPE},
        "vision_config": {"embed_dim": 64, "mlp_ratio": 1},
    },
    "qwen3_5": {},
    "qwen3_5_moe": {},
    "qwen3_vl": {},
    "qwen3_vl_moe": {},
    "smolvlm": {},
}
