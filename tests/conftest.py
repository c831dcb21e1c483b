"""The tests see nothing of the user's settings: this is the one place that keeps them out.

Done at import, since modules of tests copy the environment for the programs that they start. What
says where Python, CUDA and libraries are (PATH, PYTHONPATH, CUDA_*, LD_LIBRARY_PATH) stays.
"""

import os
import tempfile
from pathlib import Path

# Settings of these programs, which decide what they do, print or connect to.
PROGRAMS = (
    *("DVC_", "GIT_", "HF_", "HUGGING", "LAYERGRAD_", "OPENAI_", "POLARS_", "SLURM_", "SNAKEMAKE"),
    *("TRANSFORMERS_", "TORCH_", "XDG_", "LC_", "OMP_", "MKL_", "OPENBLAS_", "ARROW_", "SE_"),
)
SETTINGS = {
    *("SMK", "LANG", "LANGUAGE", "LOCPATH", "TZ", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"),
    *("BASH_ENV", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONWARNINGS", "PYTHONSTARTUP"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
}
GIT_CONFIG = """\
[init]
    defaultBranch = main
[safe]
    directory = *
"""
NO_GPU = "#!/bin/sh\nexit 1\n"  # as nvidia-smi: tests make their GPUs up


def isolate(home: Path) -> None:
    """Give the tests, and the programs that they start, settings of their own."""
    for name in list(os.environ):
        if name.startswith(PROGRAMS) or name in SETTINGS:
            del os.environ[name]
    os.environ |= {
        "HOME": str(home),
        "PATH": os.pathsep.join([str(home), os.environ.get("PATH", os.defpath)]),
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "*",
        "GIT_CONFIG_NOSYSTEM": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(home),
        "DVC_SYSTEM_CONFIG_DIR": str(home),
        "DVC_SITE_CACHE_DIR": str(home / "dvc"),
        "DVC_NO_ANALYTICS": "1",
    }
    (home / ".gitconfig").write_text(GIT_CONFIG, encoding="utf-8")
    (home / "nvidia-smi").write_text(NO_GPU, encoding="utf-8")
    (home / "nvidia-smi").chmod(0o755)


HOME = tempfile.TemporaryDirectory(prefix="layergrad-tests-")
isolate(Path(HOME.name))
