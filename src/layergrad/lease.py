"""A job's own GPUs: leases that the kernel ends, however a job dies.

Snakemake counts GPUs but never says which one a job may use. A lease is one lock file a GPU, held
by flock(2) on a descriptor that the job's process inherits: the leasing process *becomes* the job,
so no wrapper is left that could be killed apart from it, and a child that outlives a killed job
keeps its GPU. Nothing needs to be cleaned up. Must be taken before torch is imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from layergrad.errors import UserError

POLL_SECONDS = 0.2


def pool(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs that jobs of this machine share, by index, or by UUID where that is unknown.

    In a Slurm job what Slurm gave it (``CUDA_VISIBLE_DEVICES``, nothing if unset); elsewhere
    ``LAYERGRAD_GPUS`` (a comma-separated list; an index named twice is shared by two jobs), else
    ``CUDA_VISIBLE_DEVICES``, else all that nvidia-smi lists.

    Raises
    ------
    UserError
        If a variable names something that is no GPU, a GPU that is not here, or in
        ``CUDA_VISIBLE_DEVICES`` one GPU twice.
    """
    slurm = "SLURM_JOB_ID" in environment
    own = "LAYERGRAD_GPUS" in environment and not slurm
    variable = "LAYERGRAD_GPUS" if own else "CUDA_VISIBLE_DEVICES"
    if variable not in environment and not slurm:
        return list(_installed())
    devices = _named(variable, environment.get(variable, ""))
    if devices and not slurm:
        installed = _installed()
        devices = [_found(variable, device, installed) for device in devices]
    if variable == "CUDA_VISIBLE_DEVICES" and len(set(devices)) < len(devices):
        raise UserError(
            f"{variable}={environment[variable]}: names a GPU twice, with which CUDA shows none; "
            "name each once, or name one twice in LAYERGRAD_GPUS to share it between two jobs"
        )
    return devices


def _named(variable: str, value: str) -> list[str]:
    """Return the devices that a variable names: as CUDA reads it, up to a blank or a negative."""
    devices = []
    for word in map(str.strip, value.split(",")):
        if word in ("", "NoDevFiles") or re.fullmatch(r"-\d+", word):
            break  # CUDA shows no device from here on; Slurm writes NoDevFiles where it gave none
        if not re.fullmatch(r"\d+|(GPU|MIG)-[0-9A-Za-z/-]+", word):
            raise UserError(
                f"{variable}={value}: {word!r} is no GPU; give indices (0,1) or UUIDs as "
                "`nvidia-smi -L` lists them, or nothing for the CPU"
            )
        devices.append(str(int(word)) if word.isdecimal() else word)
    return devices


def _found(variable: str, device: str, installed: Mapping[str, str]) -> str:
    """Return the index of a device, by which every run knows it; a slice (MIG) has its UUID alone.

    Nothing can be looked up where nvidia-smi lists nothing.
    """
    if not installed or device in installed or device.startswith("MIG-"):
        return device
    found = [index for index, uuid in installed.items() if uuid.startswith(device)]
    if len(found) != 1:
        here = ", ".join(f"{index} ({uuid})" for index, uuid in installed.items())
        fault = "fits several GPUs" if found else "is no GPU"
        raise UserError(f"{variable}: {device} {fault} of this machine, which has {here}")
    return found[0]


def _installed() -> dict[str, str]:
    """Return index -> UUID of the GPUs of this machine; none without nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603
            query, capture_output=True, encoding="utf-8", errors="replace", timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = (line.partition(",") for line in answer.stdout.splitlines())
    devices = {index.strip(): uuid.strip() for index, _, uuid in rows}
    return devices if answer.returncode == 0 else {}


def lock_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the locks: local to machine and user, since two runs share its GPUs.

    Slurm numbers the GPUs of each job anew, so the leases within a job have a folder of their own.
    """
    default = Path(tempfile.gettempdir()) / f"layergrad-gpus-{os.getuid()}"
    job = environment.get("SLURM_JOB_ID")
    folder = Path(environment.get("LAYERGRAD_GPU_LOCKS", default)) / (
        f"job-{job}" if job else "host"
    )
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: the locks of the GPUs cannot be kept there: {error.strerror}; name another "
            "folder on a local disk in LAYERGRAD_GPU_LOCKS"
        ) from None
    return folder


def acquire(
    gpus: int, devices: list[str], folder: Path, timeout: float | None = None
) -> dict[str, int]:
    """Wait for GPUs that no other job holds and lock them, all at once or none.

    Parameters
    ----------
    gpus
        How many.
    devices
        The pool to take them from.
    folder
        Where the lock files lie.
    timeout
        Seconds to wait at most; None: for ever.

    Returns
    -------
    dict
        Slot of each GPU taken -> descriptor that holds its lock.

    Raises
    ------
    UserError
        If the pool is too small or the time is over.
    """
    if gpus > 1 and any(device.startswith("MIG-") for device in devices):
        raise UserError("CUDA gives a process one MIG slice only; set `gpus` of the model to 1")
    if gpus > len(devices):
        raise UserError(
            f"{gpus} GPUs asked for, but this machine offers {len(devices)} "
            f"({', '.join(devices) or 'none'}); lower `gpus` of the model, or set LAYERGRAD_GPUS"
        )
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        taken = _try_to_take(gpus, devices, folder)
        if taken:
            return taken
        if end is not None and time.monotonic() >= end:
            raise UserError(f"no {gpus} free GPUs of {', '.join(devices)} within {timeout} s")
        time.sleep(POLL_SECONDS)


def _try_to_take(gpus: int, devices: list[str], folder: Path) -> dict[str, int]:
    """Take `gpus` locks or none, one process at a time: else two could hold half each for ever."""
    gate = os.open(folder / "gate.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        taken: dict[str, int] = {}
        for slot in _slots(devices):
            if len(taken) == gpus:
                break
            descriptor = _lock(folder / f"gpu-{slot.replace('/', '_')}.lock")
            if descriptor is not None:
                taken[slot] = descriptor
        if len(taken) == gpus:
            return taken
        for descriptor in taken.values():
            os.close(descriptor)
        return {}
    finally:
        os.close(gate)


def _slots(devices: list[str]) -> list[str]:
    """Name the places for jobs: a device listed twice has two."""
    return [f"{device}:{devices[:i].count(device)}" for i, device in enumerate(devices)]


def _lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    with contextlib.suppress(OSError):  # for people only: the lock is the truth
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def run(gpus: int, command: list[str], timeout: float | None = None) -> None:
    """Become `command`, with ``CUDA_VISIBLE_DEVICES`` set to `gpus` GPUs that are its own.

    Without any GPU on the machine, or with ``gpus=0``, the command sees none and uses the CPU.
    """
    devices = pool()
    visible = ""
    if gpus and devices:
        taken = acquire(gpus, devices, lock_folder(), timeout)
        for descriptor in taken.values():
            os.set_inheritable(descriptor, True)
        visible = ",".join(slot.rpartition(":")[0] for slot in taken)
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order of nvidia-smi
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}") from None
