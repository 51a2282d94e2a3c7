"""Text: y -> tau_theta(y), a transformer encoder trained jointly with the denoiser.

Rombach et al. 2021 (arXiv 2112.10752, Sec. 3.3, App. E.2.1). Context is every token's vector; the null input for guidance
is the empty prompt. Optionally also one vector, a linear map of the mean over tokens, beside the time embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from sfumato.conditioners import tokens
from sfumato.conditioners.base import Conditioner
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.networks.text_transformer import TextTransformer, TextTransformerConfig


@dataclass(frozen=True)
class TextConfig:
    """dim, depth, heads: of the transformer, `dim` is the context's width. length: tokens a prompt, begin and end included.

    vocabulary: rows of the token table, at least the tokenizer's size. head_channels: width of a head.
    gated: GEGLU in place of GELU. vector_dim: width of the pooled vector, or None for no such vector.
    reach: tokens to each side that every block's convolution sees, 0 for none: for captions whose order of words matters.
    """

    kind: ClassVar[str] = "text"
    dim: int = 512
    depth: int = 6
    heads: int = 8
    length: int = 77
    vocabulary: int = 8192
    head_channels: int = 64
    gated: bool = False
    dropout: float = 0.0
    vector_dim: int | None = None
    reach: int = 0

    def __post_init__(self) -> None:
        if self.length < 3:
            raise InputError(f"text length is {self.length}: expected 3 or more (begin, one token, end).")
        if self.vector_dim is not None and self.vector_dim < 1:
            raise InputError(f"text vector_dim is {self.vector_dim}: expected 1 or more, or null for no vector.")
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
            gated=self.gated,
            dropout=self.dropout,
            reach=self.reach,
        )


class TextEncoder(Conditioner[str, Tensor]):
    """Prompts of any text. What does not fit in `length` tokens is cut at the end; `count_truncated` counts such prompts."""

    def __init__(self, config: TextConfig, tokenizer: Tokenizer):
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())  # its own copy: settings below stay here
        self.tokenizer.encode_special_tokens = True  # "<pad>" in a prompt is five characters, not padding
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        pad, bos, eos = (self.tokenizer.token_to_id(token) for token in tokens.SPECIAL)
        if pad is None or bos is None or eos is None:
            raise InputError(f"tokenizer has no {', '.join(tokens.SPECIAL)}: expected one made by learn_tokenizer.")
        if max(self.tokenizer.get_vocab().values()) >= config.vocabulary:
            raise InputError(
                f"text vocabulary is {config.vocabulary}, the tokenizer has {self.tokenizer.get_vocab_size()} tokens: "
                "expected at least as many. Set vocabulary higher."
            )
        self.pad, self.bos, self.eos = pad, bos, eos
        self.characters = config.length * tokens.CHARACTERS_PER_TOKEN
        self.transformer = TextTransformer(config.transformer())
        self.pool = nn.Linear(config.dim, config.vector_dim) if config.vector_dim else None

    @staticmethod
    def learn_tokenizer(captions: Iterable[str], vocabulary: int = 8192) -> Tokenizer:
        """See `tokens.learn_tokenizer`: deterministic, at most `vocabulary` tokens."""
        return tokens.learn_tokenizer(captions, vocabulary)

    def tokenizer_json(self) -> str:
        """The tokenizer as text; `tokens.read_tokenizer` reads it."""
        return self.tokenizer.to_str()

    def prepare(self, inputs: Sequence[str]) -> Tensor:
        """B texts of any kind and length -> (B, length) int64: begin, at most length - 2 tokens, end, padding."""
        room = self.config.length - 2
        result = torch.full((len(inputs), self.config.length), self.pad, dtype=torch.int64)
        for row, text in zip(result, inputs, strict=True):
            line = torch.tensor([self.bos, *self._encode(text)[:room], self.eos])
            row[: len(line)] = line
        return result

    def count_truncated(self, inputs: Sequence[str]) -> int:
        """How many of the texts lose their end in `prepare`."""
        return sum(
            bool(tokens.tail(text, self.characters)) or len(self._encode(text)) > self.config.length - 2 for text in inputs
        )

    def tokenized(self, text: str) -> tokens.Tokenized:
        """Which characters of the text each of its tokens stands for."""
        text = tokens.clean(text, self.characters)
        spans = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return tokens.Tokenized(text, tuple(spans[: self.config.length - 2]), self.config.length)

    def null(self, count: int) -> Tensor:
        """(count, length) int64: the empty prompt."""
        return self.prepare([""]).expand(count, -1)

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, length) ids -> context (B, length, dim), mask (B, length), vector (B, vector_dim) if there is one."""
        mask = prepared != self.pad
        context = self.transformer(prepared, mask)
        if self.pool is None:
            return Conditioning(context=context, mask=mask)
        weight = mask[..., None].to(context.dtype)
        mean = (context * weight).sum(1) / weight.sum(1)
        return Conditioning(context=context, mask=mask, vector=self.pool(mean))

    def _encode(self, text: str) -> list[int]:
        """Token ids of a text, without marks."""
        # one text a call: the package's batch call starts threads, which then warn in every forked data worker
        return self.tokenizer.encode(tokens.clean(text, self.characters), add_special_tokens=False).ids
