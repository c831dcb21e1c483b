"""Which commit a branch or a tag of the hub stands for: resolved once, then kept in a lock file.

A branch moves; a study must not move with it. The first plan or fetch asks the hub for the commit
and writes it to ``revisions.lock.json``, which belongs into git; from then on the commit decides
what is fetched and which rows are reused, until ``layergrad update-lock`` moves it.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from layergrad.errors import UserError
from layergrad.progress import say
from layergrad.provenance import read_json, write_json

LOCK = Path("revisions.lock.json")  # of the study's folder
_GATE = Path(".layergrad/revisions.gate")
Kind = Literal["models", "datasets"]


_not_kept: dict[tuple[Path, Kind, str], str] = {}  # resolved, but the lock is not writable


class LockNotWrittenError(UserError):
    """The lock file could not be written: the folder may only be read, or the disk is full."""


class Update(NamedTuple):
    """What `update_lock` did to one entry."""

    name: str
    old: str
    new: str


def is_commit(revision: str) -> bool:
    """Tell whether a revision is a full commit, which never moves."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def commit_of(kind: Kind, repository: str, revision: str, record: bool = True) -> str:
    """Return the commit that a revision stands for in this study.

    Parameters
    ----------
    kind
        ``models`` or ``datasets``.
    repository
        ``owner/name`` on the hub.
    revision
        Commit, tag or branch.
    record
        Write what the hub answers to the lock file.

    Raises
    ------
    UserError
        If the lock does not hold it, and neither the hub nor its cache can say.
    """
    if is_commit(revision):
        return revision
    name = f"{repository}@{revision}"
    known = _read().get(kind, {}).get(name)
    if known is not None:
        return known
    commit = resolve(kind, repository, revision)
    return _record(kind, name, commit) if record else commit


def planned_commit(kind: Kind, repository: str, revision: str) -> str:
    """Return what :func:`commit_of` does; a lock that cannot be written is reported, once.

    Planning needs no right to write: a project of somebody else can be looked at.
    """
    name = f"{repository}@{revision}"
    place = (LOCK.absolute(), kind, name)
    if place in _not_kept and name not in _read().get(kind, {}):
        return _not_kept[place]
    try:
        return commit_of(kind, repository, revision)
    except LockNotWrittenError as error:
        commit = _not_kept[place] = commit_of(kind, repository, revision, record=False)
        say(f"{error}; {name} is planned as commit {commit}, which is not kept")
        return commit


def update_lock() -> list[Update]:
    """Resolve every entry of the lock file anew, write what moved, and return all entries."""
    updates = []
    for kind in ("models", "datasets"):
        for name, old in sorted(_read().get(kind, {}).items()):
            repository, revision = name.split("@", 1)
            updates.append(Update(name, old, resolve(kind, repository, revision)))
            if updates[-1].new != old:
                _record(kind, name, updates[-1].new, replace=True)
    return updates


def resolve(kind: Kind, repository: str, revision: str) -> str:
    """Ask the hub for the commit of a revision; where it cannot be reached, the hub's cache."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    name = f"{repository}@{revision}"
    try:
        info = HfApi().repo_info(
            repository,
            revision=revision,
            repo_type=kind.removesuffix("s"),
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
        return info.sha
    except RevisionNotFoundError:
        raise UserError(f"{name}: the hub has no such revision") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{name}: the hub has no such repository, or it is private or gated: ask for access on "
            "its page and log in with `hf auth login` (or set HF_TOKEN)"
        ) from None
    except Exception:  # offline, no connection, no answer: each in a class of its own
        cached = _cached_commit(kind, repository, revision)
    if cached is None:
        raise UserError(
            f"{name}: the hub could not be reached to ask which commit this is, and neither "
            f"{LOCK} nor the hub's cache knows it: go online, or give a commit (40 digits) as the "
            "revision"
        )
    return cached


def _cached_commit(kind: Kind, repository: str, revision: str) -> str | None:
    from huggingface_hub import constants

    folder = "--".join([kind, *repository.split("/")])
    try:
        commit = (
            Path(constants.HF_HUB_CACHE, folder, "refs", revision)
            .read_text(encoding="utf-8")
            .strip()
        )
    except OSError:
        return None
    return commit if is_commit(commit) else None


# ---------------------------------------------------------------------- folders that DVC tracks


def record_content(pointer: str, content: str) -> None:
    """Note which model content a folder holds that DVC knows by the hash `pointer`.

    DVC hashes all files of a folder, a model's key only those that are loaded; a clone that has the
    pointer alone finds the key here. Where the lock cannot be written, the folder is still there.
    """
    if _read().get("folders", {}).get(pointer) != content:
        with suppress(LockNotWrittenError):
            _record("folders", pointer, content, replace=True)


def content_behind(pointer: str) -> str | None:
    """Return the model content noted for a folder that is known by its DVC hash alone."""
    return _read().get("folders", {}).get(pointer)


# ----------------------------------------------------------------------------------- the lock file


def _read() -> dict[str, Any]:
    if not LOCK.exists():
        return {}
    lock = read_json(LOCK)
    if not isinstance(lock, dict):
        raise UserError(
            f"{LOCK}: cannot be read as a JSON object; restore it (`git checkout {LOCK}`), or "
            "settle the conflict of a merge"
        )
    for part, entries in lock.items():
        _check_part(part, entries)
    return lock


def _check_part(part: str, entries: Any) -> None:
    restore = f"restore it (`git checkout {LOCK}`), or remove the entry to have it resolved anew"
    if part not in ("models", "datasets", "folders") or not isinstance(entries, dict):
        raise UserError(
            f"{LOCK}: {part}: is none of the objects `models`, `datasets`, `folders`; {restore}"
        )
    for name, value in entries.items():
        if part != "folders" and not re.fullmatch(r"[^@\s]+@\S+", name):
            raise UserError(f"{LOCK}: {part}: {name!r} is no owner/name@revision; {restore}")
        if not isinstance(value, str) or not (part == "folders" or is_commit(value)):
            what = "no content of a folder" if part == "folders" else "no commit"
            raise UserError(f"{LOCK}: {part}: {name}: {value!r} is {what}; {restore}")


def _record(part: str, name: str, value: str, replace: bool = False) -> str:
    """Add an entry and return it; without `replace`, what another process wrote first holds."""
    with _alone():
        lock = _read()
        entries = lock.setdefault(part, {})
        if replace or name not in entries:
            entries[name] = value
            try:
                write_json(lock, LOCK)
            except UserError as error:
                raise LockNotWrittenError(str(error)) from error
        return entries[name]


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other processes of this folder from changing the lock file at the same time."""
    try:
        _GATE.parent.mkdir(exist_ok=True)
        gate = _GATE.open("w")
    except OSError as error:
        raise LockNotWrittenError(
            f"{LOCK}: could not be written: {_GATE}: {error.strerror}"
        ) from error
    with gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield
