"""What a stage shows for itself: reconstructions beside the truth, samples of fixed seeds, and their numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.alpha import on_white
from sfumato.first_stages.base import FirstStage
from sfumato.generation.pixels import to_bytes, to_unit
from sfumato.io.files import write_bytes
from sfumato.losses.perceptual import PerceptualLoss
from sfumato.metrics.image import MAX_PSNR, psnr, ssim


@torch.inference_mode()
def reconstruction_report(
    first_stage: FirstStage, pixels: Tensor, device: torch.device, batch_size: int = 16
) -> dict[str, float]:
    """Mean PSNR in dB, SSIM and embedded perceptual distance of held-out pictures (N, C, H, W) uint8.

    Pictures with transparency are compared on white, like RGB pictures; "alpha_psnr" says how their alpha fares (equal
    ones count 100 dB).
    """
    perceptual = PerceptualLoss.embedded()
    sums = {"psnr": 0.0, "ssim": 0.0, "perceptual": 0.0}
    if pixels.shape[1] == 4:
        sums["alpha_psnr"] = 0.0
    for start in range(0, len(pixels), batch_size):
        x = to_unit(pixels[start : start + batch_size].to(device))
        x_hat = to_unit(to_bytes(reconstruct(first_stage, x)))
        unit, unit_hat = (x + 1) / 2, (x_hat + 1) / 2
        shown, shown_hat = on_white(unit), on_white(unit_hat)
        sums["psnr"] += float(psnr(shown_hat, shown).sum())
        sums["ssim"] += float(ssim(shown_hat, shown).sum())
        if "alpha_psnr" in sums:
            sums["alpha_psnr"] += float(psnr(unit_hat[:, 3:], unit[:, 3:]).clamp(max=MAX_PSNR).sum())
        sums["perceptual"] += float(perceptual(x_hat, x).sum())
    return {k: v / max(1, len(pixels)) for k, v in sums.items()} | {"pictures": float(len(pixels))}


def reconstruct(first_stage: FirstStage, x: Tensor) -> Tensor:
    """D(mode of q(z | x)) of (B, C, H, W) pixels."""
    return first_stage.decode(first_stage.posterior(x).mode())


@torch.inference_mode()
def pairs_sheet(first_stage: FirstStage, pixels: Tensor, device: torch.device, count: int = 16) -> np.ndarray:
    """Truth above reconstruction, (H, W, 3) uint8, on white."""
    shown = pixels[:count]
    x_hat = to_bytes(reconstruct(first_stage, to_unit(shown.to(device)))).cpu()
    columns = min(8, len(shown))
    rows = []
    for start in range(0, len(shown), columns):
        rows += [shown[start : start + columns], x_hat[start : start + columns]]
    return sheet([p for row in rows for p in _padded(row, columns)], columns)


def _padded(row: Tensor, columns: int) -> list[Tensor]:
    blank = torch.full_like(row[0], 255)
    return [*row, *[blank] * (columns - len(row))]


def sheet(pictures: Sequence[Tensor], columns: int, gap: int = 2) -> np.ndarray:
    """uint8 (C, H, W) pictures on a white sheet, (H, W, 3) uint8."""
    shown = [as_rgb(p) for p in pictures]
    height, width, _ = shown[0].shape
    rows = -(-len(shown) // columns)
    page = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, picture in enumerate(shown):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        page[top : top + height, left : left + width] = picture
    return page


def as_rgb(picture: Tensor) -> np.ndarray:
    """uint8 (C, H, W) -> (H, W, 3): grey repeated, else the first three channels, which of four are the picture on white."""
    if picture.shape[0] < 3:
        picture = picture[:1].expand(3, -1, -1)
    return np.ascontiguousarray(picture[:3].movedim(0, -1).cpu().numpy())


def save_sheet(path: Path, page: np.ndarray) -> None:
    """Write a sheet as PNG, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(page).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
