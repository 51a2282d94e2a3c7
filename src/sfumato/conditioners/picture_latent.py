"""A picture to edit: its latents beside the noisy ones.

    concat = factor * z(picture),   z the encoder's most likely latents in unit scale

InstructPix2Pix (Brooks, Holynski & Efros 2022, arXiv 2211.09800, Sec. 3.2) concatenates the encoder's own latents, not scaled
to unit variance: factor is there the inverse of Stable Diffusion's scale factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.pictures import Encode, stacked
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError


@dataclass(frozen=True)
class PictureLatentConfig:
    """factor: of the latents in unit scale. The default undoes Stable Diffusion's 0.18215. channels: of the picture."""

    kind: ClassVar[str] = "picture_latent"
    factor: float = 1 / 0.18215
    channels: int = 3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise InputError(f"picture_latent factor is {self.factor}: expected a number above 0.")


class PictureLatents(Conditioner[Tensor, Tensor]):
    """An input is a picture (channels, H, W) in [-1, 1]; guidance by a prompt keeps it. `encode` is the first stage's."""

    needs = "a picture"

    def __init__(self, config: PictureLatentConfig, encode: Encode):
        super().__init__()
        self.config = config
        self.encode = encode

    def prepare(self, inputs: Sequence[Tensor]) -> Tensor:
        """B pictures of one size -> (B, channels, H, W) fp32."""
        return stacked(inputs, self.config.channels, "image")

    def nulled(self, prepared: Tensor) -> Tensor:
        """The same pictures."""
        return prepared

    @torch.no_grad()
    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, channels, H, W) -> concat (B, latent channels, h, w)."""
        return Conditioning(concat=self.config.factor * self.encode(prepared))
