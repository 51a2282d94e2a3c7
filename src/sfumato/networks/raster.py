"""The order of codes, and what a network must do that predicts each from those before it.

    p(c | y) = prod_i p(c_i | c_1, ..., c_{i-1}, y)

The raster order is row by row, in a row place by place, at a place channel by channel (van den Oord et al. 2016,
arXiv 1601.06759, Sec. 2.1-2.2): code i of a (C, h, w) grid is channel i mod C of place i div C. Several grids of one
picture, coarse to fine, are kept in one tensor (`pack`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.conditioning import Conditioning


def to_sequence(codes: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, N) in raster order, N = h w C."""
    return codes.permute(0, 2, 3, 1).flatten(1)


def to_grid(sequence: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, N, ...) in raster order -> (B, C, h, w, ...), `shape` is (C, h, w)."""
    channels, height, width = shape
    grid = sequence.unflatten(1, (height, width, channels))  # (B, h, w, C, ...)
    return grid.movedim(3, 1)


def place(index: int, shape: Sequence[int]) -> tuple[int, int, int]:
    """(channel, row, column) of code number `index` in the raster order of a grid of `shape` (C, h, w)."""
    channels, _, width = shape
    return index % channels, index // channels // width, index // channels % width


def pack(grids: Sequence[Tensor]) -> Tensor:
    """Grids (B, h_i, w_i) of one picture, the coarsest first, in one tensor (B, C, h_0, w_0); see `Codes.shape`.

    A finer grid's codes lie row by row of the block that stands at a place of the coarsest one.
    """
    height, width = grids[0].shape[-2:]
    blocks = [g.unflatten(2, (width, -1)).unflatten(1, (height, -1)) for g in grids]  # (B, h, r, w, r)
    return torch.cat([b.permute(0, 2, 4, 1, 3).flatten(1, 2) for b in blocks], dim=1)


def unpack(z: Tensor, ratios: Sequence[int]) -> tuple[Tensor, ...]:
    """The inverse of `pack`: (B, C, h, w) -> (B, r_i h, r_i w) for each ratio, whose squares sum to C; the first is 1."""
    assert z.shape[1] == sum(r * r for r in ratios), f"{z.shape[1]} codes a place, for grids {list(ratios)} times as fine"
    parts = zip(z.split([r * r for r in ratios], dim=1), ratios, strict=True)
    return tuple(part.unflatten(1, (r, r)).permute(0, 3, 1, 4, 2).flatten(3, 4).flatten(1, 2) for part, r in parts)


class Predictor(Protocol):
    """Logits (B, K) of code `index` given the codes before it in `sequence` (B, N); asked for 0, 1, ..., N - 1 in turn."""

    def __call__(self, sequence: Tensor, index: int) -> Tensor: ...


class CodeNetwork(nn.Module, ABC):
    """Logits of each code from the codes before it."""

    @abstractmethod
    def forward(self, codes: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, h, w) codes -> (B, C, h, w, K) logits; those of code i depend on no code from i on."""

    def surprise(self, codes: Tensor, cond: Conditioning) -> Tensor:
        """-log p of each code given those before it: (B, C, h, w) codes -> the same shape in nats, fp32."""
        logits = self(codes, cond).float()
        return F.cross_entropy(logits.flatten(0, 3), codes.flatten(), reduction="none").view(codes.shape)

    @abstractmethod
    def predictor(self, cond: Conditioning, batch: int, shape: Sequence[int]) -> Predictor:
        """For sampling `batch` grids of `shape` (C, h, w): logits of one code after the other, without gradients."""
