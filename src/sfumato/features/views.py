"""Any image as RGB views: what a network trained on photographs can look at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def rgb_views(x: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1] -> (B, V, 3, H, W): the picture as V pictures of three channels.

    C = 1: grey, repeated (V = 1). C = 3: as it is (V = 1). C = 4: RGBA, composited on white and on mid grey (V = 2), so
    that both a wrong colour and a wrong transparency are seen. Any other C: consecutive triples of channels, the last
    one repeated to fill the last triple (V = ceil(C / 3)).
    """
    channels = x.shape[1]
    if channels == 3:
        return x.unsqueeze(1)
    if channels == 1:
        return x.expand(-1, 3, -1, -1).unsqueeze(1)
    if channels == 4:
        rgb, alpha = x[:, :3], (x[:, 3:] + 1) / 2
        on_white = rgb * alpha + (1 - alpha)
        on_grey = rgb * alpha  # mid grey is 0 in [-1, 1]
        return torch.stack([on_white, on_grey], 1)
    missing = -channels % 3
    filled = torch.cat([x, x[:, -1:].expand(-1, missing, -1, -1)], 1)
    return filled.unflatten(1, (-1, 3))


def resize_square(x: Tensor, size: int | None) -> Tensor:
    """(B, C, H, W) -> (B, C, size, size), bicubic with antialiasing, clipped to [-1, 1]; unchanged if `size` is None."""
    if size is None or x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
