"""Small blocks of the convolutional networks: norms, resampling, the timestep embedding.

The timestep embedding of a time tau (in table steps, not in [0, 1]) with D channels is
    [cos(tau w_0), ..., cos(tau w_{D/2-1}), sin(tau w_0), ..., sin(tau w_{D/2-1})],  w_i = 10000^(-2i/D)
(Vaswani et al. 2017, arXiv 1706.03762, Sec. 3.5; cosines first as in the code of Rombach et al. 2021, arXiv 2112.10752).
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import InputError

M = TypeVar("M", bound=nn.Module)


def zero(module: M) -> M:
    """Set all parameters of `module` to zero: a residual branch that starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def num_groups(channels: int, most: int = 32) -> int:
    """`most`, or the largest smaller number that divides `channels`."""
    return next(groups for groups in range(min(most, channels), 0, -1) if channels % groups == 0)


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * gain over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467), in the type of its input.

    A gain of another type would take the product out of the one kernel that does it all.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> the same."""
        gain = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, gain, self.eps)


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018, arXiv 1803.08494) over `groups` groups, in the type of its input.

    Autocast computes norms in fp32; casting the result back keeps the residual stream in 16 bits.
    """

    def __init__(self, channels: int, eps: float, groups: int = 32):
        super().__init__(num_groups(channels, groups), channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same. Raises `InputError` for groups of a single number, whose variance is none."""
        if x.numel() == self.num_groups:
            raise InputError(f"size: {self.num_groups} channels of one place are left to normalise; take a larger picture.")
        return super().forward(x).to(x.dtype)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """The 3 x 3 convolution that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def timestep_embedding(time: Tensor, channels: int, max_period: float = 10000.0) -> Tensor:
    """(B,) times in table steps, whole or not -> (B, channels) fp32; an odd last channel is zero."""
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    angles = time.float()[:, None] * torch.exp(-math.log(max_period) * steps / half)  # (B, D / 2)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
    return F.pad(embedding, (0, channels - 2 * half))


class Downsample(nn.Module):
    """Halve the size by a strided 3 x 3 convolution.

    `asymmetric` pads right and below only, as the autoencoder of the paper does; otherwise one pixel all around.
    """

    def __init__(self, channels: int, asymmetric: bool = False):
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h / 2, w / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Double the size: nearest neighbour, then a 3 x 3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 2h, 2w)."""
        return self.conv(double(x))


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by 2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def halve(x: Tensor) -> Tensor:
    """Average pooling by 2."""
    return F.avg_pool2d(x, 2)
