"""The jointly trained BERT-style transformer as released: tau_theta(y), with BERT's tokenizer.

Rombach et al. 2021 (arXiv 2112.10752, App. E.2.1, Eq. 18-20, Tab. 17; `BERTEmbedder` of the released code). A plain
`TextTransformer` of 8 heads of 64 channels, whose learned positions are added unscaled. Two things set it apart from the
conditioner `text` of this library: padding is attended to like any token, and the files hold a head `dim -> vocabulary`
that nothing uses. It is kept here, so that a file leaves as it came, and counts in the published number of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from sfumato.conditioners import tokens, wordpiece
from sfumato.conditioners.base import Conditioner
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.networks.text_transformer import TextTransformer, TextTransformerConfig


@dataclass(frozen=True)
class BertConfig:
    """dim, depth: of the transformer. length: tokens a prompt, marks included. vocabulary: rows of the token table.

    The defaults are those of txt2img-1p4B (1280 x 32); text2img256 has dim 640.
    """

    kind: ClassVar[str] = "bert"
    dim: int = 1280
    depth: int = 32
    length: int = 77
    vocabulary: int = 30522
    heads: int = 8
    head_channels: int = 64

    def __post_init__(self) -> None:
        if self.length < 3:
            raise InputError(f"bert length is {self.length}: expected 3 or more (begin, one token, end).")
        self.transformer()

    def transformer(self) -> TextTransformerConfig:
        """The transformer's own config. Raises `InputError` when a field is out of range."""
        return TextTransformerConfig(
            vocabulary=self.vocabulary,
            dim=self.dim,
            depth=self.depth,
            heads=self.heads,
            length=self.length,
            head_channels=self.head_channels,
        )


class BertEmbedding(nn.Module):
    """Token ids (B, L) -> (B, L, dim), with the head that the published files hold and nothing uses."""

    def __init__(self, config: TextTransformerConfig):
        super().__init__()
        self.transformer = TextTransformer(config)
        self.head = nn.Linear(config.dim, config.vocabulary).requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """Every position attends to every other."""
        return self.transformer(ids)


class BertText(Conditioner[str, Tensor]):
    """Prompts of any text; the null input is the empty prompt."""

    def __init__(self, config: BertConfig, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())  # its own copy: settings below stay here
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        marks = [self.tokenizer.token_to_id(mark) for mark in (wordpiece.PAD, wordpiece.BEGIN, wordpiece.END)]
        if None in marks or self.tokenizer.get_vocab_size() != config.vocabulary:
            raise InputError(
                f"the tokenizer has {self.tokenizer.get_vocab_size()} tokens, the model {config.vocabulary}; expected BERT's "
                f"own, made from {wordpiece.FILE} of bert-base-uncased."
            )
        self.pad, self.begin, self.end = (int(mark) for mark in marks if mark is not None)
        self.characters = config.length * tokens.CHARACTERS_PER_TOKEN
        self.embedder = BertEmbedding(config.transformer())

    def tokenizer_json(self) -> str:
        """The tokenizer as text; `tokens.read_tokenizer` reads it."""
        return self.tokenizer.to_str()

    def prepare(self, inputs: Sequence[str]) -> Tensor:
        """B texts of any kind and length -> (B, length) int64: begin, at most length - 2 tokens, end, padding."""
        result = torch.full((len(inputs), self.config.length), self.pad, dtype=torch.int64)
        for row, text in zip(result, inputs, strict=True):
            line = torch.tensor([self.begin, *self._encode(text)[: self.config.length - 2], self.end])
            row[: len(line)] = line
        return result

    def count_truncated(self, inputs: Sequence[str]) -> int:
        """How many of the texts lose their end in `prepare`."""
        room = self.config.length - 2
        return sum(bool(tokens.tail(text, self.characters)) or len(self._encode(text)) > room for text in inputs)

    def tokenized(self, text: str) -> tokens.Tokenized:
        """Which characters of the text each of its tokens stands for."""
        text = tokens.clean(text, self.characters)
        spans = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return tokens.Tokenized(text, tuple(spans[: self.config.length - 2]), self.config.length)

    def null(self, count: int) -> Tensor:
        """(count, length) int64: the empty prompt."""
        return self.prepare([""]).expand(count, -1)

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, length) ids -> context (B, length, dim), padding included, without a mask."""
        return Conditioning(context=self.embedder(prepared))

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(tokens.clean(text, self.characters), add_special_tokens=False).ids
