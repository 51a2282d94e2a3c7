"""Any image as RGB views: what a network trained on photographs can look at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.alpha import on_white


def rgb_views(x: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1] -> (B, V, 3, H, W): the picture as V pictures of three channels.

    C = 1: grey, repeated (V = 1). C = 3: as it is (V = 1). C = 4: the picture on white (V = 1; `sfumato.alpha`), without
    its alpha: a wrong alpha is for the pixel error and the discriminator to see, which look at all four channels, and
    features stay comparable with those of RGB pictures at the price of one view. Any other C: consecutive triples of
    channels, the last one repeated to fill the last triple (V = ceil(C / 3)).
    """
    x = on_white(x)
    channels = x.shape[1]
    if channels == 3:
        return x.unsqueeze(1)
    if channels == 1:
        return x.expand(-1, 3, -1, -1).unsqueeze(1)
    missing = -channels % 3
    filled = torch.cat([x, x[:, -1:].expand(-1, missing, -1, -1)], 1)
    return filled.unflatten(1, (-1, 3))


def resize_square(x: Tensor, size: int | None) -> Tensor:
    """(B, C, H, W) -> (B, C, size, size), bicubic with antialiasing, clipped to [-1, 1]; unchanged if `size` is None."""
    if size is None or x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
