"""Small real tokenizers of every kind that models use, trained on a few lines."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXT = [
    "Add 2 and 3. 2 + 3 = 5.\nThe final answer is 5.\n\nDo not stop.\n\n\nYes. No: instead.\n",
    "def f(x):\n    return x + 1\n\n\n    pass\n\tif: else   what is the user's\n",
    "Answer: Yes Answer: No. é ü Một cộng một là hai. user assistant <|user|>\n<|assistant|>\n",
    "it \n",  # a space and a line break are one token where no word follows
] * 4
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def _fast(tokenizer: Tokenizer, **names: Any) -> PreTrainedTokenizerFast:
    given = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | names
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given)


def _opens_with_bos(tokenizer: Tokenizer, end: str = "") -> None:
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A {end}".strip(), special_tokens=ids
    )


def byte_level(
    normalizer: Any = None, prefix: bool = False, regex: bool = True, trim: bool = False
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if trim:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def stripping() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<|assistant|>", rstrip=True, special=True)])
    tokenizer.add_tokens([AddedToken("<think>", lstrip=True), AddedToken("</think>", rstrip=True)])
    _opens_with_bos(tokenizer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Return a tokenizer in the way of Llama 2: a space before the text, bytes for the rest."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    _opens_with_bos(tokenizer)
    return tokenizer


def unigram(scheme: str = "always", split: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=split)
    tokenizer.train_from_iterator(
        TEXT,
        trainers.UnigramTrainer(
            vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        ),
    )
    _opens_with_bos(tokenizer, "</s>")
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False),
    )
    _opens_with_bos(tokenizer, "</s>")
    return tokenizer


KINDS = {
    "byte-level": byte_level,
    "byte-level, no words": lambda: byte_level(regex=False),
    "byte-level, NFC": lambda: byte_level(normalizers.NFC()),
    "byte-level, lower case": lambda: byte_level(normalizers.Lowercase()),
    "byte-level, prefix space": lambda: byte_level(prefix=True),
    "byte-level, trimmed offsets": lambda: byte_level(trim=True),
    "tokens that strip": stripping,
    "byte fallback": byte_fallback,
    "unigram": unigram,
    "unigram, first": lambda: unigram("first", split=False),
    "word piece": word_piece,
}


@cache
def _trained(kind: str) -> Tokenizer:
    return KINDS[kind]()


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of its own, which a test may change."""
    return _fast(Tokenizer.from_str(_trained(kind).to_str()))
