"""Names whose content moves: a branch is a commit from its first use on, until it is updated."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from layergrad import revisions
from layergrad.cli import app
from layergrad.config import HubDataSource, HubModel, LocalModel, ModelSpec, RandomModel, Study
from layergrad.errors import UserError
from layergrad.models.fetch import check_files, fetch_model
from layergrad.models.files import model_files
from layergrad.models.random import save_random_model
from layergrad.plan import Plan, dataset_source, model_source
from layergrad.revisions import LOCK, commit_of
from layergrad.spectra.single import _model_source

OLD, NEW, PART = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """The cache of a hub that cannot be reached: a model of two commits, `main` at the first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub/models--me--m"
    for commit, seed in ((OLD, 1), (NEW, 2)):
        folder = repository / "snapshots" / commit
        folder.mkdir(parents=True)
        shape = {"num_hidden_layers": 1}
        save_random_model(RandomModel(architecture="llama", shape=shape, seed=seed), folder)
    part = repository / "snapshots" / PART
    part.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(repository / "snapshots" / OLD / name, part)
    move(repository, OLD)
    return repository


def move(repository: Path, commit: str, branch: str = "main") -> None:
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / branch).write_text(commit)


def spec(source) -> ModelSpec:
    return ModelSpec(name="m", source=source, family="m", tuning="base")


def model(revision: str = "main") -> ModelSpec:
    return spec(HubModel(id="me/m", revision=revision))


def plan(revision: str = "main") -> Plan:
    dataset = {"name": "d", "source": {"kind": "reasoning_gym"}, "responses": ["none"]}
    return Plan(Study(models=[model(revision)], datasets=[dataset], equal_tokens=False))


def test_a_branch_that_moves_changes_nothing_until_it_is_updated(hub, tmp_path):
    before = plan().model_key("m"), plan().engine("m")
    fetched = fetch_model(model(), "k", tmp_path / "one.json")
    move(hub, NEW)
    assert (plan().model_key("m"), plan().engine("m")) == before
    again = fetch_model(model(), "k", tmp_path / "two.json")
    assert again["files"] == fetched["files"] and again["commit"] == OLD
    check_files(again)

    shown = CliRunner().invoke(app, ["update-lock"]).output
    assert f"me/m@main: {OLD} -> {NEW}" in shown and "commit revisions.lock.json" in shown
    assert plan().model_key("m") != before[0]
    assert fetch_model(model(), "k", tmp_path / "three.json")["commit"] == NEW
    assert "unchanged" in CliRunner().invoke(app, ["update-lock"]).output


def test_a_branch_and_the_commit_that_it_stands_for_are_one_model(hub):
    assert plan("main").model_key("m") == plan(OLD).model_key("m")
    assert plan("main").engine("m") == plan(OLD).engine("m")
    assert plan(NEW).model_key("m") != plan(OLD).model_key("m")


def test_the_lock_alone_decides_where_there_is_no_cache(hub):
    commit_of("models", "me/m", "main")
    shutil.rmtree(hub)
    assert json.loads(LOCK.read_text()) == {"models": {"me/m@main": OLD}}
    assert commit_of("models", "me/m", "main") == OLD


def test_a_commit_needs_no_lock(hub):
    assert commit_of("models", "me/m", NEW) == NEW
    assert not LOCK.exists()


def test_a_branch_that_nobody_knows_is_refused(hub):
    with pytest.raises(UserError, match=r"me/m@dev: .*go online, or give a commit"):
        model_source(model("dev"))
    assert not LOCK.exists()


def test_a_broken_lock_is_refused(hub):
    LOCK.write_text("<<<<<<< HEAD")
    with pytest.raises(UserError, match=r"revisions\.lock\.json: cannot be read"):
        model_source(model())


@pytest.mark.parametrize(
    ("lock", "said"),
    [
        (5, "cannot be read as a JSON object"),
        ([], "cannot be read as a JSON object"),
        ({"models": []}, "models: is none of the objects"),
        ({"datasets": "x"}, "datasets: is none of the objects"),
        ({"model": {}}, "model: is none of the objects"),
        ({"models": {"me/m@main": "zzz"}}, "models: me/m@main: 'zzz' is no commit"),
        ({"models": {"me/m@main": OLD[:7]}}, "is no commit"),
        ({"models": {"me/m@main": None}}, "models: me/m@main: None is no commit"),
        ({"datasets": {"me/d@main": 3}}, "datasets: me/d@main: 3 is no commit"),
        ({"models": {"me/m": OLD}}, "models: 'me/m' is no owner/name@revision"),
        ({"folders": {"x": 1}}, "folders: x: 1 is no content of a folder"),
    ],
)
def test_a_malformed_lock_is_named(hub, lock, said):
    LOCK.write_text(json.dumps(lock))
    for use in (lambda: plan().model_key("m"), revisions.update_lock):
        with pytest.raises(UserError) as raised:
            use()
        assert str(raised.value).startswith("revisions.lock.json: ") and said in str(raised.value)
        assert "git checkout" in str(raised.value)


@pytest.mark.parametrize("blocked", ["gate", "lock"])
def test_a_plan_needs_no_right_to_write_the_lock(hub, tmp_path, monkeypatch, capsys, blocked):
    if blocked == "gate":
        (tmp_path / ".layergrad").write_text("a file instead of a folder")
    else:

        def refuse(*arguments):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("layergrad.provenance.os.replace", refuse)
    assert plan().model_source("m")["revision"] == OLD
    move(hub, NEW)
    assert plan().model_source("m")["revision"] == OLD  # within one plan nothing moves
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and f"me/m@main is planned as commit {OLD}" in warnings[0]
    assert "revisions.lock.json: could not be written" in warnings[0] and not LOCK.exists()
    with pytest.raises(UserError, match=r"revisions\.lock\.json: could not be written"):
        fetch_model(model(), "k", tmp_path / "m.json")


def test_processes_that_write_at_once_lose_no_entry(hub):
    names = [f"v{i}" for i in range(20)]
    for name in names:
        move(hub, OLD, name)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: commit_of("models", "me/m", name), names))
    assert set(json.loads(LOCK.read_text())["models"]) == {f"me/m@{name}" for name in names}
    assert revisions._record("models", "me/m@v0", NEW) == OLD  # the first holds


def test_a_branch_of_a_data_set_is_locked_too(hub, tmp_path):
    move(tmp_path / "hub/models--me--m", OLD)
    repository = tmp_path / "hub/datasets--me--d"
    repository.mkdir()
    move(repository, OLD)

    def source() -> dict:
        made = HubDataSource(id="me/d", revision="main", mapping="gsm8k")
        dataset = {"name": "d", "source": made, "responses": ["none"]}
        return dataset_source(Study(models=[model()], datasets=[dataset]).datasets[0])

    assert source()["revision"] == OLD
    move(repository, NEW)
    assert source()["revision"] == OLD
    assert json.loads(LOCK.read_text())["datasets"] == {"me/d@main": OLD}


def test_a_single_extraction_names_its_commit_and_leaves_no_lock(hub, capsys):
    assert _model_source("me/m") == HubModel(id="me/m", revision=OLD)
    assert f"main is commit {OLD}" in capsys.readouterr().err
    assert not LOCK.exists()


def test_a_half_cached_model_says_so(hub, tmp_path):
    with pytest.raises(UserError, match=r"only a part of it is in the hub's cache \(model\.safe"):
        fetch_model(model(PART), "k", tmp_path / "m.json")


# ------------------------------------------------------------------- files that are the model


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "mine"
    made.mkdir()
    save_random_model(RandomModel(architecture="llama", shape={"num_hidden_layers": 1}), made)
    return made


def content(folder: Path) -> dict:
    return model_source(spec(LocalModel(path=str(folder))))


IRRELEVANT = (
    *("README.md", ".DS_Store", ".git/HEAD", ".cache/huggingface/download/x.metadata"),
    *("optimizer.pt", "training_args.bin", "trainer_state.json", "generation_config.json"),
    *("consolidated.safetensors", "pytorch_model.bin", "original/params.json", "onnx/model.onnx"),
    "tokenizer/notes.txt",
)


@pytest.mark.parametrize("name", IRRELEVANT)
def test_what_is_no_part_of_a_model_changes_nothing(folder, name):
    before, files = content(folder), model_files(folder)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("notes")
    assert content(folder) == before and model_files(folder) == files


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tool.jinja",
        "special_tokens_map.json",
    ],
)
def test_what_is_loaded_decides(folder, name):
    before = content(folder)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text("latin-1") if path.exists() else "") + " ", "latin-1")
    assert content(folder) != before


def test_where_a_model_lies_does_not_matter(folder, monkeypatch, tmp_path):
    before = content(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    assert content(moved) == before
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELF", str(tmp_path))
    for path in ("~/elsewhere", "$SHELF/elsewhere", "${SHELF}/elsewhere"):
        assert content(Path(path)) == before
        assert _model_source(path).folder == moved


def test_a_model_that_dvc_tracks_is_known_by_its_pointer(folder):
    from layergrad.provenance import content_hash

    (folder / "README.md").write_text("notes")
    pointer = f"outs:\n- md5: {content_hash(folder)}\n  path: mine\n"
    Path(f"{folder}.dvc").write_text(pointer)
    here = content(folder)
    shutil.rmtree(folder)
    assert content(folder) == here
    LOCK.unlink()
    with pytest.raises(UserError, match="no such folder; run `dvc pull`"):
        content(folder)
