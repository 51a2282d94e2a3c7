"""How close pictures are to the true ones: PSNR, SSIM and the perceptual distance, as Rombach et al. 2021 (arXiv 2112.10752,
Tab. 5 and App. E.2) score super-resolution; for them beside bicubic interpolation of the small picture.

Pictures with transparency are compared on white.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.alpha import on_white
from sfumato.evaluation.data import batches
from sfumato.generation.pixels import to_bytes, to_unit
from sfumato.losses.perceptual import PerceptualLoss
from sfumato.metrics.bootstrap import Interval, mean_interval
from sfumato.metrics.image import MAX_PSNR, WINDOW, psnr, ssim

BICUBIC = "bicubic"


@dataclass(frozen=True)
class Closeness:
    """Means over `count` pictures. psnr: dB, higher is better, equal pictures count 100. ssim: higher, None under 11 pixels.

    perceptual: of `PerceptualLoss.embedded()`, lower is better. values: (N,) PSNR, SSIM (or 0) and distance: columns of (N, 3).
    """

    psnr: Interval
    ssim: Interval | None
    perceptual: Interval
    count: int
    values: Tensor


@torch.inference_mode()
def closeness(
    made: Tensor,
    truth: Tensor,
    rng: torch.Generator,
    device: torch.device | str = "cpu",
    batch_size: int = 32,
    num_resamples: int = 1000,
) -> Closeness:
    """(N, C, H, W) uint8 each; `rng` on the CPU, for the intervals. Raises `ValueError` for two shapes."""
    if made.shape[0] != truth.shape[0] or made.shape[2:] != truth.shape[2:] or not len(made):
        raise ValueError(f"pictures {tuple(made.shape)} against true ones {tuple(truth.shape)}: one number and size is needed.")
    distance, structured = PerceptualLoss.embedded(), min(made.shape[2:]) >= WINDOW
    rows = []
    for part in batches(len(made), batch_size):
        x, y = (on_white(to_unit(pixels[part].to(device))) for pixels in (made, truth))
        a, b = (x + 1) / 2, (y + 1) / 2
        similarity = ssim(a, b) if structured else a.new_zeros(len(a))
        scores = (psnr(a, b).clamp(max=MAX_PSNR), similarity, distance(x, y))
        rows.append(torch.stack([score.cpu().double() for score in scores], 1))
    values = torch.cat(rows)  # (N, 3)
    ratio, similar, far = (mean_interval(column, rng, num_resamples) for column in values.unbind(1))
    return Closeness(ratio, similar if structured else None, far, len(made), values)


def enlarged(small: Tensor, factor: int) -> Tensor:
    """(N, C, h, w) uint8 -> (N, C, factor h, factor w) uint8 by bicubic interpolation as Pillow's."""
    return to_bytes(F.interpolate(to_unit(small), scale_factor=factor, mode="bicubic", antialias=True))


def super_resolution(
    candidates: Mapping[str, Tensor],
    small: Tensor,
    truth: Tensor,
    rng: torch.Generator,
    device: torch.device | str = "cpu",
    num_resamples: int = 1000,
) -> dict[str, Closeness]:
    """`closeness` of each candidate (a model, a regression, ...) by name, and of `BICUBIC`: the small pictures enlarged."""
    factor = truth.shape[2] // small.shape[2]
    everyone = {**candidates, BICUBIC: enlarged(small, factor)}
    return {name: closeness(made, truth, rng, device, num_resamples=num_resamples) for name, made in everyone.items()}
