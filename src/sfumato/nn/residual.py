"""Residual blocks: h = x + conv(silu(norm(conv(silu(norm(x)))))), and the same told the time.

He et al. 2015 (arXiv 1512.03385) in the pre-activation order of Ho et al. 2020 (arXiv 2006.11239); scale-shift norm and
resampling inside the block after Dhariwal & Nichol 2021 (arXiv 2105.05233, Sec. 3).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.layers import GroupNorm, conv3x3, zero

Resample = Callable[[Tensor], Tensor]


class ResBlock(nn.Module):
    """The autoencoder's block; a 1 x 1 convolution on the skip path where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0, groups: int = 32):
        super().__init__()
        self.norm1 = GroupNorm(in_channels, eps=1e-6, groups=groups)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.norm2 = GroupNorm(out_channels, eps=1e-6, groups=groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.skip(x) + h


class TimeResBlock(nn.Module):
    """The U-Net's block: the time embedding e is added after the first convolution, or modulates the second norm,

        h <- norm(h) * (1 + scale(e)) + shift(e)      (`scale_shift`; arXiv 2105.05233, Eq. 3).

    `resample` (halve or double) acts on both paths, before the first convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_channels: int,
        *,
        dropout: float = 0.0,
        scale_shift: bool = False,
        resample: Resample | None = None,
    ):
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.norm1 = GroupNorm(in_channels, eps=1e-5)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.time = nn.Linear(time_channels, 2 * out_channels if scale_shift else out_channels)
        self.norm2 = GroupNorm(out_channels, eps=1e-5)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(conv3x3(out_channels, out_channels))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, in, h, w), (B, time_channels) -> (B, out, h', w')."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        told = self.time(F.silu(embedding))[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + told)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))
