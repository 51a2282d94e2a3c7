"""Inpainting: the mask and the encoded picture without what it hides, beside the latent.

                       hidden pixels   mask        order
    paper              black (-1)      -1 and 1    masked latents, mask      inpainting_big: 3 + 1 channels
    stable_diffusion   grey (0)        0 and 1     mask, masked latents      1 + 4 channels

Rombach et al. 2021 (arXiv 2112.10752, Sec. 4.5) and the inpainting models of Stable Diffusion. The mask is resized to the
latent's size by nearest neighbour. The latents are the encoder's most likely ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.pictures import Encode, one_size, stacked
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError


@dataclass(frozen=True)
class MaskedImageConfig:
    """Which of the two published conventions. channels: of the picture, 4 with transparency."""

    kind: ClassVar[str] = "masked_image"
    convention: Literal["paper", "stable_diffusion"] = "stable_diffusion"
    channels: int = 3

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise InputError(f"masked_image channels is {self.channels}: expected 1 or more.")


@dataclass(frozen=True)
class MaskedImage:
    """image: (channels, H, W) in [-1, 1]. mask: (H, W), 0 keeps and 1 is made anew; it is cut at one half."""

    image: Tensor
    mask: Tensor


class MaskedLatents(Conditioner[MaskedImage, Tensor]):
    """Guidance keeps picture and mask. `encode` is the first stage's; it belongs to the model and holds nothing here."""

    needs = "a picture and a mask"

    def __init__(self, config: MaskedImageConfig, encode: Encode):
        super().__init__()
        self.config = config
        self.encode = encode

    def prepare(self, inputs: Sequence[MaskedImage]) -> Tensor:
        """B pictures with masks -> (B, channels + 1, H, W) fp32: the pixels, then the mask of 0 and 1."""
        images = stacked([given.image for given in inputs], self.config.channels, "image")
        masks = []
        for given in inputs:
            if given.mask.shape != given.image.shape[1:]:
                wrong, right = tuple(given.mask.shape), tuple(given.image.shape[1:])
                raise InputError(f"mask of shape {wrong} for an image of {right}; expected (height, width), the same.")
            mask = given.mask.to("cpu", torch.float32)
            if not bool(((mask >= 0) & (mask <= 1)).all()):
                raise InputError(
                    "the mask has values outside of [0, 1]; expected 0 where the picture stays, 1 where it is new."
                )
            masks.append((mask >= 0.5).float()[None])
        return torch.cat([images, one_size(masks, (1, 0, 0), "mask")], dim=1)

    def nulled(self, prepared: Tensor) -> Tensor:
        """The same pictures and masks."""
        return prepared

    @torch.no_grad()
    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, channels + 1, H, W) -> concat (B, latent channels + 1, h, w)."""
        image, mask = prepared[:, :-1], prepared[:, -1:]
        paper = self.config.convention == "paper"
        hidden = torch.full_like(image, -1.0 if paper else 0.0)
        latents = self.encode(torch.where(mask > 0.5, hidden, image))  # (B, C, h, w)
        small = F.interpolate(mask, size=latents.shape[2:], mode="nearest").to(latents.dtype)
        return Conditioning(concat=torch.cat([latents, 2 * small - 1] if paper else [small, latents], dim=1))
