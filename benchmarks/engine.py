"""Time the engine beside the reference way, in one process, on a model given by its shape.

The reference way is what the engine replaces: batch size 1, the gradient of every q, k, v, o
weight in full, and a full SVD (with U and V) of each. The floor is forward and backward alone, with
the factors captured and thrown away. Both use the same model, samples and device.

    python benchmarks/engine.py --shape llama-3.1-8b --tokens 300 --modes float32 tf32 bfloat16
    python benchmarks/engine.py --shape smollm2-135m --tokens 100 300 --modes float32
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from layergrad.models.layouts import find_places
from layergrad.spectra.capture import Batch, gradient_factors
from layergrad.spectra.extract import default_budget
from layergrad.spectra.measure import measure

PROJECTIONS = ["q", "k", "v", "o"]
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
SHAPES = {
    "llama-3.1-8b": LLAMA_8B,
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 500,
    },
}


def build(shape: dict, dtype: torch.dtype, device: torch.device):
    config = AutoConfig.for_model("llama", **shape, max_position_embeddings=4096)
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.requires_grad_(False).eval()


def random_batch(model, samples: int, tokens: int) -> Batch:
    device = model.get_input_embeddings().weight.device
    ids = torch.randint(0, model.config.vocab_size, (samples, tokens), device=device)
    start = max(tokens // 4, 1)
    return Batch(ids, [start] * samples, [tokens] * samples)


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median wall time of `work`, after one run that is not counted."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:] if repeats else times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reference(model, batch: Batch, layers: int | None) -> dict[str, float]:
    """Seconds for one sample: backward pass with weight gradients, and full SVDs.

    With `layers`, only the SVDs of the first so many layers are run, and their time is scaled.
    """
    places = find_places(model, PROJECTIONS)
    weights = [place.module.weight.requires_grad_(True) for place in places]
    start, device = batch.starts[0], batch.ids.device

    def backward():
        logits = model(input_ids=batch.ids[:1], use_cache=False).logits[0].float()
        functional.cross_entropy(logits[start - 1 : -1], batch.ids[0, start:]).backward()

    passed = seconds(backward, device, 1)
    count = len({place.layer for place in places})
    measured = min(layers or count, count)
    chosen = [w for w, p in zip(weights, places, strict=True) if p.layer < measured]
    solved = seconds(
        lambda: [torch.linalg.svd(w.grad.float(), full_matrices=False) for w in chosen], device, 0
    )
    for weight in weights:
        weight.grad = None
        weight.requires_grad_(False)
    return {
        "backward": passed,
        "svd": solved * count / measured,
        "total": passed + solved * count / measured,
        "svd_layers_measured": measured,
        "layers": count,
    }


def ours(model, batch: Batch, repeats: int) -> dict[str, float]:
    """Seconds for one sample of a batch: forward and backward alone, and with all spectra."""
    places = find_places(model, PROJECTIONS)
    device, samples = batch.ids.device, len(batch.lengths)

    def floor():
        gradient_factors(model, places, batch, "mean", lambda *_: None)

    def whole():
        measure(model, places, PROJECTIONS, batch)

    result = {"samples": samples}
    result["floor"] = seconds(floor, device, repeats) / samples
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    result["ours"] = seconds(whole, device, repeats) / samples
    result["overhead"] = result["ours"] / result["floor"] - 1
    if device.type == "cuda":
        result["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--tokens", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--modes", nargs="+", default=["float32"],
                        choices=["float32", "tf32", "bfloat16"])  # fmt: skip
    parser.add_argument(
        "--batch-tokens", type=int, help="tokens of a batch; by default the engine's own choice"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference", type=int, nargs="*", default=[], metavar="TOKENS",
                        help="lengths at which the reference way is timed, too")  # fmt: skip
    parser.add_argument("--reference-layers", type=int, default=None,
                        help="time the SVDs of so many layers only, and scale")  # fmt: skip
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="JSON file for the figures")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    rows = []
    for mode in arguments.modes:
        torch.backends.cuda.matmul.allow_tf32 = mode == "tf32"
        dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
        model = build(SHAPES[arguments.shape], dtype, device)
        for tokens in arguments.tokens:
            budget = arguments.batch_tokens or default_budget(model, device)
            samples = max(budget // tokens, 1)
            batch = random_batch(model, samples, tokens)
            row = {"device": name, "shape": arguments.shape, "mode": mode, "tokens": tokens}
            row |= ours(model, batch, arguments.repeats)
            if mode == "float32" and tokens in arguments.reference:
                row["reference"] = reference(model, batch, arguments.reference_layers)
                row["ratio"] = row["reference"]["total"] / row["ours"]
            print(json.dumps(row), flush=True)
            rows.append(row)
        del model, batch
        torch.cuda.empty_cache()
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
