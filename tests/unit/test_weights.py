"""Weights that are not those of the checkpoint are never measured: refused by name, in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layergrad.config import RandomModel
from layergrad.errors import UserError
from layergrad.models import load, loaded
from layergrad.models.random import byte_tokenizer, random_model, save_random_model

WEIGHTS = "model.safetensors"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_random_model(RandomModel(architecture="llama"), folder)
    return folder


@pytest.fixture
def model(saved, tmp_path) -> Path:
    """A copy of the saved model that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change_tensors(folder: Path, change) -> None:
    tensors = dict(change(load_file(folder / WEIGHTS)))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def change_config(folder: Path, **settings) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def refusal(folder: Path, attention: str = "sdpa") -> str:
    with pytest.raises(UserError) as raised:
        load.load_model(folder, "float32", attention, CPU)
    message = str(raised.value)
    assert message.startswith(str(folder)) and "\n" not in message and len(message) < 700
    return message


def renamed(old: str, new: str):
    return lambda tensors: [(name.replace(old, new, 1), t) for name, t in tensors.items()]


def prefixed(prefix: str):
    return lambda tensors: [(prefix + name, tensor) for name, tensor in tensors.items()]


def without(part: str):
    return lambda tensors: [(name, t) for name, t in tensors.items() if part not in name]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (prefixed("_orig_mod."), ("_orig_mod.lm_head.weight", "torch.compile")),
        (prefixed("module."), ("module.lm_head.weight", "DDP")),
        (renamed("layers.1.", "layers.1._fsdp_wrapped_module."), ("_fsdp_wrapped_module", "FSDP")),
        (prefixed("base_model.model."), ("base_model.model.lm_head.weight", "PEFT")),
        (renamed("q_proj.weight", "q_proj.base_layer.weight"), ("q_proj.base_layer", "PEFT")),
        (prefixed("student."), ("student.lm_head.weight", "wants lm_head.weight")),
        (without("lm_head"), ("wants lm_head.weight", "embedding or reward model")),
        (renamed("lm_head", "score"), ("score.weight", "wants lm_head.weight")),
        (without(".layers.2."), ("wants model.layers.2.", "would be random")),
        (without("layers.1.self_attn.q_proj"), ("wants model.layers.1.self_attn.q_proj.weight",)),
    ],
)
def test_tensors_that_do_not_fit_are_named(model, change, names):
    change_tensors(model, change)
    message = refusal(model)
    assert all(name in message for name in names)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_hidden_layers": 2}, "the checkpoint holds model.layers.2."),
        ({"num_hidden_layers": 4}, "wants model.layers.3."),
        ({"attention_bias": True}, "wants model.layers.0.self_attn."),
        ({"intermediate_size": 96}, r"(48, 64) in the checkpoint, (48, 96) by config.json"),
        ({"vocab_size": 400}, "(300, 48) in the checkpoint, (400, 48)"),
    ],
)
def test_a_configuration_of_other_weights_is_refused(model, settings, named):
    change_config(model, **settings)
    assert named in refusal(model)


@pytest.mark.parametrize(
    "suffix", ["weight_scale", "weight_scale_inv", "qzeros", "weight.absmax", "trellis", "scales"]
)
def test_a_scale_that_would_be_dropped_is_refused(model, suffix):
    def change(tensors):
        yield from tensors.items()
        yield f"model.layers.0.self_attn.q_proj.{suffix}", torch.ones(1)

    change_tensors(model, change)
    message = refusal(model)
    assert f"q_proj.{suffix}" in message and "look quantised" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_weights_of_few_bits_are_refused_whatever_the_configuration_says(model, dtype):
    change_tensors(
        model, lambda t: [(n, x.to(dtype) if "k_proj" in n else x) for n, x in t.items()]
    )
    assert "the weights are quantised (model.layers." in refusal(model)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2]
)
@pytest.mark.parametrize("name", ["ln_1.bias", "c_attn.bias", "ln_f.bias", "ln_f.weight"])
def test_no_parameter_of_another_kind_is_cast(tmp_path, name, dtype):
    random_model("gpt2", {"n_layer": 1}, 0).save_pretrained(tmp_path)
    change_tensors(
        tmp_path, lambda t: {n: x.to(dtype) if n.endswith(name) else x for n, x in t.items()}
    )
    message = refusal(tmp_path)
    assert name in message and "is stored as" in message


def test_a_parameter_without_its_prefix_is_not_cast_either(tmp_path):
    random_model("gpt2", {"n_layer": 1}, 0).save_pretrained(tmp_path)

    def change(tensors):
        for name, tensor in tensors.items():
            name = name.removeprefix("transformer.")
            yield name, tensor.int() if name.endswith("c_attn.bias") else tensor

    change_tensors(tmp_path, change)
    assert "h.0.attn.c_attn.bias is stored as I32" in refusal(tmp_path)


def test_integers_that_are_no_parameters_raise_no_alarm(tmp_path):
    random_model("gpt2", {"n_layer": 1}, 0).save_pretrained(tmp_path)
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8)}
    change_tensors(tmp_path, lambda tensors: tensors | mask)
    load.load_model(tmp_path, "float32", "eager", CPU)


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_model.bin", "adapter_model-00001-of-2.bin"]
)
@pytest.mark.parametrize("beside_a_base", [True, False])
def test_half_an_adapter_never_gives_the_bare_base(model, name, beside_a_base):
    (model / name).write_bytes(b"x")
    if not beside_a_base:
        (model / "config.json").unlink()
    message = refusal(model)
    assert f"({name}) without adapter_config.json" in message and "remove" in message


@pytest.mark.parametrize(
    "method",
    [
        "awq",
        "bitnet",
        "bitsandbytes",
        "compressed-tensors",
        "exl3",
        "fp8",
        "gptq",
        "hqq",
        "modelopt",
        "mxfp4",
        "quanto",
        "torchao",
        "nonsense",
    ],
)
def test_a_quantised_model_is_refused_by_its_method(model, method):
    change_config(model, quantization_config={"quant_method": method})
    assert f"quantised ({method}, says `quantization_config` of config.json)" in refusal(model)


def test_every_other_place_that_says_quantised_is_read(model):
    change_config(model, text_config={"quantization_config": {"quant_method": "awq"}})
    assert "quantised (awq" in refusal(model)
    change_config(model, text_config=None, quantization_config={"load_in_8bit": True})
    assert "quantised (bitsandbytes" in refusal(model)
    change_config(model, quantization_config=None, compression_config={"quant_method": "x"})
    assert "quantised (x" in refusal(model)
    change_config(model, compression_config=None, quantization_config={})
    assert "says `quantization_config` of config.json" in refusal(model)
    change_config(model, quantization_config=None)
    for name, settings, method in (
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}, "FP8"),
        ("quantize_config.json", {"bits": 4}, "4 bits"),
    ):
        (model / name).write_text(json.dumps(settings))
        assert f"quantised ({method}, says {name})" in refusal(model)
        (model / name).unlink()
    load.load_model(model, "float32", "sdpa", CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_named(model, value):
    def change(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        return tensors

    change_tensors(model, change)
    assert "model.layers.1.mlp.up_proj.weight is not finite in float32" in refusal(model)


def test_a_weight_beyond_the_precision_is_named(model):
    big = torch.full((48,), 1e300, dtype=torch.float64)
    change_tensors(model, lambda t: t | {"model.norm.weight": big})
    assert "model.norm.weight is not finite in float32" in refusal(model)


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 313144\n")


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        (WEIGHTS, pointer, "Git LFS pointer"),
        (WEIGHTS, halve, "broken or cut short"),
        (WEIGHTS, lambda path: path.write_bytes(b""), "is empty"),
        (WEIGHTS, lambda path: path.write_bytes(b"x" * 1000), "broken or cut short"),
        (WEIGHTS, Path.unlink, "holds no weights"),
        (WEIGHTS, lambda path: [path.unlink(), path.mkdir()], "could not be read: Is a directory"),
        ("config.json", pointer, "Git LFS pointer"),
        ("config.json", halve, "is not valid JSON"),
        ("config.json", lambda path: path.write_bytes(b""), "is empty"),
        ("config.json", lambda path: path.write_bytes(b"\xff\xfe"), "no text in UTF-8"),
        ("config.json", lambda path: path.write_text("[]"), "no JSON object"),
        ("config.json", lambda path: path.write_text("[" * 100_000), "is not valid JSON"),
        ("config.json", Path.unlink, "no config.json in it"),
    ],
)
def test_a_broken_file_is_named(model, name, spoil, said):
    spoil(model / name)
    assert said in refusal(model)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "evil"}, "has no architecture 'evil'"),
        ({"model_type": "evil", "auto_map": {"AutoConfig": "a.B"}}, "which is never run"),
        ({"model_type": "t5"}, "t5 is no causal language model"),
        ({"model_type": None}, "names no `model_type`"),
        ({"model_type": ["llama"]}, "`model_type` is ['llama'], not the name"),
        ({"model_type": 3}, "`model_type` is 3, not the name"),
        ({"hidden_size": "many"}, "is no configuration of llama"),
        ({"num_attention_heads": 0}, "is no configuration of llama"),
        ({"rope_scaling": {"rope_type": "nonsense"}}, "could not be loaded"),
        ({"transformers_weights": "../elsewhere.safetensors"}, "names no file of the folder"),
        ({"transformers_weights": "a.safetensors"}, "a.safetensors, which `transformers_weights`"),
        ({"transformers_weights": "a.index.json"}, "a.index.json, which `transformers_weights`"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_explained(model, settings, said):
    change_config(model, **settings)
    assert said in refusal(model)


def test_a_kernel_named_in_the_configuration_does_not_matter(model):
    change_config(model, _attn_implementation="flash_attention_2")
    loaded_model = load.load_model(model, "float32", "sdpa", CPU)
    assert loaded_model.config._attn_implementation == "sdpa"


def test_attention_that_an_architecture_lacks_is_told_in_words_of_the_configuration(tmp_path):
    random_model("gptj", {"n_layer": 1, "rotary_dim": 4}, 0).save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert "set `attention: eager`" in message and "request" not in message
    load.load_model(tmp_path, "float32", "eager", CPU)


def shard(folder: Path) -> dict[str, str]:
    """Cut the weights in two files with an index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {}
    for i, names in enumerate((list(tensors)[::2], list(tensors)[1::2]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({n: tensors[n] for n in names}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    write_index(folder, metadata={}, weight_map=places)
    return places


def write_index(folder: Path, **content) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(content))


def test_shards_are_whole_or_refused(model):
    before = load_file(model / WEIGHTS)
    shard(model)
    after = load.load_model(model, "float32", "sdpa", CPU).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)

    first, _second = (model / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    content = first.read_bytes()
    first.unlink()
    assert "of which 1 are absent, the first model-00001-of-00002" in refusal(model)
    shutil.copy(
        model / "model-00002-of-00002.safetensors", model / "model-00001-of-00002.safetensors"
    )
    assert "two of its files hold the tensor" in refusal(model)
    first.write_bytes(content)
    (model / f"{WEIGHTS}.index.json").unlink()
    assert "which says which of its 2 *.safetensors" in refusal(model)


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": "../b.safetensors"}, {"a": 1}])
def test_an_index_that_leads_elsewhere_is_refused(model, weight_map):
    (model / WEIGHTS).unlink()
    write_index(model, metadata={}, weight_map=weight_map)
    assert "is no index of weights" in refusal(model)


def test_an_index_without_metadata_says_what_to_add(model):
    places = shard(model)
    write_index(model, weight_map=places)
    assert "has no `metadata`" in refusal(model)


def test_nothing_but_the_files_of_the_model_is_loaded(model):
    # transformers would take the shards of a distributed checkpoint, and stop at broken settings
    shutil.copy(model / WEIGHTS, model / "shard-00001-model-00001-of-00001.safetensors")
    (model / "consolidated.safetensors").write_bytes(b"broken")
    (model / "generation_config.json").write_text("{")
    before = load_file(model / WEIGHTS)
    after = load.load_model(model, "float32", "sdpa", CPU).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


SETTINGS = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma2": {},
    "gemma3_text": {},
    "phi3": {},
    "olmo2": {},
    "gpt2": {},
    "gpt_neox": {},
    "falcon": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 48},
    "bloom": {},
    "mixtral": {"num_local_experts": 4},
}


@pytest.mark.parametrize("architecture", SETTINGS)
def test_an_ordinary_model_raises_no_alarm(architecture, tmp_path):
    saved = random_model(architecture, SETTINGS[architecture], 0)
    saved.save_pretrained(tmp_path)
    again = load.load_model(tmp_path, "float32", "eager", CPU).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in saved.state_dict().items())


def test_tensors_that_transformers_ignores_raise_no_alarm(model):
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    change_tensors(model, lambda tensors: tensors | old)
    load.load_model(model, "float32", "sdpa", CPU)


def test_a_multimodal_checkpoint_is_loaded_whole(tmp_path):
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 99}
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "image_size": 28}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "model_type": "llama"}
    vision |= {"num_attention_heads": 2, "patch_size": 14, "model_type": "clip_vision_model"}
    config = CONFIG_MAPPING["llava"](text_config=text, vision_config=vision, image_token_index=98)
    AutoModelForImageTextToText.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    model = load.load_model(tmp_path, "float32", "sdpa", CPU)
    assert type(model).__name__ == "LlavaForConditionalGeneration"


def test_the_language_part_of_a_checkpoint_may_be_loaded_alone(tmp_path):
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    text = {
        "hidden_size": 32,
        "intermediate_size": 16,
        "intermediate_size_mlp": 16,
        "vocab_size": 99,
    }
    text |= {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    text |= {"num_local_experts": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "image_size": 28}
    vision |= {"num_attention_heads": 2, "patch_size": 14, "vision_output_dim": 16}
    vision |= {"projector_input_dim": 16, "projector_output_dim": 16}
    config = CONFIG_MAPPING["llama4"](text_config=text, vision_config=vision)
    AutoModelForImageTextToText.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    model = load.load_model(tmp_path, "float32", "eager", CPU)
    assert type(model).__name__ == "Llama4ForCausalLM"
    change_tensors(tmp_path, lambda tensors: tensors | {"language_model.odd.weight": torch.ones(1)})
    assert "language_model.odd.weight" in refusal(tmp_path)


def test_layers_that_do_not_fit_on_the_gpus_are_refused():
    class Sharded:
        hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}  # noqa: RUF012

        def state_dict(self):
            return {"w": torch.ones(1)}

    with pytest.raises(UserError, match="m: the weights do not fit on the devices"):
        loaded.refuse_unplaced("m", Sharded(), torch.device("cuda"))
    Sharded.hf_device_map = {"": 0}
    loaded.refuse_unplaced("m", Sharded(), torch.device("cuda"))
    Sharded.state_dict = lambda self: {"w": torch.ones(1, device="meta")}
    with pytest.raises(UserError, match="w was not loaded"):
        loaded.refuse_unplaced("m", Sharded(), torch.device("cuda"))


def tokenizer_refusal(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        load.load_tokenizer(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tokenizer.json", None, "holds no tokenizer"),
        ("tokenizer.json", "{", "tokenizer.json: is not valid JSON"),
        ("tokenizer.json", "{}", "the tokenizer could not be loaded"),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        ("config.json", '{"model_type": "llama", "hidden_size": "x"}', "no configuration of llama"),
        (
            "tokenizer_config.json",
            '{"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["a.Evil", null]}}',
            "needs code that comes with the model",
        ),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_explained(model, name, text, said):
    if text is None:
        (model / name).unlink()
    else:
        (model / name).write_text(text)
    assert said in tokenizer_refusal(model)


def test_a_tokenizer_keeps_its_templates(model):
    named = byte_tokenizer()
    named.chat_template = {"default": "{{ 'd' }}", "other": "{{ 'o' }}"}
    named.save_pretrained(model)
    assert load.load_tokenizer(model).chat_template == named.chat_template
