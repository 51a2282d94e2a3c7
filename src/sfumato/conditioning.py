"""`Conditioning`: what a prior is told about the picture, in named slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Named slots, each optional; an empty one means unconditional.

    context: (B, L, D) tokens for cross-attention.
    mask: (B, L) bool, True where a context token counts.
    concat: (B, C, h, w) maps concatenated to the latent.
    vector: (B, D) added to the timestep embedding, or (B,) whole numbers whose embeddings the network looks up and adds.
    """

    context: Tensor | None = None
    mask: Tensor | None = None
    concat: Tensor | None = None
    vector: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditioning:
        """Apply `function` to every filled slot."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Conditioning(**{k: None if v is None else function(v) for k, v in values.items()})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """Move to `device`; floating slots also to `dtype`."""
        return self.map(lambda v: v.to(device=device, dtype=dtype if v.is_floating_point() else None))

    def __getitem__(self, index: slice | Tensor) -> Conditioning:
        """Select pictures along the batch."""
        return self.map(lambda v: v[index])

    def check(self, **wanted: bool) -> None:
        """Assert that each named slot is filled exactly when a network asks for it."""
        for slot, asked in wanted.items():
            filled = getattr(self, slot) is not None
            assert filled == asked, f"this network {'needs' if asked else 'has no'} {slot}, the conditioning has {filled=}"

    @staticmethod
    def cat(parts: list[Conditioning]) -> Conditioning:
        """Concatenate along the batch; all parts fill the same slots."""
        merged = {}
        for f in fields(Conditioning):
            values = [getattr(part, f.name) for part in parts]
            filled = [v for v in values if v is not None]
            assert len(filled) in (0, len(values)), f"slot {f.name} is filled in some parts only"
            merged[f.name] = torch.cat(filled) if filled else None
        return Conditioning(**merged)


Twins = list[tuple[Conditioning, float]]
"""Conditions and the weights with which guidance combines their x_0 estimates; the weights sum to 1."""
