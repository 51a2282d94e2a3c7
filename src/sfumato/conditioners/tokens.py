"""Captions -> token ids: a byte-level BPE over lower-case text, learned from the captions themselves.

Byte-pair encoding: Sennrich, Haddow & Birch 2015 (arXiv 1508.07909); over bytes, so that no text is unknown: Radford et
al. 2019 (GPT-2). Text is cleaned before (`clean`), normalised to NFC and lower case by the tokenizer itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sfumato.errors import InputError

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIAL = (PAD, BOS, EOS)
SMALLEST_VOCABULARY = 256 + len(SPECIAL)
CHARACTERS_PER_TOKEN = 64
"""A prompt is cut to this many characters for each token that fits, before anything else: work is bounded for any prompt."""


@dataclass(frozen=True)
class Tokenized:
    """A text as a tokenizer reads it, and the characters [start, end) of it that each kept token stands for.

    length: tokens of the context, of which the first marks the beginning, then come these, and then the end and padding.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    length: int


def clean(text: str, limit: int) -> str:
    """The first `limit` characters of `text` as valid Unicode without NULs, runs of white space as one space, ends stripped.

    Paired surrogates become the character that they mean, lone ones U+FFFD.
    """
    text = text[:limit].replace("\0", "")
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return " ".join(text.split())


def tail(text: str, limit: int) -> str:
    """What `clean` never reads, without NULs and outer white space; empty when nothing is lost."""
    return text[limit:].replace("\0", "").strip()


def learn_tokenizer(captions: Iterable[str], vocabulary: int = 8192) -> Tokenizer:
    """A tokenizer of at most `vocabulary` tokens learned from `captions`: fewer when the captions have no more pairs to join.

    The same captions in any order give the same tokenizer. Raises `InputError` when `vocabulary` has no room for all bytes.
    """
    if vocabulary < SMALLEST_VOCABULARY:
        raise InputError(
            f"tokenizer vocabulary is {vocabulary}: expected {SMALLEST_VOCABULARY} or more (all bytes and 3 marks)."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    limit = 77 * CHARACTERS_PER_TOKEN
    tokenizer.train_from_iterator(sorted(clean(caption, limit) for caption in captions), trainer)
    return tokenizer


def read_tokenizer(json: str) -> Tokenizer:
    """The inverse of `Tokenizer.to_str`. Raises `InputError` when the text is no tokenizer."""
    try:
        return Tokenizer.from_str(json)
    except Exception as error:  # the package raises bare exceptions
        raise InputError(
            f"tokenizer: not readable ({str(error)[:200]}); expected the JSON of a tokenizers.Tokenizer."
        ) from None
