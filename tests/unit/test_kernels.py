"""What can be said of the CUDA kernels, and of what checks them, without a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from layergrad.spectra import kernels
from tests.unit.extended import extended_eigenvalues

SOURCE = Path(kernels.__file__).with_name("two_stage.cu").read_text()


@pytest.mark.parametrize("name", ["BAND", "TILE", "HEIGHT", "PITCH", "PITCH_ACROSS"])
def test_host_and_device_agree_on_sizes(name):
    (value,) = re.findall(rf"^#define {name} (\d+)", SOURCE, re.MULTILINE)
    assert getattr(kernels, name) == int(value)


def test_every_kernel_that_is_launched_exists():
    defined = re.findall(r"\n(?:extern \"C\" [^(]*\([^)]*\)\s*)(\w+)\(", SOURCE)
    panels = [f"panel{part}" for part in re.findall(r"^PANEL\((\d+)\)", SOURCE, re.MULTILINE)]
    assert {*kernels.BLOCKS, "chase"} == {*defined, *panels}
    assert panels == [f"panel{part}" for part in kernels.PARTS]


@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_extended_precision_finds_known_eigenvalues(n):
    """Those of the second difference are known."""
    matrix = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    angles = np.arange(1, n + 1).astype(np.longdouble) / (2 * (n + 1)) * np.pi
    assert abs(extended_eigenvalues(matrix) - 4 * np.sin(angles) ** 2).max() < 1e-15
    assert not extended_eigenvalues(np.zeros((n, n))).any()
