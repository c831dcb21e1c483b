"""The extraction loop: samples in, spectra or a reason out, for every one of them."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from transformers import PreTrainedModel

from layergrad.errors import UserError, one_line
from layergrad.models.encode import Encoded
from layergrad.models.layouts import find_places, layer_config, layer_count, text_config
from layergrad.spectra.batches import pack, pad
from layergrad.spectra.limits import Failed, Limits
from layergrad.spectra.measure import Measured, measure

# One sample at a time on a CPU: batches of eight took 20 % less time at 100 tokens, none at 300 and
# 30 % more beyond, and a sample's last bits would depend on its company.
CPU_BUDGET = 1
# Part of the free memory of a GPU that activations may take; the rest is for Gram matrices, the
# solver, and what the estimate below misses. Running out only halves the budget.
MEMORY_SHARE = 0.6


@dataclass
class Usage:
    """What an extraction took: seconds, and peak GPU memory in bytes over all devices."""

    seconds: float = 0.0
    peak_bytes: int = 0
    token_budget: int = 0


class Extractor:
    """Measures samples with one loaded model.

    Parameters
    ----------
    model
        Model with frozen weights; see :func:`layergrad.models.load.load_model`.
    projections
        Projections to measure.
    reduction
        ``mean`` or ``sum`` of the loss over the response tokens.
    token_budget
        Tokens of a batch, padding included; None chooses by device and free memory.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        projections: Sequence[str],
        reduction: str = "mean",
        token_budget: int | None = None,
    ):
        self.model = model
        self.projections = list(projections)
        self.reduction = reduction
        self.places = find_places(model, self.projections)
        self.limits = Limits.of(model)
        self.expected = {
            (place.layer, projection)
            for place in self.places
            for projection in place.projections
            if projection in self.projections
        }
        self.device = model.get_input_embeddings().weight.device
        self.usage = Usage(token_budget=token_budget or default_budget(model, self.device))

    def run(self, samples: Sequence[Encoded]) -> Iterator[list[tuple[int, Measured | Failed]]]:
        """Yield the results of one batch after another, as (index of the sample, result).

        Every sample appears exactly once. A sample beyond the model's limits is not tried. Running
        out of memory halves the token budget and goes on; a sample that does not fit alone fails
        with ``out_of_memory``, one whose loss or spectrum is not finite with ``non_finite``, one
        that raises anything else with ``error``.

        Raises
        ------
        UserError
            If the engine refuses the model: that is no matter of one sample.
        """
        faults = {i: self.limits.fault(sample) for i, sample in enumerate(samples)}
        if refused := [(i, fault) for i, fault in faults.items() if fault]:
            yield refused
        batches = self._pack(samples, [i for i, fault in faults.items() if fault is None])
        began = time.monotonic()
        while batches:
            chosen = batches.popleft()
            results = self._attempt([samples[i] for i in chosen])
            if results is None:
                tokens = len(samples[chosen[0]].ids) * len(chosen)
                self.usage.token_budget = max(tokens // 2, 1)
                again = chosen if len(chosen) > 1 else []
                batches = self._pack(samples, [*again, *chain.from_iterable(batches)])
                if again:
                    continue
                results = [Failed("out_of_memory", f"{tokens} tokens do not fit on {self.device}")]
            elif isinstance(results, Failed):
                if len(chosen) > 1:  # one of them is the culprit: each is tried alone
                    batches.extendleft([i] for i in reversed(chosen))
                    continue
                say(f"one sample of {len(samples[chosen[0]].ids)} tokens failed: {results.detail}")
                results = [results]
            self.usage.seconds = time.monotonic() - began
            self.usage.peak_bytes = peak_memory()
            yield list(zip(chosen, results, strict=True))

    def _pack(self, samples: Sequence[Encoded], waiting: list[int]) -> deque[list[int]]:
        """Pack the waiting samples by the budget: once, and again when it was halved."""
        lengths = [len(samples[i].ids) for i in waiting]
        return deque(
            [waiting[j] for j in batch] for batch in pack(lengths, self.usage.token_budget)
        )

    def _attempt(self, samples: list[Encoded]) -> list[Measured | Failed] | Failed | None:
        """Measure one batch; None if memory ran out, a failure if anything else was raised."""
        fault: Failed | None = None
        try:
            batch = pad(samples, 0, self.device)
            results = measure(self.model, self.places, self.projections, batch, self.reduction)
            return [self._checked(result) for result in results]
        except (UserError, torch.AcceleratorError):
            raise  # of the model; or of a device that nothing can be computed on any more
        except Exception as error:
            fault = None if is_out_of_memory(error) else Failed("error", describe(error))
        # outside the handler, whose traceback would keep the batch's tensors alive
        gc.collect()
        torch.cuda.empty_cache()
        return fault

    def _checked(self, result: Measured) -> Measured | Failed:
        """Refuse numbers that are not finite; a missing spectrum is no matter of the sample."""
        if absent := sorted(self.expected - result.spectra.keys()):
            layer, projection = absent[0]
            raise UserError(
                f"{type(self.model).__name__}: no spectrum of {projection} in layer {layer} "
                f"({len(absent)} of {len(self.expected)} are missing): this model cannot be "
                "measured by this version"
            )
        fault = result.fault()
        return result if fault is None else Failed("non_finite", fault)


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error means that memory ran out, on a device or on the host."""
    known = ("can't allocate memory", "ALLOC_FAILED")  # of a CPU; of cuBLAS and cuSOLVER
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in known)
    )


def describe(error: Exception) -> str:
    """Return type, message and place of an error in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    file = frame.filename.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{type(error).__name__}: {one_line(error)} ({file}, line {frame.lineno})"


def say(text: str) -> None:
    """Tell the user at once, above a progress bar or in a log."""
    sys.stderr.write(f"layergrad: {text}\n")


def default_budget(model: PreTrainedModel, device: torch.device) -> int:
    """Return a token budget: one sample at a time on a CPU, from free memory on CUDA."""
    if device.type != "cuda":
        return CPU_BUDGET
    free = sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
    return max(int(MEMORY_SHARE * free / bytes_per_token(model)), 1)


def bytes_per_token(model: PreTrainedModel) -> int:
    """Estimate what the backward pass keeps for one token.

    About sixteen vectors of the hidden width and three of the MLP's in each layer, and four of the
    vocabulary in float32.
    """
    kept = 0
    for index in range(layer_count(model.config)):
        config = layer_config(model.config, index)  # layers may differ in width
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        kept += 16 * config.hidden_size + 3 * (max(inner) if isinstance(inner, list) else inner)
    return kept * model.dtype.itemsize + 16 * text_config(model.config).vocab_size


def peak_memory() -> int:
    """Return the peak bytes allocated on all visible GPUs, 0 without one."""
    return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
