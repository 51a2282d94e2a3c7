"""A small segmenter: pixels -> logits of a class at every pixel.

The hourglass with skip connections of Ronneberger, Fischer, Brox 2015 (arXiv 1505.04597, Fig. 1), of residual blocks: it reads
maps back from pictures, to measure how well pictures keep to the maps they were made from.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.nn.layers import GroupNorm, conv3x3
from sfumato.nn.residual import ResBlock


@dataclass(frozen=True)
class SegmenterConfig:
    """num_classes: of the maps. channels: width at full size, doubled at each of `halvings`, at most eightfold."""

    num_classes: int
    image_channels: int = 3
    channels: int = 32
    halvings: int = 4

    def __post_init__(self) -> None:
        for name in ("num_classes", "image_channels", "channels", "halvings"):
            if getattr(self, name) < 1:
                raise InputError(f"segmenter {name} is {getattr(self, name)}: expected 1 or more.")

    @property
    def widths(self) -> tuple[int, ...]:
        """From full size down."""
        return tuple(self.channels * min(2**level, 8) for level in range(self.halvings + 1))


class Segmenter(nn.Module):
    """Sides are filled up to multiples of 2^halvings and cut back."""

    def __init__(self, config: SegmenterConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        self.stem = conv3x3(config.image_channels, widths[0])
        steps = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(ResBlock(a, b) for a, b in steps)
        self.middle = ResBlock(widths[-1], widths[-1])
        self.up = nn.ModuleList(ResBlock(b + a, a) for a, b in reversed(steps))
        self.head = nn.Sequential(GroupNorm(widths[0], eps=1e-6), nn.SiLU(), nn.Conv2d(widths[0], config.num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, image_channels, H, W) in [-1, 1] -> (B, num_classes, H, W)."""
        height, width = x.shape[2:]
        unit = 2**self.config.halvings
        h = self.stem(F.pad(x, (0, -width % unit, 0, -height % unit), mode="replicate"))
        skips: list[Tensor] = []
        for block in self.down:
            skips.append(h)
            h = block(F.avg_pool2d(h, 2))
        h = self.middle(h)
        for block in self.up:
            h = block(torch.cat([F.interpolate(h, scale_factor=2.0, mode="nearest"), skips.pop()], 1))
        logits: Tensor = self.head(h)
        return logits[:, :, :height, :width]
