"""Content keys, file hashes, and files that are either complete or absent.

A key is a short hash of everything that decides a file's content. Files that cost much carry it in
their name, files with a fixed name carry it inside; a job runs only if its file is missing or
records another key, so modification times decide nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import os
import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from layergrad.errors import UserError

MEMO = Path(".layergrad/hashes.json")
PARQUET_KEY = "layergrad"
KEY_META = '<meta name="layergrad-key"'
SUMS = "sums.json"


def key(*parts: Any) -> str:
    """Return ten hexadecimal digits that identify the JSON form of `parts`: for file names."""
    return long_key(*parts)[:10]


def long_key(*parts: Any) -> str:
    """Return 24 hexadecimal digits that identify the JSON form of `parts`: for millions of rows."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def digest(path: str | Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


def content_hash(path: str | Path) -> str:
    """Return the md5 of a file, or that of the list of a folder's files.

    As DVC does it, which stores the very same file or folder under this name: a raw file or a
    model's folder that is not here but has a pointer (``NAME.dvc``) is known by it. Remembered by
    size, time and inode, so that a large file is read once.
    """
    path = Path(path)
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file())
        return files_hash(path, [file.relative_to(path).as_posix() for file in files])
    if not path.exists():
        return pointer_hash(path)
    return _remembered_md5(path)


def _remembered_md5(path: Path) -> str:
    """Return the md5 of a file; remembered where that is possible, and never an error for it."""
    stat = path.stat()
    name, signature = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    for memo in memo_files():
        known = read_json(memo)
        match known.get(name) if isinstance(known, dict) else None:
            case [found, str(md5)] if found == signature:
                return md5
    md5 = digest(path, "md5")
    for memo in memo_files():
        known = read_json(memo)
        with contextlib.suppress(UserError, UnicodeError):
            write_json({**(known if isinstance(known, dict) else {}), name: [signature, md5]}, memo)
            break
    return md5


def memo_files() -> list[Path]:
    """Return where hashes of files are remembered, the first that can be written being used.

    The state of the workflow in the current folder if there is one, else the user's cache.
    """
    places = [MEMO] if MEMO.parent.is_dir() else []
    with contextlib.suppress(RuntimeError):  # neither HOME nor an account says where home is
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        places.append(cache / "layergrad" / MEMO.name)
    return places


def files_hash(folder: str | Path, names: Iterable[str]) -> str:
    """Return the md5 of the list of these files of a folder, as DVC hashes a folder."""
    listed = [{"md5": content_hash(Path(folder, name)), "relpath": name} for name in sorted(names)]
    text = json.dumps(listed, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def pointer_hash(path: str | Path) -> str:
    """Return the md5 by which DVC knows a file or folder, from the pointer beside it."""
    pointer = Path(f"{path}.dvc")
    if not pointer.exists():
        raise UserError(f"{path}: no such file; if it is tracked by DVC, run `dvc pull`")
    found = re.search(
        r"^\s*-?\s*md5: ([0-9a-f]{32}(?:\.dir)?)$", pointer.read_text("utf-8"), re.MULTILINE
    )
    if not found:
        raise UserError(f"{pointer}: holds no md5; run `dvc pull`")
    return found[1]


def code_hash(package_file: str | Path) -> str:
    """Return a hash over the Python, template and style files of a package's folder."""
    folder = Path(package_file).parent
    files = sorted(f for f in folder.rglob("*") if f.suffix in {".py", ".j2", ".css", ".js", ".md"})
    return key([[str(f.relative_to(folder)), digest(f, "md5")] for f in files])


def versions(*packages: str) -> dict[str, str]:
    """Return the installed version of each package."""
    return {package: metadata.version(package) for package in packages}


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; it becomes `path` only if the block succeeds.

    The content is flushed to the disk before the rename, so that a file that exists is complete,
    also after a crash or a full disk.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no ordinary file, so nothing is written there")
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except Exception as error:
        reason = _disk_fault(error)
        if reason is None:
            raise
        raise UserError(f"{path}: could not be written: {reason}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _disk_fault(error: Exception) -> str | None:
    """Say what the system refused, None if it was no such error; Polars raises its own class."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    found = re.search(r"IO error: (.+) \(os error \d+\)", str(error))
    return found and found[1]


def write_text(text: str, path: str | Path) -> None:
    """Write a text file, completely or not at all."""
    with atomic(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(data: Any, path: str | Path) -> None:
    """Write a JSON file, completely or not at all, with sorted keys."""
    write_text(json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n", path)


def checksums(files: Iterable[str | Path], folder: str | Path) -> dict[str, str]:
    """Return the sha256 of files by their names as seen from a folder."""
    return {os.path.relpath(file, folder): digest(file, "sha256") for file in files}


def write_checksums(tables: Iterable[str], folder: str | Path, record: dict[str, Any]) -> None:
    """Write ``sums.json``: the sha256 of a folder's tables, beside what `record` says."""
    files = [Path(folder, f"{table}.parquet") for table in tables]
    write_json({**record, "files": checksums(files, folder)}, Path(folder, SUMS))


def sealed(page: str) -> str:
    """Return a page whose key's element also holds the sha256 of the page without it."""
    sum_ = hashlib.sha256(page.encode()).hexdigest()
    return page.replace(KEY_META, f'<meta data-sha256="{sum_}" {KEY_META[6:]}', 1)


def is_intact(path: str | Path) -> bool:
    """Tell whether what a file records checksums of is as it was made.

    A JSON file records those of its companions under ``files``, a page its own and those of the
    files of numbers beside it; any other file records none and passes.
    """
    path = Path(path)
    files: dict[str, str] = {}
    if path.suffix == ".json":
        data = read_json(path) or {}
        files = data.get("usermeta", data).get("files", {})
    elif path.suffix == ".html":
        text = path.read_text(encoding="utf-8", errors="replace")
        found = re.search(r' data-sha256="([0-9a-f]{64})"', text)
        bare = text[: found.start()] + text[found.end() :] if found else ""
        if not found or hashlib.sha256(bare.encode()).hexdigest() != found[1]:
            return False
        beside = re.search(r'<meta name="layergrad-files" content="(.*)">', text)
        files = json.loads(html.unescape(beside[1])) if beside else {}
    return all(
        (path.parent / name).exists() and digest(path.parent / name, "sha256") == sha256
        for name, sha256 in files.items()
    )


def read_json(path: str | Path) -> Any | None:
    """Return the content of a JSON file, None if it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def recorded_key(path: str | Path) -> str | None:
    """Return the key that a file with a fixed name records, None if there is none.

    Parquet files record it in their metadata, JSON files under ``key`` or ``usermeta.key``
    (Vega-Lite), HTML pages in ``<meta name="layergrad-key">``.
    """
    path = Path(path)
    if not path.exists():
        return None
    if path.suffix == ".parquet":
        return (read_provenance(path) or {}).get("key")
    if path.suffix == ".html":
        with open(path, encoding="utf-8", errors="replace") as file:
            found = re.search(
                r'<meta [^>]*name="layergrad-key" content="([0-9a-f]+)"', file.read(20_000)
            )
        return found and found[1]
    data = read_json(path) or {}
    return data.get("key") or data.get("usermeta", {}).get("key")


def read_provenance(path: str | Path) -> dict[str, Any] | None:
    """Return the provenance that a Parquet file records, None if it is missing or broken."""
    import pyarrow.parquet as pq  # here, since planning a study must stay quick

    try:
        metadata = pq.read_metadata(path).metadata or {}
        return json.loads(metadata[PARQUET_KEY.encode()])
    except (OSError, ValueError, KeyError):
        return None
