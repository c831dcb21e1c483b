"""The study, validated before the first job, and what decides whether a job runs.

in   the configuration (config.yaml, or the study given by --configfile)
out  .layergrad/studies/HASH.json   the resolved study, which every step is given

Content keys decide, nothing else: a file that costs much carries in its name a hash of all that
decides its content, a file with a fixed name records that hash inside. A job runs if its files are
missing or record another hash. Modification times and Snakemake's own records say nothing, so a
clone, a checkout or a pull cannot mislead. Hence a job whose files are complete has no inputs: what
is made anew for another job cannot make it run.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

SOURCE = Path(workflow.basedir) / "src"
sys.path.insert(0, str(SOURCE))

from layergrad.encoding import use_utf8

use_utf8()  # before anything is looked for under a name that the configuration holds

from layergrad import lease
from layergrad.config import resolve_study
from layergrad.errors import UserError
from layergrad.plan import PAIR_TABLES, TABLE_FILES, Plan, source_files
from layergrad.provenance import key as hash_of
from layergrad.provenance import read_json, write_json, write_text
from layergrad.results import (
    AUDIT_FILE,
    is_current,
    is_made,
    is_manifest_current,
    is_model_made,
    is_spectra_made,
    to_be_remade,
    unaudited,
    unrecorded_spectra,
)

# `python -m layergrad` in a rule: this interpreter and this code, unless conda puts its own first.
# Then whatever the user or a module system has there. Logs are UTF-8 whatever the locale.
modules = [path for path in [os.environ.get("PYTHONPATH")] if path]
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]),
    PYTHONPATH=os.pathsep.join([str(SOURCE), *modules]),
    PYTHONUTF8="1",
    PYTHONIOENCODING="utf-8:replace",
)


SHARED_FOLDER = (
    "In a folder that people share, all of it must be theirs to write: `chmod -R g+w .` by its "
    "owner, and `umask 002` for all."
)


def validated_study():
    names = [str(Path(file).name) for file in workflow.overwrite_configfiles]
    catalog = next(
        folder
        for folder in (Path("catalog"), Path(workflow.basedir) / "catalog")
        if folder.exists()
    )
    try:
        return resolve_study(
            dict(config), catalog, where=" + ".join(names) or "config.yaml"
        )
    except UserError as error:
        sys.exit(
            f"layergrad: {error}"
        )  # the message alone, without Snakemake's traceback


def study_file():
    """Return the name of the resolved study, which holds a hash of its content.

    So an edit while jobs run changes none of them. Written by `write_study`, never in a dry run.
    """
    return f".layergrad/studies/{hash_of(STUDY.model_dump(mode='json'))}.json"


def write_study():
    """Write the resolved study, which every job is given."""
    resolved = STUDY.model_dump(mode="json")
    if read_json(STUDY_FILE) != resolved:
        write_in_state_folder(write_json, resolved, STUDY_FILE)


def refuse_other_triggers():
    """Stop a run in which something other than content keys would decide what runs."""
    if workflow.is_main_process and {t.name for t in workflow.rerun_triggers} != {
        "MTIME"
    }:
        raise WorkflowError(
            "content keys decide what runs here, which needs `--rerun-triggers mtime`; "
            "profiles/default sets it: leave out --rerun-triggers and --workflow-profile"
        )


def forced():
    """Tell whether the user forces jobs (-f, -F, -R): then complete files get their inputs too."""
    settings = workflow.dag_settings
    return bool(settings.forceall or settings.forcerun or settings.forcetargets)


@cache
def start_of_run():
    """Return a file that is newer than every result: the input that makes an outdated file rerun.

    A dry run writes nothing into the folder, which may belong to somebody else.
    """
    if workflow.dryrun:
        return DRY_START.name
    marker = ".layergrad/start"
    if workflow.is_main_process:
        write_in_state_folder(write_text, f"{time.time_ns()}\n", marker)
    return marker


def write_in_state_folder(write, content, path):
    """Write a file of .layergrad; stop with a message if that cannot be done."""
    try:
        write(content, path)
    except UserError as error:
        sys.exit(f"layergrad: {error}\n{SHARED_FOLDER}")


def refuse_a_folder_without_state():
    """Stop if Snakemake cannot keep its locks here, which it does for a dry run too."""
    folder = Path(".snakemake")
    folder = folder if folder.exists() else Path.cwd()
    if workflow.is_main_process and not os.access(folder, os.W_OK):
        sys.exit(
            f"layergrad: {folder.absolute()} may not be written, and Snakemake keeps its locks "
            "there, for a dry run too; `layergrad plan` says what is there and what is to be "
            f"made, and writes nothing\n{SHARED_FOLDER}"
        )


def not_from_the_future(path):
    """Set a file's time to now if it lies ahead: a clock that went back must not stop a run."""
    if os.path.exists(path) and os.path.getmtime(path) > time.time():
        with contextlib.suppress(PermissionError):  # somebody else's
            os.utime(path)
    return path


def refuse_to_write_in_vain(path):
    """Stop before the first job if a result that is to be made may not be written."""
    if workflow.dryrun:
        return
    folder = next(folder for folder in Path(path).absolute().parents if folder.exists())
    if not os.access(folder, os.W_OK):
        sys.exit(
            f"layergrad: {os.path.relpath(folder)} may not be written, but {path} is to be made: "
            "check the permissions of the folder, or whether its disk is mounted read-only"
        )


def needs(results, complete, **inputs):
    """Return the named inputs of a job that makes `results`: none if they are `complete`.

    Unless the user forces jobs, whose order the inputs then say. A result that is there but not
    complete (outdated, or short of a file it names) would count as done; the start of the run, newer
    than any result, makes its job run.
    """
    refuse_other_triggers()
    if complete:
        return inputs if forced() else {}
    for path in results:
        refuse_to_write_in_vain(path)
        not_from_the_future(path)
    for paths in inputs.values():
        for path in paths if isinstance(paths, list) else [paths]:
            not_from_the_future(path)
    return {**inputs, "start": start_of_run()}


def raw_files(dataset):
    """Return the files that a dataset is built from."""
    return sorted(source_files(STUDY.dataset(dataset)))


def say_where_spectra_are_computed():
    missing = not all(is_spectra_made(PLAN.spectra_file(*pair)) for pair in PLAN.pairs)
    if missing and workflow.local_exec:
        try:
            devices = lease.pool()
        except UserError as error:
            sys.exit(f"layergrad: {error}")
        if not devices:
            print("No GPU here: the CPU computes the spectra.", file=sys.stderr)


def say_what_was_found():
    """Print the results in brief and where the page is, if the page is that of the study."""
    page = Path("reports/index.html")
    if is_current([str(page)], PLAN.page_key):
        write_study()
        command = [sys.executable, "-m", "layergrad", "overview", "--study", STUDY_FILE]
        subprocess.run(command, check=False)
        print(f"The report: {page.resolve()}", file=sys.stderr)


def validated_plan():
    """Return the plan of the study; stop if a file that its keys depend on is missing."""
    plan = Plan(STUDY)
    try:
        for pair in plan.pairs:
            plan.statistics_key(*pair)
    except UserError as error:
        sys.exit(f"layergrad: {error}")
    return plan


refuse_a_folder_without_state()
STUDY = validated_study()
PLAN = validated_plan()
STUDY_FILE = study_file()
TABLES = list(TABLE_FILES)
DRY_START = tempfile.NamedTemporaryFile(prefix="layergrad-start-")
