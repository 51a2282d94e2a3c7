"""Noise that belongs to a picture, not to a batch.

Picture i of a call has seed `seed + i`. Its noise comes from one generator of its own, drawn on the CPU in
fp32, so that a picture does not depend on the batch it was made in, nor on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

MAX_SEED = 2**32 - 1


class NoiseSource(Protocol):
    """Fresh standard normal noise in the shape, type and device of `like` (B, ...)."""

    def __call__(self, like: Tensor) -> Tensor: ...


class PictureNoise:
    """One CPU generator a picture. `seeds[i]` belongs to row i of every tensor that is asked for."""

    def __init__(self, seeds: Sequence[int]):
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def __call__(self, like: Tensor) -> Tensor:
        """Standard normal noise (B, ...), B = number of seeds, on the device and in the type of `like`."""
        assert len(like) == len(self.generators), f"{len(like)} rows for {len(self.generators)} seeds"
        rows = [torch.randn(like.shape[1:], generator=g) for g in self.generators]
        return torch.stack(rows).to(like)


class SharedNoise:
    """One generator for the whole batch: for training and tests, where rows need no identity."""

    def __init__(self, rng: torch.Generator | None = None):
        self.rng = rng

    def __call__(self, like: Tensor) -> Tensor:
        """Standard normal noise like `like`."""
        return torch.randn(like.shape, generator=self.rng, device=like.device, dtype=like.dtype)
