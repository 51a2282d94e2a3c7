"""Retrieved neighbours: k CLIP vectors of length 1 as context tokens.

Retrieval-augmented diffusion (Blattmann et al. 2022, arXiv 2204.11824): the released model reads the prompt's own CLIP
embedding, the embeddings of its nearest pictures in a database, or both one after the other. Guidance goes against zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.pictures import one_size
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError


@dataclass(frozen=True)
class NeighboursConfig:
    """dim: of a vector, 768 for ViT-L/14."""

    kind: ClassVar[str] = "neighbours"
    dim: int = 768

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise InputError(f"neighbours: dim is {self.dim}, expected 1 or more.")


class Neighbours(Conditioner[Tensor, Tensor]):
    """Vectors (k, dim), the same number k for every picture of a call. The null input is zeros."""

    needs = "retrieved neighbours"

    def __init__(self, config: NeighboursConfig):
        super().__init__()
        self.config = config

    def prepare(self, inputs: Sequence[Tensor]) -> Tensor:
        """B times (k, dim) -> (B, k, dim) fp32, each vector divided by its length."""
        for given in inputs:
            if given.ndim != 2 or given.shape[1] != self.config.dim or not given.is_floating_point() or len(given) == 0:
                raise InputError(f"neighbours {tuple(given.shape)} of {given.dtype}; expected (k, {self.config.dim}) floats.")
            if not bool(torch.isfinite(given).all()) or not bool(given.any(1).all()):
                raise InputError("neighbours: a vector is zero or not finite; expected CLIP embeddings.")
        rows = [F.normalize(given.to("cpu", torch.float32), dim=1) for given in inputs]
        return one_size(rows, (0, self.config.dim), "neighbours")

    def nulled(self, prepared: Tensor) -> Tensor:
        """Zeros, as many."""
        return torch.zeros_like(prepared)

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, k, dim) -> context."""
        return Conditioning(context=prepared)
