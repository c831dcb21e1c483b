"""``python -m benchmarks``: the engine beside the reference way, at shapes that suit the device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

GPU = "--shape llama-3.1-8b --tokens 100 300 600 1000 --modes float32 tf32 bfloat16"
CPU = "--shape smollm2-135m --tokens 100 350 600 --modes float32 --batch-tokens 1"
REFERENCE = (
    "--reference 300 --reference-layers 2"
    if torch.cuda.is_available()
    else ("--reference 100 350 600")
)

if __name__ == "__main__":
    script = Path(__file__).with_name("engine.py")
    options = f"{GPU if torch.cuda.is_available() else CPU} {REFERENCE}".split()
    sys.exit(subprocess.call([sys.executable, str(script), *options, *sys.argv[1:]]))
