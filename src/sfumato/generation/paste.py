"""What a model drew as a picture like the user's: its size, its alpha, and its own bytes outside of a mask.

    out = mask * drawn + (1 - mask) * picture,    mask 0 or 1 for each pixel, at the picture's own resolution

so that outside of the mask every byte is the picture's, colours of clear pixels included.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.alpha import straight
from sfumato.errors import InputError
from sfumato.generation.pixels import WITH_ALPHA


def has_alpha(image: Image.Image) -> bool:
    """Whether a picture holds transparency, as a channel or as a key."""
    return "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info


def plain(image: Image.Image) -> Image.Image:
    """A picture as RGBA where it holds transparency, else as RGB. 8-bit RGB and RGBA keep their bytes."""
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"):
        raise InputError(f"image: got one of mode {image.mode[:10]}; expected 8 bits a channel, such as RGB or RGBA.")
    return image.convert("RGBA" if has_alpha(image) else "RGB")


def like(pixels: Tensor, size: tuple[int, int], alpha: Image.Image | None) -> Image.Image:
    """A model's pixels, uint8 (C, h, w), as a picture of (height, width): RGBA where `alpha` is given, else RGB on white.

    Four channels bring their own alpha; fewer, which were drawn on white, take `alpha` (mode L, of that size).
    """
    bands = pixels if len(pixels) in (3, WITH_ALPHA) else pixels[:1].expand(3, -1, -1)
    layers = [Image.fromarray(band) for band in bands.cpu().numpy()]
    layers = [band if band.size == size[::-1] else band.resize(size[::-1], Image.Resampling.LANCZOS) for band in layers]
    if alpha is None:
        return Image.merge("RGB", layers[:3])
    drawn = np.stack([np.asarray(band) for band in [*layers[:3], layers[3] if len(layers) == WITH_ALPHA else alpha]])
    return Image.fromarray(straight(drawn).transpose(1, 2, 0).copy(), "RGBA")


def paste(image: Image.Image, drawn: Image.Image, mask: Tensor) -> Image.Image:
    """`drawn` where `mask` (H, W) is true, `image` bit for bit elsewhere. All of one size and mode, RGB or RGBA."""
    assert image.size == drawn.size == (mask.shape[1], mask.shape[0]), "one size"
    assert image.mode == drawn.mode, "one mode"
    choice = mask.to("cpu", torch.bool).numpy()[..., None]
    return Image.fromarray(np.where(choice, np.asarray(drawn), np.asarray(image)))


def read_mask(mask: Image.Image, size: tuple[int, int]) -> Tensor:
    """A mask as (H, W) bool: true where it is white (at least half), on black where it is clear.

    Raises `InputError` for another size than the picture's (height, width), and where nothing is white.
    """
    if (mask.height, mask.width) != size:
        given, expected = f"{mask.height}x{mask.width}", f"{size[0]}x{size[1]}"
        raise InputError(
            f"mask: got {given} pixels (height x width), expected the picture's {expected}; make it of the same size."
        )
    if has_alpha(mask):
        mask = Image.alpha_composite(Image.new("RGBA", mask.size, "black"), mask.convert("RGBA"))
    chosen = torch.from_numpy(np.asarray(plain(mask).convert("L")) >= 128)
    if not bool(chosen.any()):
        raise InputError("mask: nothing in it is white, so nothing would be made anew; paint white what shall be new.")
    return chosen
