"""What the first stage loses: encode, decode, compare."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.evaluation.data import batches, to_bytes, to_unit
from sfumato.evaluation.scoring import OnBatch
from sfumato.first_stages.base import FirstStage
from sfumato.losses.perceptual import PerceptualLoss
from sfumato.metrics.image import WINDOW, psnr, ssim

MAX_PSNR = 100.0


@dataclass(frozen=True)
class Reconstructions:
    """pixels: (N, C, H, W) uint8 as they would be saved. psnr in dB (equal pictures count 100), ssim, perceptual: (N,).

    `ssim` is None for pictures smaller than its window.
    """

    pixels: Tensor
    psnr: Tensor
    ssim: Tensor | None
    perceptual: Tensor


@torch.inference_mode()
def reconstruction(
    first_stage: FirstStage,
    pixels: Tensor,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    on_batch: OnBatch | None = None,
) -> Reconstructions:
    """Reconstruct (N, C, H, W) uint8 pictures from the mode of q(z | x) and compare 8-bit pictures."""
    distance = PerceptualLoss.embedded()
    found: list[tuple[Tensor, ...]] = []
    structured = min(pixels.shape[-2:]) >= WINDOW
    for part in batches(len(pixels), batch_size):
        x = to_unit(pixels[part].to(device))
        made = to_bytes(first_stage.decode(first_stage.posterior(x).mode()))
        x_hat = to_unit(made)
        unit, unit_hat = (x + 1) / 2, (x_hat + 1) / 2
        similarity = ssim(unit_hat, unit) if structured else x.new_zeros(len(x))
        found.append((made.cpu(), psnr(unit_hat, unit).cpu(), similarity.cpu(), distance(x_hat, x).cpu()))
        if on_batch is not None:
            on_batch(part.stop, len(pixels))
    made, ratio, similarity, perceived = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Reconstructions(made, ratio.clamp(max=MAX_PSNR), similarity if structured else None, perceived)
