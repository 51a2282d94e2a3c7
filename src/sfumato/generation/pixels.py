"""Pixels in [-1, 1] -> 8-bit pictures: v = round(127.5 (x + 1)), clipped to 0 ... 255.

Four channels are the picture on white, and alpha (`sfumato.alpha`): they become an opaque picture on a background, or RGBA.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor

from sfumato.alpha import over, straight
from sfumato.errors import InputError
from sfumato.generation.limits import TRANSPARENT, WHITE

WITH_ALPHA = 4
"""Channels of a picture with transparency."""


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 [0, 255] -> fp32 [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_bytes(x: Tensor) -> Tensor:
    """About [-1, 1] -> uint8 [0, 255], rounded and clipped: what a saved picture holds. On the device of `x`."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_picture(image: Image.Image, channels: int, size: tuple[int, int]) -> Tensor:
    """A picture resized to (height, width) as (1, C, H, W) in [-1, 1]: on white, with alpha as the fourth of four channels.

    Raises `InputError` for a number of channels that no picture has.
    """
    if channels not in (1, 3, WITH_ALPHA):
        raise InputError(f"this model's pictures have {channels} channels; a picture has 1, 3 or 4.")
    clear = image.convert("RGBA")
    if clear.size != (size[1], size[0]):  # premultiplied: colours of clear pixels stay out of their neighbours
        clear = clear.convert("RGBa").resize((size[1], size[0]), Image.Resampling.LANCZOS).convert("RGBA")
    shown = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("L" if channels == 1 else "RGB")
    layers = [*shown.split(), *([clear.getchannel("A")] if channels == WITH_ALPHA else [])]
    return to_unit(torch.stack([torch.from_numpy(np.array(layer)) for layer in layers])[None])


def to_pictures(x: Tensor, background: str = WHITE) -> list[Image.Image]:
    """(B, C, H, W) pixels, about [-1, 1], with 1 (grey), 3 (RGB) or 4 (white picture, alpha) channels -> B pictures.

    Four channels become RGBA on "transparent", else RGB on `background`, a colour that Pillow knows. Fewer are as they are.
    """
    if x.shape[1] not in (1, 3, WITH_ALPHA):
        raise InputError(
            f"this model makes pictures of {x.shape[1]} channels; PNG holds 1, 3 or 4, so use model.decode instead."
        )
    values = to_bytes(x)
    if x.shape[1] == WITH_ALPHA:
        if background == TRANSPARENT:
            values = straight(values)
        else:
            values = values[:, :3] if background == WHITE else to_bytes(on_colour(x, background))
    arrays = values.permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, C)
    return [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in arrays]


def on_colour(x: Tensor, background: str) -> Tensor:
    """(B, 4, H, W), about [-1, 1], -> (B, 3, H, W) on a colour that Pillow knows, as the transparent picture shows on it.

    Where a model's colour is darker than ink of that alpha can be on white, the darkest such ink is taken, as `straight`
    does; without that, soft edges would have dark rims on other colours.
    """
    x = x.float().clamp(-1, 1)
    alpha = x[:, 3:]
    possible = torch.cat([torch.maximum(x[:, :3], -alpha), alpha], dim=1)  # w >= 1 - a, which is x >= -alpha in [-1, 1]
    return over(possible, torch.tensor(ImageColor.getrgb(background)[:3]) / 127.5 - 1)


def to_previews(z: Tensor, preview: Tensor) -> list[Image.Image]:
    """(B, C, h, w) latents through the linear map `preview` (C + 1, preview channels; bias last) -> B small ones, on white."""
    weight, bias = preview[:-1], preview[-1]
    x = (z.float().permute(0, 2, 3, 1) @ weight.to(z.device, z.float().dtype) + bias.to(z.device)).permute(0, 3, 1, 2)
    return to_pictures(x)  # (B, C', h, w)
