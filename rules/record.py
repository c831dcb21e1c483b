"""Tell DVC about the new files of a store that only grows: ``python rules/record.py STORE...``.

File by file, since ``dvc add STORE`` drops from the pointer whatever is not on this machine.
Without relinking, which would make a later ``dvc checkout`` delete what was added.
"""

import json
import subprocess
import sys
from pathlib import Path

ADD = ["dvc", "add", "--quiet", "--no-relink"]
FILES_A_CALL = 200


def changed_files(store: str) -> list[str]:
    """Return the files of a store that its pointer does not know, or knows with another content."""
    status = subprocess.check_output(["dvc", "data", "status", "--granular", "--json", store])
    uncommitted = json.loads(status).get("uncommitted", {})
    files = uncommitted.get("added", []) + [
        entry["path"] if isinstance(entry, dict) else entry
        for entry in uncommitted.get("modified", [])
    ]
    return sorted(f for f in files if f.startswith(f"{store}/") and not f.endswith("/"))


def record(store: str) -> int:
    """Record a store, if there is one, and return how many of its files are new to DVC."""
    if not Path(store).exists():
        return 0
    if not Path(f"{store}.dvc").exists():
        subprocess.run([*ADD, store], check=True)
        return sum(path.is_file() for path in Path(store).rglob("*"))
    files = changed_files(store)
    for first in range(0, len(files), FILES_A_CALL):
        subprocess.run([*ADD, *files[first : first + FILES_A_CALL]], check=True)
    return len(files)


if __name__ == "__main__":
    for store in sys.argv[1:]:
        print(f"{store}: {record(store)} new files recorded")
