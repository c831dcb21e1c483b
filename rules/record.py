"""Tell DVC about the new files of a store that only grows: ``python rules/record.py STORE...``.

File by file, since ``dvc add STORE`` drops from the pointer whatever is not on this machine.
Without relinking, which would make a later ``dvc checkout`` delete what was added.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ADD = ["dvc", "add", "--quiet", "--no-relink"]
FILES_A_CALL = 200


def changed_files(store: str) -> dict[str, list[str]]:
    """Return the files of a store that its pointer lacks, and those it knows with other content."""
    status = subprocess.check_output(["dvc", "data", "status", "--granular", "--json", store])
    uncommitted = json.loads(status).get("uncommitted", {})
    files = {}
    for state in ("added", "modified"):
        paths = [e["path"] if isinstance(e, dict) else e for e in uncommitted.get(state, [])]
        files[state] = sorted(p for p in paths if p.startswith(f"{store}/") and p[-1] != "/")
    return files


def refuse_damaged(store: str, modified: list[str]) -> None:
    """Stop if a file has other content than was recorded and nothing made anew accounts for it.

    Names of a store are keys of content. A file that was measured again may differ in its last
    bits; then the index or the checksums beside it, written with it, say so.
    """
    known = known_checksums(store) if modified else set()
    damaged = [
        file
        for file in modified
        if not file.endswith(".json") and (file, sha256(file)) not in known
    ]
    if damaged:
        listed = "".join(f"  {file}\n" for file in damaged)
        sys.exit(
            f"layergrad: changed since they were recorded, not by the workflow:\n{listed}"
            "nothing was recorded; `dvc checkout FILE` brings back what was, `dvc add FILE` keeps "
            "what is there now"
        )


def known_checksums(store: str) -> set[tuple[str, str]]:
    """Return (file, sha256) of every file that an index or a list of checksums names."""
    known = set()
    for path in Path(store).rglob("*.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue  # a damaged list vouches for nothing
        for cell in record.get("cells", []):
            known |= {
                (cell["spectra"], cell["sha256"]),
                (cell["failures"], cell["failures_sha256"]),
            }
        known |= {(str(path.parent / name), sum_) for name, sum_ in record.get("files", {}).items()}
    return known


def sha256(file: str) -> str:
    """Return the hexadecimal sha256 of a file's content."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def record(store: str) -> int:
    """Record a store, if there is one, and return how many of its files are new to DVC."""
    if not Path(store).exists():
        return 0
    if not Path(f"{store}.dvc").exists():
        subprocess.run([*ADD, store], check=True)
        return sum(path.is_file() for path in Path(store).rglob("*"))
    changed = changed_files(store)
    refuse_damaged(store, changed["modified"])
    files = [*changed["added"], *changed["modified"]]
    for first in range(0, len(files), FILES_A_CALL):
        subprocess.run([*ADD, *files[first : first + FILES_A_CALL]], check=True)
    return len(files)


if __name__ == "__main__":
    for store in sys.argv[1:]:
        print(f"{store}: {record(store)} new files recorded")
