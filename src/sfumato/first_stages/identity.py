"""The identity first stage: latents are the pixels. A diffusion prior over it is a pixel-space DDPM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.first_stages.base import FirstStage
from sfumato.latent import Grid
from sfumato.posterior import DiagonalGaussian


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

    @property
    def last_layer(self) -> None:
        return None
