"""Small pictures for training super-resolution: what a large one loses on its way down.

    bicubic   y = (x shrunk by antialiased bicubic interpolation), clipped
    blind     y = JPEG(resize(x * k) + n):  k a Gaussian of any width and direction, resize by a filter drawn at random,
              n white noise, of one grey or of three colours, JPEG at a random quality

after Zhang, Liang, Van Gool, Timofte 2021 (arXiv 2103.14006, Sec. 3), in this one order. Every picture of a batch has its
own draws, and nothing loops over pictures. The Gaussian is applied where it is exact, on frequencies:

    k^(f) = exp(-2 pi^2 f^T S f),   S = R diag(s_1^2, s_2^2) R^T.

Four channels are the picture on white and alpha (`sfumato.alpha`): both are linear in what is premultiplied, so that they
are blurred and resized as they are; noise and JPEG leave alpha alone, and colours stay possible under it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.data.jpeg import jpeg
from sfumato.errors import InputError, unknown

DEGRADATIONS = ("bicubic", "blind")
BLUR = (0.1, 0.7)  # standard deviation along each axis, in pixels of the small picture
NOISE = (0.0, 20 / 255)  # standard deviation, for a range of 1
QUALITY = (30, 95)
FILTERS = 3


def shrink(x: Tensor, factor: int, degradation: str, rng: torch.Generator) -> Tensor:
    """(B, C, H, W) in [-1, 1], C 1, 3 or 4 -> (B, C, H / factor, W / factor) fp32 in [-1, 1].

    rng: on the pictures' device, or on the CPU; "bicubic" draws nothing from it. Raises `InputError` for another
    degradation, other channels and sides that are no multiples of the factor.
    """
    if degradation not in DEGRADATIONS:
        raise unknown("degradation", degradation, DEGRADATIONS)
    if x.ndim != 4 or x.shape[1] not in (1, 3, 4):
        raise InputError(f"pictures of shape {tuple(x.shape)} to shrink; expected (B, 1, 3 or 4, H, W).")
    height, width = x.shape[2:]
    if factor < 1 or height % factor or width % factor or not min(height, width):
        raise InputError(f"pictures of {height}x{width} to shrink by {factor}; expected sides that are multiples of it.")
    x = x.float()
    size = (height // factor, width // factor)
    if degradation == "bicubic":
        return _bicubic(x, size)
    return _spoil(_resize(_blur(x, factor, rng), size, rng), rng)


def _bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bicubic", antialias=True).clamp(-1, 1)


def _unit(like: Tensor, rng: torch.Generator) -> Tensor:
    """(B, 1, 1, 1) in [0, 1) on the device of `like`."""
    return torch.rand(len(like), 1, 1, 1, generator=rng, device=rng.device).to(like.device)


def _between(low: float, high: float, like: Tensor, rng: torch.Generator) -> Tensor:
    return low + (high - low) * _unit(like, rng)


def _blur(x: Tensor, factor: int, rng: torch.Generator) -> Tensor:
    """x * k: half of the kernels round, half with two widths and a direction."""
    first, second = (_between(*BLUR, x, rng) * factor for _ in range(2))
    angle = math.pi * _unit(x, rng)
    second = torch.where(_unit(x, rng) < 0.5, first, second)
    margin = [min(math.ceil(3 * BLUR[1] * factor), side - 1) for side in x.shape[2:]]
    return blur(x, torch.cat([first, second, angle], 1)[:, :, 0, 0], (margin[0], margin[1]))


def blur(x: Tensor, gaussian: Tensor, margin: tuple[int, int]) -> Tensor:
    """(B, C, H, W) * k, reflected at its rims within the margin (rows, columns).

    gaussian: (B, 3): standard deviations s_1, s_2 in pixels and the angle of the first axis to x, in radians.
    """
    rows, columns = margin
    wide = F.pad(x, (columns, columns, rows, rows), mode="reflect")
    height, width = wide.shape[2:]
    v = torch.fft.fftfreq(height, device=x.device)[:, None]
    u = torch.fft.rfftfreq(width, device=x.device)[None]
    first, second, angle = (column[:, None, None] for column in gaussian.unbind(1))
    along, across = u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()  # (B, H, W / 2 + 1)
    transfer = torch.exp(-2 * math.pi**2 * ((first * along) ** 2 + (second * across) ** 2))
    blurred = torch.fft.irfft2(torch.fft.rfft2(wide) * transfer[:, None], s=(height, width))
    return blurred[:, :, rows : rows + x.shape[2], columns : columns + x.shape[3]]


def _resize(x: Tensor, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    which = (FILTERS * _unit(x, rng)).long()
    linear = F.interpolate(x, size, mode="bilinear", antialias=True)
    area = F.adaptive_avg_pool2d(x, size)
    return torch.where(which == 0, _bicubic(x, size), torch.where(which == 1, linear, area)).clamp(-1, 1)


def _spoil(y: Tensor, rng: torch.Generator) -> Tensor:
    """Noise and JPEG on the colours."""
    colours, alpha = (y[:, :3], y[:, 3:]) if y.shape[1] == 4 else (y, None)
    noise = torch.randn(colours.shape, generator=rng, device=rng.device).to(y.device)
    noise = torch.where(_unit(y, rng) < 0.5, noise, noise[:, :1])
    colours = (colours + 2 * _between(*NOISE, y, rng) * noise).clamp(-1, 1)
    quality = _between(QUALITY[0], QUALITY[1] + 1, y, rng).floor().clamp(max=QUALITY[1])
    colours = jpeg(colours, quality[:, 0, 0, 0], (_unit(y, rng) < 0.5)[:, 0, 0, 0])
    if alpha is None:
        return colours
    alpha = (127.5 * (alpha + 1)).round() / 127.5 - 1  # 8 bits, as the colours have
    return torch.cat([torch.maximum(colours, -alpha), alpha], 1)  # on white no colour is darker than 1 - a: -alpha here
