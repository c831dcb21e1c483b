"""LoRA adapters: merged or refused, and the same folder never gives the bare base."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layergrad.config import HubModel, LocalModel, ModelSpec, RandomModel
from layergrad.errors import UserError
from layergrad.models import adapters, load
from layergrad.models.fetch import fetch_model
from layergrad.models.random import save_random_model
from layergrad.plan import model_source

needs_peft = pytest.mark.skipif(not importlib.util.find_spec("peft"), reason="no peft")
TARGET = "model.layers.{}.self_attn.q_proj"


@pytest.fixture
def base(tmp_path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    save_random_model(RandomModel(architecture="llama"), folder)
    return folder


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    tensors = {
        f"base_model.model.{TARGET.format(layer)}.lora_{part}.weight": torch.randn(
            *shape, generator=draw
        )
        for layer in range(3)
        for part, shape in (("A", (4, 48)), ("B", (48, 4)))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    settings |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def change(adapter: Path, **settings) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def spec(folder: Path) -> ModelSpec:
    source = LocalModel(path=str(folder))
    return ModelSpec(name="m", source=source, family="m", tuning="base")


def refusal(adapter: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as raised:
        fetch_model(spec(adapter), "k", tmp_path / "data/m.k.json")
    assert not list((tmp_path / "data").glob("m.k*"))
    return str(raised.value)


@needs_peft
@pytest.mark.parametrize("place", ["apart", "beside its base"])
def test_an_adapter_is_merged_exactly(base, adapter, tmp_path, place):
    if place != "apart":
        shutil.copytree(base, adapter, dirs_exist_ok=True)
    record = fetch_model(spec(adapter), "k", tmp_path / "data/m.k.json")
    model = load.load_model(record["path"], "float32", "sdpa", torch.device("cpu"))
    delta, before = (
        load_file(adapter / "adapter_model.safetensors"),
        load_file(base / "model.safetensors"),
    )
    for name, tensor in model.state_dict().items():
        want = before[name].double()
        if "q_proj" in name:
            key = f"base_model.model.{name.removesuffix('.weight')}.lora_{{}}.weight"
            want += 2 * delta[key.format("B")].double() @ delta[key.format("A")].double()
        torch.testing.assert_close(tensor.double(), want, rtol=0, atol=1e-5)
    assert record["merged"]["adapter"] == str(adapter)
    assert record["merged"]["base"] == str(base if place == "apart" else adapter)
    assert len(load.load_tokenizer(record["path"])) == len(load.load_tokenizer(base))


@needs_peft
def test_an_adapter_of_other_weights_is_refused(adapter, tmp_path):
    change(adapter, target_modules=["q_proj", "k_proj"])
    assert "k_proj.lora_A.weight is not in the adapter" in refusal(adapter, tmp_path)
    change(adapter, target_modules=["q_proj"], layers_to_transform=[0, 1])
    assert "layers.2.self_attn.q_proj.lora_A.weight fits nothing" in refusal(adapter, tmp_path)
    change(adapter, layers_to_transform=None, r=8)
    assert "peft could not merge the adapter" in refusal(adapter, tmp_path)


@needs_peft
def test_an_adapter_of_a_shared_embedding_is_refused(base, adapter, tmp_path):
    shape = {"tie_word_embeddings": True}
    save_random_model(RandomModel(architecture="llama", shape=shape), base)
    name = "base_model.model.model.embed_tokens.lora_embedding_{}"
    tensors = {name.format("A"): torch.ones(4, 300), name.format("B"): torch.ones(48, 4)}
    save_file(tensors, adapter / "adapter_model.safetensors")
    change(adapter, target_modules=["embed_tokens"])
    assert "shares with another layer" in refusal(adapter, tmp_path)


def test_without_peft_an_adapter_is_refused_and_says_what_to_do(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    message = refusal(adapter, tmp_path)
    assert "layergrad[lora]" in message and "merge_and_unload" in message


def test_an_adapter_is_never_applied_while_a_model_is_loaded(base, adapter):
    shutil.copytree(base, adapter, dirs_exist_ok=True)
    with pytest.raises(UserError, match="holds an adapter"):
        load.load_model(adapter, "float32", "sdpa", torch.device("cpu"))
    bare = load.load_weights(adapter, "float32", "sdpa", torch.device("cpu"))
    weights = load_file(base / "model.safetensors")
    assert all(torch.equal(weights[n], t) for n, t in bare.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [
        {"peft_type": "IA3"},
        {"peft_type": "LOHA"},
        {"modules_to_save": ["lm_head"]},
        {"bias": "lora_only"},
        {"init_lora_weights": "pissa"},
        {"trainable_token_indices": [3]},
        {"layer_replication": [[0, 2]]},
        {"a_setting_of_the_future": 1},
    ],
)
def test_other_adapters_are_refused_by_name(adapter, tmp_path, settings):
    change(adapter, **settings)
    message = refusal(adapter, tmp_path)
    assert all(str(value) in message for value in settings.values())


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (None, "names no `base_model_name_or_path`"),
        ("/nowhere/x", "is no folder here"),
        ("base", "is no folder here"),
        ("./base", "is no folder here"),
        ("a/b/c", "is no folder here"),
        ("my base/x y", "is no folder here"),
        ("$UNSET/x", "is no folder here"),
        ("~nobody-of-this-name/x", "is no folder here"),
    ],
)
def test_a_base_that_is_not_there_is_asked_for(adapter, tmp_path, named, said, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is a folder `base`, which does not count
    change(adapter, base_model_name_or_path=named)
    assert said in refusal(adapter, tmp_path)


def test_broken_adapters_are_refused(adapter, tmp_path):
    weights = adapter / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    assert "without adapter_model.safetensors" in refusal(adapter, tmp_path)
    weights.write_bytes(content[:-9])
    assert "cut short" in refusal(adapter, tmp_path) or not importlib.util.find_spec("peft")
    (adapter / "adapter_config.json").write_text("{")
    assert "not valid JSON" in refusal(adapter, tmp_path)


def test_the_base_of_an_adapter_is_found_on_the_hub(adapter):
    change(adapter, base_model_name_or_path="me/base", revision=None)
    assert adapters.base_of(adapter) == HubModel(id="me/base", revision="main")
    change(adapter, revision="a b")
    with pytest.raises(UserError, match="`revision` is 'a b', no branch"):
        adapters.base_of(adapter)


def test_a_base_does_not_depend_on_where_one_stands(base, adapter, tmp_path, monkeypatch):
    change(adapter, base_model_name_or_path="me/base")
    shutil.copytree(base, tmp_path / "me/base")
    monkeypatch.chdir(tmp_path)
    assert adapters.base_of(adapter) == HubModel(id="me/base", revision="main")
    for named, folder in (
        ("../base", base),
        (str(base), base),
        ("$SHELF/base", base),
        ("~/base", base),
        ("own", adapter / "own"),
        ("./own", adapter / "own"),
    ):
        shutil.copytree(base, adapter / "own", dirs_exist_ok=True)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("SHELF", str(tmp_path))
        change(adapter, base_model_name_or_path=named)
        for place in (tmp_path, base):
            monkeypatch.chdir(place)
            found = adapters.base_of(adapter)
            assert isinstance(found, LocalModel) and found.folder.samefile(folder)


@needs_peft
@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_an_adapter_that_is_no_floating_point_is_refused(adapter, tmp_path, dtype):
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = max(tensors)
    save_file(tensors | {name: tensors[name].to(dtype)}, file)
    assert f"{name} is stored as" in refusal(adapter, tmp_path)


def test_the_base_that_is_used_is_named(base, adapter, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    refusal(adapter, tmp_path)
    assert f"merging the adapter {adapter} with its base {base}" in capsys.readouterr().err


def test_adapter_and_base_decide_the_key(base, adapter):
    before = model_source(spec(adapter))
    (adapter / "README.md").write_text("notes")
    assert model_source(spec(adapter)) == before
    change(adapter, lora_alpha=16)
    changed = model_source(spec(adapter))
    assert changed != before
    (base / "tokenizer_config.json").write_text("{}")
    assert model_source(spec(adapter)) != changed
