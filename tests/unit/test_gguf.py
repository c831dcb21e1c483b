"""A GGUF file becomes safetensors only if every weight of the model came from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from layergrad.errors import UserError
from layergrad.models.fetch import _convert_gguf

WIDTH, HEADS, INNER, LAYERS = 32, 4, 48, 2


def write_gguf(path: Path, left_out: str = "", added: str = "") -> None:
    """Write a llama of two layers with a vocabulary of bytes."""
    import gguf
    from tokenizers import pre_tokenizers

    tokens = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    draw = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH)}
    shapes |= {"output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        part = {f"attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        part |= {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "ffn_down": (WIDTH, INNER)}
        part |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in part.items()}
    shapes |= {added: (WIDTH,)} if added else {}
    for name, shape in shapes.items():
        if name != left_out:
            writer.add_tensor(f"{name}.weight", draw.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_whole_file_is_converted(tmp_path):
    write_gguf(tmp_path / "m.gguf")
    _convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert len(tensors) == 3 + 9 * LAYERS
    draw = np.random.default_rng(0)
    first = draw.normal(size=(259, WIDTH)).astype(np.float32)
    assert torch.equal(tensors["model.embed_tokens.weight"], torch.from_numpy(first))


@pytest.mark.parametrize("name", ["blk.1.attn_q", "output_norm", "blk.0.ffn_gate"])
def test_a_tensor_that_is_missing_is_named(tmp_path, name):
    write_gguf(tmp_path / "m.gguf", left_out=name)
    with pytest.raises(UserError, match=r"wants model\.\S+, which the checkpoint lacks"):
        _convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_is_left_out_is_noticed(tmp_path):
    write_gguf(tmp_path / "m.gguf", added="blk.0.attn_odd")
    with pytest.raises(UserError, match="cannot place all of its tensors"):
        _convert_gguf(tmp_path / "m.gguf", tmp_path / "out")


def test_a_broken_file_is_told_in_one_line(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + b"x" * 100)
    with pytest.raises(UserError, match=r"^m\.gguf: transformers could not read it"):
        _convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
