"""User inputs -> Conditioning: the contract of a conditioner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning, Twins


class Conditioner(nn.Module, ABC):
    """tau of the paper. Inputs become a tensor once (`prepare`, on the CPU), the tensor a Conditioning (`forward`)."""

    @abstractmethod
    def prepare(self, inputs: Sequence[str]) -> Tensor:
        """What the user gave, one a picture, as a tensor (B, ...) on the CPU. Raises `InputError` for an unknown input."""

    @abstractmethod
    def null(self, count: int) -> Tensor:
        """The prepared null input, `count` times: the empty prompt, the null class."""

    @abstractmethod
    def forward(self, prepared: Tensor) -> Conditioning:
        """Prepared inputs (B, ...) on the module's device -> Conditioning. Trained jointly with the prior."""

    def count_truncated(self, inputs: Sequence[str]) -> int:
        """How many of the inputs `prepare` cuts short; only text is ever cut."""
        return 0

    def drop(self, prepared: Tensor, probability: float, rng: torch.Generator | None) -> Tensor:
        """Replace each input by the null input with `probability`: for guidance (Ho & Salimans 2022, arXiv 2207.12598)."""
        if probability <= 0:
            return prepared
        chance = torch.rand(len(prepared), generator=rng, device=prepared.device)
        lost = (chance < probability).view(-1, *[1] * (prepared.ndim - 1))
        return torch.where(lost, self.null(len(prepared)).to(prepared), prepared)

    def twins(self, prepared: Tensor, guidance: float, negative: Tensor | None = None) -> Twins:
        """Conditions and weights for guidance: w * cond + (1 - w) * null. `guidance` 1 means off, `negative` replaces null."""
        cond = self(prepared)
        if guidance == 1.0:
            return [(cond, 1.0)]
        null = self.null(len(prepared)) if negative is None else negative
        return [(cond, guidance), (self(null.to(prepared.device)), 1.0 - guidance)]
