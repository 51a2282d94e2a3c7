"""Sizes and scores of SDXL: each number as a Fourier embedding of 256 channels, one after the other.

    base      original height, width; crop top, left; target height, width     vector (B, 6 * 256)
    refiner   original height, width; crop top, left; aesthetic score          vector (B, 5 * 256)

Podell et al. 2023 (arXiv 2307.01952, Sec. 2.2). Beside the pooled text of 1280 channels they make the vectors of 2816 and
2560 channels. The embedding is the timestep's (`nn.layers.timestep_embedding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sfumato.conditioners.base import Conditioner
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.nn.layers import timestep_embedding

LARGEST = 2**24  # whole numbers up to here are exact in fp32


@dataclass(frozen=True)
class SizesConfig:
    """last: what follows the original size and the crop. channels: of each number's embedding.

    null_score: the aesthetic score of the null twin; sizes are kept.
    """

    kind: ClassVar[str] = "sizes"
    last: Literal["target", "score"] = "target"
    channels: int = 256
    null_score: float = 2.5

    def __post_init__(self) -> None:
        if self.channels < 2 or self.channels % 2:
            raise InputError(f"sizes: channels is {self.channels}, expected an even number from 2.")

    @property
    def dim(self) -> int:
        """Width of the vector."""
        return self.channels * (6 if self.last == "target" else 5)


@dataclass(frozen=True)
class Sizes:
    """original, target: (height, width) in pixels. crop: (top, left) in pixels. score: aesthetic, about 1 to 10.

    `target` None is the original size.
    """

    original: tuple[int, int]
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int] | None = None
    score: float = 6.0


class SizeNumbers(Conditioner[Sizes, Tensor]):
    """Guidance keeps sizes and replaces the score."""

    def __init__(self, config: SizesConfig):
        super().__init__()
        self.config = config

    def from_prompt(self, prompt: str, size: tuple[int, int]) -> Sizes:
        """A whole picture of its own size."""
        return Sizes(size)

    def prepare(self, inputs: Sequence[Sizes]) -> Tensor:
        """B sizes -> (B, 6) or (B, 5) fp32."""
        rows = []
        for given in inputs:
            target = given.original if given.target is None else given.target
            rows.append([*given.original, *given.crop, *(target if self.config.last == "target" else (given.score,))])
            if not all(0 <= number <= LARGEST for number in rows[-1]):
                raise InputError(f"sizes {rows[-1]}: expected pixels and a score from 0 to {LARGEST}.")
        return torch.tensor(rows, dtype=torch.float32).reshape(-1, self.config.dim // self.config.channels)

    def nulled(self, prepared: Tensor) -> Tensor:
        """The same sizes, with the null score where there is one."""
        if self.config.last == "target":
            return prepared
        return torch.cat([prepared[:, :-1], torch.full_like(prepared[:, -1:], self.config.null_score)], dim=1)

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, n) numbers -> vector (B, n * channels) fp32."""
        return Conditioning(vector=timestep_embedding(prepared.flatten(), self.config.channels).view(len(prepared), -1))
