"""The generator: G(z) draws a picture out of a vector, from 4 x 4 upwards.

    w = mapping(z),   h_0 = base(w) at 4 x 4,   h_i = block(double(h_{i-1}), w),
    x = out(h_last)                              plain
    x = sum_i upsample(to_pixels_i(h_i))         with `skip`: every level adds its own detail

A mapping network whose output scales and shifts the norms of every block, and output skips: Karras, Laine, Aila 2018
(arXiv 1812.04948, Sec. 2) and Karras et al. 2019 (arXiv 1912.04958, Sec. 4). Residual blocks that double the size: Brock,
Donahue, Simonyan 2018 (arXiv 1809.11096). A class comes in as a part of z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.nn.layers import GroupNorm, double
from sfumato.nn.residual import TimeResBlock

BASE = 4  # side of the first feature map


@dataclass(frozen=True)
class GeneratorConfig:
    """dim: of z, the embedding of a class included. widths: channels of each level, 4 x 4 first, twice as large each time.

    mapping_width, mapping_layers: of w = mapping(z). skip: sum a picture of every level; otherwise the last level draws.
    """

    kind: ClassVar[str] = "generator"
    image_channels: int = 3
    dim: int = 128
    widths: tuple[int, ...] = (256, 256, 128, 64)
    mapping_width: int = 256
    mapping_layers: int = 2
    skip: bool = True

    def __post_init__(self) -> None:
        for name in ("image_channels", "dim", "mapping_width", "mapping_layers"):
            if getattr(self, name) < 1:
                raise InputError(f"generator {name} is {getattr(self, name)}: expected 1 or more.")
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"generator widths are {list(self.widths)}: expected one width of 1 or more for each level.")

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return int(BASE * 2 ** (len(self.widths) - 1))


class Generator(nn.Module):
    """(B, dim) -> (B, C, size, size); near [-1, 1] once trained, not clipped."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        widths, inner = config.widths, config.mapping_width
        layers: list[nn.Module] = [nn.Linear(config.dim, inner)]
        for _ in range(config.mapping_layers - 1):
            layers += [nn.SiLU(), nn.Linear(inner, inner)]
        self.mapping = nn.Sequential(*layers)
        self.base = nn.Linear(inner, widths[0] * BASE * BASE)
        for layer in (*self.mapping, self.base):
            _keep_variance(layer)
        before = (widths[0], *widths)
        self.blocks = nn.ModuleList(
            TimeResBlock(a, b, inner, scale_shift=True, resample=double if level else None)
            for level, (a, b) in enumerate(zip(before, widths, strict=False))
        )
        drawing = widths if config.skip else widths[-1:]
        self.to_pixels = nn.ModuleList(ToPixels(width, config.image_channels) for width in drawing)

    def forward(self, z: Tensor) -> Tensor:
        """(B, dim) -> (B, C, size, size)."""
        w = self.mapping(z)
        h = self.base(F.silu(w)).unflatten(1, (-1, BASE, BASE))  # (B, widths[0], 4, 4)
        x: Tensor | None = None
        first = len(self.blocks) - len(self.to_pixels)
        for level, block in enumerate(self.blocks):
            h = block(h, w)  # (B, widths[level], 4 * 2^level, 4 * 2^level)
            if level >= first:
                drawn = self.to_pixels[level - first](h)
                x = drawn if x is None else drawn + F.interpolate(x, scale_factor=2.0, mode="bilinear")
        assert x is not None
        return x


class ToPixels(nn.Module):
    """Feature map -> its picture: 3 x 3 convolution of silu(norm(h))."""

    def __init__(self, channels: int, image_channels: int):
        super().__init__()
        self.norm = GroupNorm(channels, eps=1e-5)
        self.conv = nn.Conv2d(channels, image_channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, image_channels, h, w)."""
        return self.conv(F.silu(self.norm(h)))


def _keep_variance(module: nn.Module) -> None:
    """Weights of He et al. 2015 (arXiv 1502.01852), no bias: pictures differ by their z from the first step."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)
