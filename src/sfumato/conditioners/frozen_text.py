"""Text read by an encoder that others trained and that stays as it is: CLIP, T5, BERT (`sfumato.networks.frozen_text`).

    y -> tau(y),   tau frozen;   optionally also one vector, a trained linear map of the mean over tokens

Rombach et al. 2021 train tau jointly; Stable Diffusion and Imagen (Saharia et al. 2022, arXiv 2205.11487, Sec. 2.1) take a
frozen one, which knows more words than captions teach. A model directory holds where the encoder is and the hash of its
weights, and not the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from sfumato.conditioners import tokens
from sfumato.conditioners.base import Conditioner
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.networks.frozen_text import TOKENIZER, encoder_facts, load_encoder


@dataclass(frozen=True)
class FrozenTextConfig:
    """source: a transformers folder with tokenizer.json and safetensors, or owner/name on the hub. length: tokens a prompt.

    vector_dim: of the pooled vector, None for none. dim, digest: of the encoder, filled in when a run begins; a model refuses
    another encoder than it was trained with.
    """

    kind: ClassVar[str] = "frozen_text"
    source: str = ""
    length: int = 77
    vector_dim: int | None = None
    dim: int = 0
    digest: str = ""

    def __post_init__(self) -> None:
        if self.length < 3:
            raise InputError(f"frozen_text length is {self.length}: expected 3 or more (begin, one token, end).")
        if self.vector_dim is not None and self.vector_dim < 1:
            raise InputError(f"frozen_text vector_dim is {self.vector_dim}: expected 1 or more, or null for no vector.")


class _Shared:
    """The encoder and its tokenizer, once: averages of a model share them, and a state dict does not hold them."""

    def __init__(self) -> None:
        self.encoder: nn.Module | None = None
        self.tokenizer: Tokenizer | None = None
        self.pad = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class FrozenText(Conditioner[str, Tensor]):
    """Prompts of any text. Prepared: (B, 2, length) int64, ids and whether they count. Read from its folder when first used."""

    place: Tensor

    def __init__(self, config: FrozenTextConfig):
        super().__init__()
        self.config = config
        self.characters = config.length * tokens.CHARACTERS_PER_TOKEN
        self.pool = nn.Linear(max(1, config.dim), config.vector_dim) if config.vector_dim else None
        self.register_buffer("place", torch.zeros(()), persistent=False)  # in the type that the network runs in
        self._shared = _Shared()

    def prepare(self, inputs: Sequence[str]) -> Tensor:
        """B texts of any kind and length -> (B, 2, length) int64, with the marks that the encoder's own tokenizer puts."""
        shared = self._opened()
        result = torch.zeros(len(inputs), 2, self.config.length, dtype=torch.int64)
        result[:, 0] = shared.pad
        for row, text in zip(result, inputs, strict=True):
            ids = self._encoded(text).ids
            row[0, : len(ids)], row[1, : len(ids)] = torch.tensor(ids), 1
        return result

    def count_truncated(self, inputs: Sequence[str]) -> int:
        """How many of the texts lose their end in `prepare`."""
        return sum(bool(tokens.tail(t, self.characters)) or bool(self._encoded(t).overflowing) for t in inputs)

    def null(self, count: int) -> Tensor:
        """(count, 2, length) int64: the empty prompt."""
        return self.prepare([""]).expand(count, -1, -1)

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, 2, length) -> context (B, length, dim), mask (B, length), vector (B, vector_dim) if there is one."""
        encoder = self._opened().encoder
        assert encoder is not None
        encoder.to(prepared.device)
        ids, mask = prepared[:, 0], prepared[:, 1].bool()
        with torch.no_grad():
            states: Tensor = encoder(input_ids=ids, attention_mask=prepared[:, 1]).last_hidden_state
        context = states.to(self.place.dtype)
        if self.pool is None:
            return Conditioning(context=context, mask=mask)
        weight = mask[..., None].to(context.dtype)
        return Conditioning(context=context, mask=mask, vector=self.pool((context * weight).sum(1) / weight.sum(1)))

    def _opened(self) -> _Shared:
        """The encoder, read when it is first asked for. Raises `InputError` where it is not the one of the config."""
        shared, config = self._shared, self.config
        if shared.encoder is not None:
            return shared
        facts = encoder_facts(config.source)
        if config.digest and facts.digest != config.digest:
            raise InputError(
                f"{config.source} holds another encoder ({facts.digest}) than this model was trained with ({config.digest})."
            )
        shared.tokenizer = tokens.read_tokenizer((facts.folder / TOKENIZER).read_text("utf-8"))
        shared.tokenizer.no_padding()
        shared.tokenizer.enable_truncation(config.length)
        shared.encoder, shared.pad = load_encoder(facts.folder), facts.pad
        return shared

    def _encoded(self, text: str) -> Any:
        tokenizer = self._opened().tokenizer
        assert tokenizer is not None
        return tokenizer.encode(tokens.clean(text, self.characters))
