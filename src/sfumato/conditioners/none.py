"""No condition: p(z)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.conditioners.base import Conditioner, Scales
from sfumato.conditioning import Conditioning, Twins


@dataclass(frozen=True)
class NoneConfig:
    """Nothing to choose."""

    kind: ClassVar[str] = "none"


class Unconditional(Conditioner[str, Tensor]):
    """Counts its inputs and ignores what they say."""

    def __init__(self, config: NoneConfig | None = None):
        super().__init__()
        self.config = config or NoneConfig()

    def prepare(self, inputs: Sequence[str]) -> Tensor:
        """B inputs -> zeros (B,) int64."""
        return torch.zeros(len(inputs), dtype=torch.int64)

    def null(self, count: int) -> Tensor:
        """zeros (count,) int64."""
        return torch.zeros(count, dtype=torch.int64)

    def forward(self, prepared: Tensor) -> Conditioning:
        """An empty Conditioning."""
        return Conditioning()

    def twins(self, prepared: Tensor, guidance: Scales, negative: Tensor | None = None) -> Twins:
        """Guidance has nothing to guide: one empty condition, whatever the scale."""
        return [(Conditioning(), 1.0)]
