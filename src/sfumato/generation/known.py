"""A picture and a mask -> what is known of the latent: inpainting with models that were never trained for it.

Which cells are known: a cell stands for its own patch of factor x factor pixels, but convolutions let it see further. In the
shipped model (factor 8) another content of the hole moves the cells beside it by 0.4 of a standard deviation, those two away
by 0.2 and all others by less than 0.1. Kept, they would draw the rim of what was to go. So a cell is known where its patch
and the patches up to `margin` cells away are kept whole.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sfumato.errors import InputError
from sfumato.first_stages.base import FirstStage
from sfumato.generation.pixels import from_picture
from sfumato.generation.tiling import TILING, Tiling, encode
from sfumato.latent import Grid
from sfumato.samplers.known import Known

MARGIN = 1
"""Cells beside the hole that are made anew with it."""


def known_part(
    first_stage: FirstStage,
    image: Image.Image,
    mask: Image.Image,
    size: tuple[int, int],
    *,
    resampling: int = 1,
    jump: int = 1,
    margin: int = MARGIN,
    device: torch.device | str = "cpu",
    tiling: Tiling | None = TILING,
) -> Known:
    """What is known of `image`, resized to (height, width) `size`, where `mask` is black; white is made anew.

    image and mask have one size; both are resized. resampling, jump: as in `Known`. Raises `InputError` for a mask of another
    size, one that hides nothing, and one that leaves no cell of the latent known.
    """
    if mask.size != image.size:
        wrong, right = f"{mask.height}x{mask.width}", f"{image.height}x{image.width}"
        raise InputError(f"mask: got {wrong} for a picture of {right}; expected one of the same size.")
    if not isinstance(first_stage.latent, Grid):
        raise InputError("mask: this model's latents are no grid, so that no part of one can be kept.")
    anew = latent_mask(pixel_mask(mask, size), first_stage.latent.factor, margin)
    if not bool(anew.any()):
        raise InputError("mask: it hides nothing; expected white where the picture is made anew.")
    if bool(anew.all()):
        raise InputError("mask: nothing of the picture stays; expected black where it is kept, in more than narrow strips.")
    with torch.inference_mode(False), torch.no_grad():
        x = from_picture(image, first_stage.channels, size).to(device)
        return Known(encode(first_stage, x, tiling).mean, anew.to(device), resampling, jump)


def pixel_mask(mask: Image.Image, size: tuple[int, int]) -> Tensor:
    """(H, W) float of 0 and 1 at `size`: 1 where any of the mask's pixels there is brighter than half, transparent is black."""
    grey = np.array(Image.alpha_composite(Image.new("RGBA", mask.size, "black"), mask.convert("RGBA")).convert("L"))
    anew = (torch.from_numpy(grey) > 127).float()[None, None]
    larger = mask.height > size[0] or mask.width > size[1]
    found = F.adaptive_max_pool2d(anew, size) if larger else F.interpolate(anew, size, mode="nearest")
    return found[0, 0]


def latent_mask(mask: Tensor, factor: int, margin: int = MARGIN) -> Tensor:
    """(H, W) of 0 and 1 at pixel size -> (1, 1, H / factor, W / factor): 0 for the cells that are known.

    A cell is known when its own patch of factor x factor pixels and all patches up to `margin` cells away have no 1. Sides are
    multiples of the factor. margin: 0 or more.
    """
    cells = F.max_pool2d(mask.float()[None, None], factor)
    return cells if margin == 0 else F.max_pool2d(cells, 2 * margin + 1, stride=1, padding=margin)
