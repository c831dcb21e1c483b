"""What a model can take in: token ids of its embedding, positions of its position table.

An index beyond either ends in an error of the framework; on CUDA it ends the whole process, since
the device is unusable afterwards. So every sample is compared with both before it is measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layergrad.models.encode import Encoded

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

# Towers for other inputs than text have position tables of their own.
_OTHER_INPUTS = re.compile(r"vision|visual|image|audio|speech|video")


# Why a sample that could be written as tokens has no spectra; docs/versions.md lists all reasons.
REASONS = {
    "preflight": "the model failed its preflight, so that nothing of it is measured",
    "token_unknown": "a token id beyond the rows of the model's embedding",
    "too_long_for_model": "more tokens than the model has positions",
    "out_of_memory": "the sample does not fit in memory, alone",
    "non_finite": "the loss or a gradient is infinite or not a number",
    "error": "measuring the sample, alone, raised the error that `detail` quotes",
}


@dataclass(frozen=True)
class Failed:
    """A sample without spectra: why, one of `REASONS`, and the particulars."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Limits:
    """Limits of one model.

    Attributes
    ----------
    vocabulary
        Rows of the input embedding.
    positions
        Longest sample in tokens; None where positions are computed, as rotary ones are.
    """

    vocabulary: int
    positions: int | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Limits:
        """Read the limits off a loaded model's tables."""
        embedding = model.get_input_embeddings()
        tables = [
            rows
            for name, module in model.named_modules()
            if module is not embedding and not _OTHER_INPUTS.search(name)
            for rows in _position_rows(name, module)
        ]
        return cls(embedding.weight.shape[0], min(tables, default=None))

    def fault(self, sample: Encoded) -> Failed | None:
        """Say why a sample is beyond the limits, None if it is within."""
        unknown = next((i for i, t in enumerate(sample.ids) if not 0 <= t < self.vocabulary), None)
        if unknown is not None:
            return Failed(
                "token_unknown",
                f"token {sample.ids[unknown]} at position {unknown} is beyond the "
                f"{self.vocabulary} tokens of the model's embedding: the tokenizer is not the "
                "model's, or the embedding was not resized after tokens were added",
            )
        if self.positions is not None and len(sample.ids) > self.positions:
            return Failed(
                "too_long_for_model",
                f"{len(sample.ids)} tokens, but the model has {self.positions} positions",
            )
        return None


def _position_rows(name: str, module: nn.Module) -> list[int]:
    """Return the numbers of positions of the tables that a module is or holds.

    Learned tables are embeddings (``wpe``, ``embed_positions``, ``position_embeddings``), some of
    which reserve their first rows; GPT-J, CodeGen and CTRL look up computed ones in a buffer.
    """
    from torch import nn

    if isinstance(module, nn.Embedding):
        if not re.search(r"wpe$|pos", name.rsplit(".", 1)[-1]):
            return []
        padding = 0 if module.padding_idx is None else module.padding_idx + 1
        return [module.num_embeddings - getattr(module, "offset", padding)]
    buffers = module.named_buffers(recurse=False)
    return [b.shape[0] for n, b in buffers if n in {"embed_positions", "pos_encoding"}]
