"""Pixels in [-1, 1] -> 8-bit pictures: v = round(127.5 (x + 1)), clipped to 0 ... 255."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from sfumato.errors import InputError


def to_pictures(x: Tensor) -> list[Image.Image]:
    """(B, C, H, W) pixels, about [-1, 1], with 1 (grey), 3 (RGB) or 4 (RGBA) channels -> B pictures."""
    if x.shape[1] not in (1, 3, 4):
        raise InputError(
            f"this model makes pictures of {x.shape[1]} channels; PNG holds 1, 3 or 4, so use model.decode instead."
        )
    values = ((x.float() + 1) * 127.5).round().clamp(0, 255).byte()
    arrays = values.permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, C)
    return [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in arrays]


def to_previews(z: Tensor, preview: Tensor) -> list[Image.Image]:
    """(B, C, h, w) latents through the linear map `preview` (C + 1, image channels; bias last) -> B small pictures."""
    weight, bias = preview[:-1], preview[-1]
    x = (z.float().permute(0, 2, 3, 1) @ weight.to(z.device, z.float().dtype) + bias.to(z.device)).permute(0, 3, 1, 2)
    return to_pictures(x)  # (B, C', h, w)
