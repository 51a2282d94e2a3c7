"""The identity first stage: latents are the pixels. A diffusion prior over it is a pixel-space DDPM.

Its face of codes is the 8-bit pixels themselves, over which an autoregressive prior has an exact likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.first_stages.base import CodesFace, FirstStage
from sfumato.latent import Codes, Grid
from sfumato.posterior import DiagonalGaussian

LEVELS = 256  # of 8-bit pixels


@dataclass(frozen=True)
class IdentityConfig:
    """`image_channels`: 1 grey, 3 RGB, any number otherwise."""

    kind: ClassVar[str] = "identity"
    image_channels: int = 3


class IdentityFirstStage(FirstStage):
    """z = x, factor 1. Pixels in [-1, 1] are near enough to unit scale, as in Ho et al. 2020 (arXiv 2006.11239)."""

    def __init__(self, config: IdentityConfig):
        super().__init__()
        self.config = config
        self.channels = config.image_channels
        self.latent: Grid = Grid(config.image_channels, 1)
        self.preview = None

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """The pixels (B, C, H, W), with no spread."""
        return DiagonalGaussian(x)

    def decode(self, z: Tensor) -> Tensor:
        """The pixels (B, C, H, W)."""
        return z

    def codes(self) -> PixelCodes:
        """8-bit pixels."""
        return PixelCodes(self.channels)

    @property
    def last_layer(self) -> None:
        return None


class PixelCodes(CodesFace):
    """x in [-1, 1] <-> whole numbers from 0 to 255, c = 127.5 (x + 1) rounded: all channels of a place are its codes."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.latent: Codes = Codes((1,), LEVELS, channels)
        self.preview = None

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(B, C, H, W) pixels in [-1, 1] -> (B, C, H, W) int64; (B, H, W) where there is one channel."""
        codes = ((x + 1) * ((LEVELS - 1) / 2)).round().clamp(0, LEVELS - 1).long()
        return codes[:, 0] if self.channels == 1 else codes

    def decode(self, z: Tensor) -> Tensor:
        """What `encode` gives -> (B, C, H, W) pixels in [-1, 1]."""
        z = z[:, None] if z.ndim == 3 else z
        return z.float() * (2 / (LEVELS - 1)) - 1
