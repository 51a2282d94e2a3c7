"""Prompts -> CLIP's token ids: byte-pair encoding of lower-case words, each ending in `</w>`.

Radford et al. 2021 (arXiv 2103.00020, Sec. 2.4). The 49,408 tokens are 256 bytes, the same at the end of a word, 48,894
merges and the two marks of begin and end, in this order; OpenAI, OpenCLIP and transformers number them alike. Text is
normalised as transformers does (NFC, one space between words, lower case), after `tokens.clean`. With `repair`, as the towers
were trained, it passes before that through what OpenAI's and OpenCLIP's tokenizers do (ftfy: mojibake, curly quotes, wide
letters and ligatures become plain ones; then HTML entities, twice). Transformers leaves this out since release 5, and did so
before where ftfy was not installed; here a prompt has the same ids on every machine, or an error says what to install.
"""

from __future__ import annotations

import gzip
import html
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from sfumato.conditioners import tokens
from sfumato.errors import InputError

MERGES = Path(__file__).resolve().parent.parent / "assets" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
VOCABULARY = 49408
LENGTH = 77
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
BEGIN_ID, END_ID = 49406, 49407
CHARACTERS = LENGTH * tokens.CHARACTERS_PER_TOKEN

_WORD_END = "</w>"
_NUM_MERGES = VOCABULARY - 2 * 256 - 2
_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"

_UNTOUCHED = re.compile(r"[ -%'-~\t\n\r]*")  # printable ASCII less "&": ftfy and html.unescape give it back as it is


def read_merges() -> list[tuple[str, str]]:
    """The merges that CLIP uses, most frequent first: the file's first line is a title, and it holds more than these."""
    with gzip.open(MERGES, "rt", encoding="utf-8") as lines:
        next(lines)
        pairs = (line.split() for _, line in zip(range(_NUM_MERGES), lines, strict=False))
        return [(left, right) for left, right in pairs]


def vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Every token's id."""
    letters = _byte_letters()
    words = [*letters, *(letter + _WORD_END for letter in letters), *(left + right for left, right in merges), BEGIN, END]
    return {word: index for index, word in enumerate(words)}


@cache
def clip_tokenizer() -> Tokenizer:
    """CLIP's tokenizer, without marks or padding around a text. A mark inside a prompt is the mark, as published."""
    merges = read_merges()
    bpe = models.BPE(vocab=vocabulary(merges), merges=merges, end_of_word_suffix=_WORD_END, unk_token=END)
    tokenizer = Tokenizer(bpe)
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    pieces = pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in (BEGIN, END)])
    return tokenizer


def repaired(text: str) -> str:
    """The text as OpenAI's and OpenCLIP's tokenizers clean it, in lower case.

    Raises `InputError` where the text is not plain ASCII and ftfy is not installed.
    """
    if _UNTOUCHED.fullmatch(text):
        return text.lower()
    try:
        import ftfy
    except ImportError:
        raise InputError(
            "CLIP's prompts of other than plain ASCII letters need ftfy; install it with `pip install 'sfumato[published]'`."
        ) from None
    return html.unescape(html.unescape(ftfy.fix_text(text))).lower()


def encode(text: str, repair: bool = False) -> list[int]:
    """Token ids of a text of any length, without marks."""
    text = repaired(text[:CHARACTERS]) if repair else text
    return clip_tokenizer().encode(tokens.clean(text, CHARACTERS), add_special_tokens=False).ids


def tokenized(text: str, length: int = LENGTH, repair: bool = False) -> tokens.Tokenized:
    """Which characters of the text, as it is cleaned, each of its tokens stands for; arguments as of `encode_padded`."""
    text = repaired(text[:CHARACTERS]) if repair else text
    text = tokens.clean(text, CHARACTERS)
    spans = clip_tokenizer().encode(text, add_special_tokens=False).offsets
    return tokens.Tokenized(text, tuple(spans[: length - 2]), length)


def encode_padded(texts: Sequence[str], pad: int, length: int = LENGTH, repair: bool = False) -> Tensor:
    """B texts -> (B, length) int64: begin, at most length - 2 tokens, end, then `pad`.

    Transformers' CLIP-L pads with the end (49407), OpenCLIP with 0.
    """
    result = torch.full((len(texts), length), pad, dtype=torch.int64)
    for row, text in zip(result, texts, strict=True):
        line = torch.tensor([BEGIN_ID, *encode(text, repair)[: length - 2], END_ID])
        row[: len(line)] = line
    return result


def is_truncated(text: str, length: int = LENGTH, repair: bool = False) -> bool:
    """Whether `encode_padded` cuts the text's end."""
    return bool(tokens.tail(text, CHARACTERS)) or len(encode(text, repair)) > length - 2


def _byte_letters() -> list[str]:
    """One printable letter a byte, in CLIP's order: the bytes that print as they are, then the others as U+0100 and on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, plain), *(chr(256 + i) for i in range(256 - len(plain)))]
