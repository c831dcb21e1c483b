"""Hashes of files are remembered where that is possible, and nothing ever fails for it."""

import hashlib
import os
from pathlib import Path

import pytest

from layergrad import provenance
from layergrad.provenance import content_hash, read_json

TEXT = b"a model of many gigabytes"
MD5 = hashlib.md5(TEXT).hexdigest()


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file elsewhere, seen from an empty folder, with a cache of the user's own."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "weights").write_bytes(TEXT)
    return tmp_path / "weights"


def never_read_again(monkeypatch):
    monkeypatch.setattr(provenance, "digest", lambda *_: pytest.fail("read again"))


def test_outside_a_project_nothing_is_left_in_the_folder(file, monkeypatch):
    assert content_hash(file) == MD5
    assert list(Path.cwd().iterdir()) == []
    never_read_again(monkeypatch)
    assert content_hash(os.path.relpath(file)) == MD5


def test_in_a_project_hashes_stay_with_it(file, monkeypatch):
    Path(".layergrad").mkdir()
    assert content_hash(file) == MD5
    assert read_json(".layergrad/hashes.json")[str(file)][1] == MD5
    monkeypatch.delenv("XDG_CACHE_HOME")
    never_read_again(monkeypatch)
    assert content_hash(file) == MD5


@pytest.mark.parametrize("text", ["", "[]", '{"FILE": 3}', '{"FILE": [[1], "x"]}', "\udcff"])
def test_a_broken_memo_is_replaced(file, text):
    memo = Path(".layergrad/hashes.json")
    memo.parent.mkdir()
    memo.write_text(text.replace("FILE", str(file)), encoding="utf-8", errors="surrogateescape")
    assert content_hash(file) == MD5
    assert read_json(memo)[str(file)][1] == MD5


def test_a_changed_file_is_read_again(file):
    content_hash(file)
    file.write_bytes(TEXT + b"!")
    assert content_hash(file) == hashlib.md5(TEXT + b"!").hexdigest()


def test_where_nothing_can_be_written_files_are_read(file, tmp_path, monkeypatch):
    (tmp_path / "no folder").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    Path(".layergrad").mkdir()
    Path(".layergrad/hashes.json").mkdir()  # in the way of what would be written
    assert content_hash(file) == MD5


def test_without_a_home(file, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    assert content_hash(file) == MD5


def test_a_file_whose_name_is_no_text(file):
    odd = Path(os.fsdecode(b"name-\xff"))
    odd.write_bytes(TEXT)
    assert content_hash(odd) == MD5
