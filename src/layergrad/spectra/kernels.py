"""Our CUDA kernels for eigenvalues: compiled at first use by the compiler that comes with torch.

A symmetric matrix is reduced to tridiagonal form, in one stage or in two, and the eigenvalues of
that are found by bisection. See ``kernels.cu`` and ``two_stage.cu``.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from importlib.resources import files
from types import SimpleNamespace

import torch
from torch import Tensor

from layergrad.progress import say

# One stage.
PANEL = 8  # columns whose updates are delayed; more do not fit in registers
# Two blocks of 512 threads hide each other's waits; where the shared memory of a multiprocessor
# holds only one, it has 1024.
THREADS = {2: 512, 1: 1024}

# Two stages; what two_stage.cu defines, too.
BAND, TILE, HEIGHT, PITCH, PITCH_ACROSS = 32, 64, 64, 40, 34
DELAY = 2  # panels that are applied to the matrix together
CHASERS = 7  # warps, sweeps at work on a matrix at once
PARTS = (8, 4)  # columns of a panel in shared memory at once
PANEL_THREADS = 512
BLOCKS = {  # threads, and doubles of shared memory; those of a panel go by its rows
    "panel8": (PANEL_THREADS, 0),
    "panel4": (PANEL_THREADS, 0),
    "product": (128, 2 * (TILE * PITCH + BAND * PITCH_ACROSS)),
    "combine": (PANEL_THREADS, PANEL_THREADS * BAND + 2 * DELAY * BAND * (BAND + 1)),
    "update": (128, 4 * TILE * PITCH),
    "refresh": (128, 2 * (TILE + BAND) * PITCH),
}
STATIC_BYTES = 4096  # of shared memory in a panel's kernel, at most
WORKSPACE_BYTES = 1 << 30  # what the matrices reduced together may need beside themselves
MATRICES = 65_535  # that one launch can number

BISECTIONS = 55  # an interval of twice the norm shrinks to its last bit


def one_stage(kernels: SimpleNamespace, matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return diagonals and off-diagonals of tridiagonal matrices with the same eigenvalues.

    Parameters
    ----------
    kernels
        From :func:`compiled`.
    matrices
        float64, contiguous, shape ``(count, n, n)``; destroyed.

    Returns
    -------
    tuple of Tensor
        float64, shape ``(count, n)`` both; the last off-diagonal of each is undefined.
    """
    count, n = matrices.shape[:2]
    diagonals, offdiagonals = matrices.new_empty(2, count, n)
    blocks = 2 if 2 * 8 * _one_stage_doubles(n, 2) <= kernels.shared_bytes else 1
    doubles = _one_stage_doubles(n, blocks)
    arguments = [matrices, diagonals, offdiagonals, n]
    launch(kernels.tridiagonalise[blocks], (count,), THREADS[blocks], doubles, arguments)
    return diagonals, offdiagonals


def fits_one_stage(kernels: SimpleNamespace, n: int) -> bool:
    """Say whether the vectors of a panel of n rows fit in a block's shared memory."""
    return 8 * _one_stage_doubles(n, 1) <= kernels.shared_bytes


def _one_stage_doubles(n: int, blocks: int) -> int:
    return (2 * PANEL + 1) * n + THREADS[blocks] + 32


def two_stage(kernels: SimpleNamespace, matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same as :func:`one_stage`, by way of band matrices."""
    n = matrices.shape[-1]
    per_matrix = 8 * (HEIGHT * (n + HEIGHT) + (2 * DELAY + 1) * BAND * _rows(n))
    at_once = min(max(WORKSPACE_BYTES // per_matrix, 1), MATRICES)
    reduced = [_chased(kernels, _banded(kernels, part)) for part in matrices.split(at_once)]
    diagonals, offdiagonals = zip(*reduced, strict=True)
    return torch.cat(diagonals), torch.cat(offdiagonals)


def fits_two_stage(kernels: SimpleNamespace, n: int) -> bool:
    """Say whether part of a panel of n rows fits in a block's shared memory."""
    return min(PARTS) * n <= kernels.panel_doubles


def _banded(kernels: SimpleNamespace, matrices: Tensor) -> Tensor:
    """Return band matrices with the same eigenvalues, a row of HEIGHT entries for every column."""
    count, n = matrices.shape[:2]
    rows = _rows(n)
    bands = matrices.new_zeros(count, n + HEIGHT, HEIGHT)
    vectors, weights = matrices.new_zeros(2, count, rows, DELAY * BAND)
    products, taus = matrices.new_zeros(count, rows, BAND), matrices.new_empty(count, BAND)

    def run(name: str, blocks: int, tensors: list[Tensor], *place: int, doubles: int = 0) -> None:
        threads, fixed = BLOCKS[name]
        arguments = [*tensors, n, *place]
        launch(getattr(kernels, name), (blocks, count), threads, doubles or fixed, arguments)

    waiting = 0  # panels that are still to be applied to the trailing matrix
    for first in range(0, n, BAND):
        below = max(n - first - BAND, 0)
        strips, here = _tiles(below), (first, rows, waiting)
        if waiting:
            run("refresh", _tiles(n - first), [matrices, vectors, weights], *here)
        part = max(part for part in PARTS if part * below <= kernels.panel_doubles)
        run(f"panel{part}", 1, [matrices, bands, vectors, taus], *here, doubles=part * below)
        if not below:
            break
        run("product", strips, [matrices, vectors, products], *here)
        run("combine", 1, [vectors, products, taus, weights], *here)
        waiting = (waiting + 1) % DELAY
        if not waiting:
            triangle = strips * (strips + 1) // 2
            run("update", triangle, [matrices, vectors, weights], first, rows, DELAY)
    return bands


def _chased(kernels: SimpleNamespace, bands: Tensor) -> tuple[Tensor, Tensor]:
    """Return the diagonals and off-diagonals that are left of band matrices."""
    count, n = bands.shape[0], bands.shape[1] - HEIGHT
    launch(kernels.chase, (count,), 32 * CHASERS, 0, [bands, n])
    return bands[:, :n, 0].contiguous(), bands[:, :n, 1].contiguous()


def _tiles(rows: int) -> int:
    return -(-rows // TILE)


def _rows(n: int) -> int:
    """Return the rows of the arrays of vectors: tiles may begin at any row and reach beyond n."""
    return TILE * (_tiles(n) + 1)


def bisect(kernels: SimpleNamespace, diagonals: Tensor, offdiagonals: Tensor) -> Tensor:
    """Return the eigenvalues of tridiagonal matrices, ascending, shape ``(count, n)``."""
    count, n = diagonals.shape
    values = torch.empty_like(diagonals)
    threads = 128
    arguments = [diagonals, offdiagonals, values, n, BISECTIONS]
    launch(kernels.bisect, (count, -(-n // threads)), threads, 2 * (n + 3), arguments)
    return values


def launch(kernel, grid: tuple[int, ...], threads: int, doubles: int, arguments: list) -> None:
    """Run a kernel on the current stream of the current device.

    torch's own launch takes 50 to 70 microseconds, longer than most of the kernels of 300 rows.
    """
    values = [
        ctypes.c_void_p(argument.data_ptr())
        if isinstance(argument, Tensor)
        else ctypes.c_int(argument)
        for argument in arguments
    ]
    pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    stream = torch.cuda.current_stream()._as_parameter_
    shape = (*grid, 1, 1)[:3]
    driver, check = _driver()
    check(
        driver.cuLaunchKernel(
            kernel.func, *shape, threads, 1, 1, 8 * doubles, stream, pointers, None
        )
    )


@functools.cache
def _driver() -> tuple[ctypes.CDLL, Callable[[int], None]]:
    from torch.cuda._utils import _check_cuda, _get_gpu_runtime_library

    return _get_gpu_runtime_library(), _check_cuda


@functools.cache
def compiled(index: int) -> SimpleNamespace | None:
    """Compile the kernels for a device, once a process; None where that is not possible.

    Where only those of two stages are not, for want of shared memory or of instructions, large
    matrices go torch's way.
    """
    with torch.cuda.device(index):
        one = _or_none(_one_stage_kernels, index, "spectra take torch's slow way")
        if one is None:
            return None
        two = _or_none(_two_stage_kernels, index, "spectra of long samples take a slower way")
    return SimpleNamespace(**one, **(two or {"panel_doubles": 0}))


def _or_none(build: Callable[[int], dict], index: int, consequence: str) -> dict | None:
    try:
        return build(index)
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        say(f"CUDA kernels could not be compiled, {consequence}: {error}")
        return None


def _one_stage_kernels(index: int) -> dict:
    shared_bytes = _shared_bytes(index) - 1024

    def build(threads: int, name: str):
        kernel = _load("kernels.cu", {"THREADS": threads, "PANEL": PANEL}, [name])[name]
        kernel.set_shared_memory_config(shared_bytes)
        return kernel

    tridiagonalise = {n: build(threads, "tridiagonalise") for n, threads in THREADS.items()}
    bisect = build(THREADS[1], "bisect")
    return {"tridiagonalise": tridiagonalise, "bisect": bisect, "shared_bytes": shared_bytes}


def _two_stage_kernels(index: int) -> dict:
    defined = {"THREADS": PANEL_THREADS, "DELAY": DELAY, "CHASERS": CHASERS}
    found = _load("two_stage.cu", defined, [*BLOCKS, "chase"])
    available = _shared_bytes(index) - STATIC_BYTES
    for name, (_, doubles) in BLOCKS.items():
        found[name].set_shared_memory_config(8 * doubles or available)
    return {"panel_doubles": available // 8, **found}


def _shared_bytes(index: int) -> int:
    return torch.cuda.get_device_properties(index).shared_memory_per_block_optin


def _load(file: str, defined: dict[str, int], names: list[str]) -> dict:
    from torch.cuda._utils import _cuda_load_module, _nvrtc_compile

    source = files("layergrad.spectra").joinpath(file).read_text(encoding="utf-8")
    options = [f"-D{name}={value}" for name, value in defined.items()]
    binary, _ = _nvrtc_compile(source, names[0], nvcc_options=options)
    return _cuda_load_module(binary, names)
