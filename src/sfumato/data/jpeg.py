"""What JPEG loses, computed on tensors: the same loss as a file's, without a file, for a whole batch on any device.

ITU-T T.81 (1992), baseline, with JFIF's colours: RGB -> YCbCr, chroma halved where it is subsampled (4:2:0), 8 x 8 blocks

    F = D (x - 128) D^T,   q = round(F / Q),   x' = D^T (q Q) D + 128,   D_ui = c_u / 2 cos((2 i + 1) u pi / 16),

c_0 = 1 / sqrt(2), else 1. Q is Annex K's table times s / 100, s = 5000 / quality below 50 and 200 - 2 quality from there
(the Independent JPEG Group's scale). Chroma comes back by the triangle filter (3/4, 1/4). Entropy coding loses nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.errors import InputError

BLOCK = 8
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)  # T.81, table K.1
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99, 99, 99, 99, 99, 99, 99, 99),) * 4,
)  # T.81, table K.2
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # of luminance


def jpeg(x: Tensor, quality: Tensor, subsampled: Tensor | None = None) -> Tensor:
    """(B, 1 or 3, H, W) in [-1, 1] -> the same after JPEG, rounded to 8 bits as a decoder's output is; fp32.

    quality: (B,) from 1 to 100, one a picture. subsampled: (B,) bool, chroma at half the size; None for none. It has no
    useful gradient. Raises `InputError` for other shapes.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or quality.shape != x.shape[:1]:
        raise InputError(f"JPEG of {tuple(x.shape)} at qualities {tuple(quality.shape)}; expected (B, 1 or 3, H, W) and (B,).")
    height, width = x.shape[2:]
    pixels = ((x.float().clamp(-1, 1) + 1) * 127.5).round()
    pixels = F.pad(pixels, (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)), mode="replicate")
    scale = torch.where(quality < 50, 5000 / quality.float().clamp(min=1), 200 - 2 * quality.float())
    if x.shape[1] == 1:
        found = _quantized(pixels, _table(_LUMINANCE, scale))
    else:
        colours = _to_ycc(pixels).round()
        luma = _quantized(colours[:, :1], _table(_LUMINANCE, scale))
        chroma = _chroma(colours[:, 1:], _table(_CHROMINANCE, scale), subsampled)
        found = _to_rgb(torch.cat([luma, chroma], 1))
    return found[:, :, :height, :width].round().clamp(0, 255) / 127.5 - 1


def _table(table: tuple[tuple[int, ...], ...], scale: Tensor) -> Tensor:
    """(B, 1, 1, 8, 1, 8): rows and columns of the table where blocks have theirs."""
    values = torch.tensor(table, dtype=torch.float32, device=scale.device)
    scaled = ((values * scale.floor()[:, None, None] + 50) / 100).floor().clamp(1, 255)  # (B, 8, 8)
    return scaled[:, None, None, :, None, :]


def _chroma(chroma: Tensor, table: Tensor, subsampled: Tensor | None) -> Tensor:
    """(B, 2, H, W) -> the same after its loss, at full or at half size."""
    whole = _quantized(chroma, table)
    if subsampled is None:
        return whole
    bias = 1 + torch.arange(chroma.shape[3] // 2, device=chroma.device) % 2  # libjpeg rounds quarters down and up in turn
    small = ((4 * F.avg_pool2d(chroma, 2) + bias) / 4).floor()
    small = F.pad(small, (0, -small.shape[3] % BLOCK, 0, -small.shape[2] % BLOCK), mode="replicate")
    halved = F.interpolate(_quantized(small, table), scale_factor=2, mode="bilinear", align_corners=False)
    halved = halved[:, :, : chroma.shape[2], : chroma.shape[3]]
    return torch.where(subsampled[:, None, None, None], halved, whole)


def _quantized(x: Tensor, table: Tensor) -> Tensor:
    """(B, C, H, W) of 0 ... 255, sides multiples of 8 -> the same with its coefficients rounded to the table's steps."""
    transform = _transform(x.device)
    blocks = (x - 128).unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))  # (B, C, h, 8, w, 8)
    coefficients = torch.einsum("ui,bchiwj,vj->bchuwv", transform, blocks, transform)
    kept = coefficients.sign() * (coefficients.abs() / table + 0.5).floor() * table  # halves away from zero, as libjpeg
    back = torch.einsum("ui,bchuwv,vj->bchiwj", transform, kept, transform)
    return (back.flatten(4).flatten(2, 3) + 128).round().clamp(0, 255)


def _transform(device: torch.device) -> Tensor:
    """D above: (8, 8), orthonormal."""
    u, i = torch.arange(BLOCK, device=device)[:, None], torch.arange(BLOCK, device=device)[None]
    rows = torch.cos((2 * i + 1) * u * math.pi / (2 * BLOCK)) / 2
    return torch.where(u == 0, rows / math.sqrt(2), rows)


def _to_ycc(rgb: Tensor) -> Tensor:
    r, g, b = rgb.unbind(1)
    y = _RED * r + _GREEN * g + _BLUE * b
    return torch.stack([y, (b - y) / (2 - 2 * _BLUE) + 128, (r - y) / (2 - 2 * _RED) + 128], 1)


def _to_rgb(ycc: Tensor) -> Tensor:
    y, blue, red = ycc[:, 0], ycc[:, 1] - 128, ycc[:, 2] - 128
    r, b = y + (2 - 2 * _RED) * red, y + (2 - 2 * _BLUE) * blue
    return torch.stack([r, (y - _RED * r - _BLUE * b) / _GREEN, b], 1)
