"""Run every causal architecture of transformers through the engine: ``python -m tests.zoo``.

Writes ``docs/models.md`` and fails if any model is measured wrongly or incompletely, or crashes.
With names of types as arguments only those are run, and nothing is written.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from tests.zoo.check import BAD, check_type
from tests.zoo.document import document
from tests.zoo.variants import MULTIMODAL, VARIANTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"


def cases(chosen: list[str]):
    """Yield (section, name, arguments of the check) of all models, or of the chosen ones."""
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        yield "types", name, (name,), {}
    for name, (architecture, changes, attention) in VARIANTS.items():
        yield "variants", name, (architecture, changes, attention), {}
    for name, changes in MULTIMODAL.items():
        yield "multimodal", name, (name, changes), {"auto": AutoModelForImageTextToText}


def main(chosen: list[str]) -> int:
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    todo = [case for case in cases(chosen) if not chosen or case[1] in chosen]
    found: dict[str, dict[str, dict]] = {"types": {}, "variants": {}, "multimodal": {}}
    bad = []
    for i, (section, name, arguments, options) in enumerate(todo):
        began = time.monotonic()
        verdicts = check_type(*arguments, **options)
        found[section][name] = verdicts
        lines = [f"{what} {v['verdict']} {v['message'][:150]}" for what, v in verdicts.items()]
        seconds = time.monotonic() - began
        print(f"[{i + 1}/{len(todo)}] {name}: {'; '.join(lines)} ({seconds:.1f} s)", flush=True)
        bad += [f"{name}, {what}" for what, v in verdicts.items() if v["verdict"] in BAD]
    if not chosen:
        DOCUMENT.write_text(document(found), encoding="utf-8")
        print(f"wrote {DOCUMENT}")
    if bad:
        print(f"{len(bad)} are wrong, incomplete or crash: " + "; ".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
