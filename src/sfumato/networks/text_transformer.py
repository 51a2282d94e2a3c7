"""The text encoder tau_theta of the paper: a transformer encoder without masking of the future.

    h_0 = E[ids] + P,   h <- h + attention(norm h),   h <- h + feed-forward(norm h),   tau(y) = norm(h_depth)

Rombach et al. 2021 (arXiv 2112.10752, App. E.2.1, Eq. 18-20, Tab. 17): pre-norm blocks, heads of 64 channels, a GELU
feed-forward four times as wide, learned positions. `gated` takes GEGLU instead (Shazeer 2020, arXiv 2002.05202).

`reach` n > 0 begins each block with h <- h + conv(norm h), a convolution over 2 n + 1 tokens, so that a token knows what stands
before and behind it without having to learn to look there. Which of two things is "left of" the other is told by its place and
the word together, by neither alone: attention had not found it after 5,000 steps of the recipe `scenes` (docs/lab-log.md).
Convolutions beside attention: Gulati et al. 2020
(arXiv 2005.08100).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfumato.errors import InputError
from sfumato.nn.attention import Attention, FeedForward


@dataclass(frozen=True)
class TextTransformerConfig:
    """Which transformer. `length` is the largest number of tokens; head width times `heads` need not be `dim`.

    reach: tokens to each side that a block's convolution sees; 0 for none.
    """

    vocabulary: int
    dim: int
    depth: int
    heads: int = 8
    length: int = 77
    head_channels: int = 64
    gated: bool = False
    dropout: float = 0.0
    reach: int = 0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "dim", "depth", "heads", "length", "head_channels"):
            if getattr(self, name) < 1:
                raise InputError(f"text transformer {name} is {getattr(self, name)}: expected 1 or more.")
        if self.reach < 0:
            raise InputError(f"text transformer reach is {self.reach}: expected 0 (none) or more tokens.")


class EncoderBlock(nn.Module):
    """h += conv(norm h) where there is a reach; h += attention(norm h); h += feed-forward(norm h)."""

    def __init__(self, config: TextTransformerConfig):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.attn = Attention(config.dim, config.heads, config.head_channels)
        self.ff = FeedForward(config.dim, config.gated, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.conv: nn.Conv1d | None = None
        if config.reach:
            self.norm0 = nn.LayerNorm(config.dim)
            self.conv = nn.Conv1d(config.dim, config.dim, 2 * config.reach + 1, padding=config.reach)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D), mask (B, L) -> (B, L, D)."""
        if self.conv is not None:
            seen = self.norm0(h) if mask is None else self.norm0(h) * mask[..., None]  # padding is not seen
            h = h + self.dropout(self.conv(seen.transpose(1, 2)).transpose(1, 2))
        h = h + self.dropout(self.attn(self.norm1(h), mask=mask))
        return h + self.dropout(self.ff(self.norm2(h)))


class TextTransformer(nn.Module):
    """Tokens to context. `checkpointing` (set at run time) recomputes activations in the backward pass."""

    checkpointing: bool = False

    def __init__(self, config: TextTransformerConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.dim)
        self.positions = nn.Embedding(config.length, config.dim)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids (B, L) int64, L <= length; mask (B, L) bool, True where a token counts -> (B, L, D).

        With a mask no output at a counted position depends on the tokens that do not count.
        """
        place = torch.arange(ids.shape[1], device=ids.device)
        h = self.tokens(ids) + self.positions(place)  # (B, L, D)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, mask, use_reentrant=False)
            else:
                h = block(h, mask)
        return self.norm(h)
