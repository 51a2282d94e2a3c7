"""What the first stage loses: encode, decode, compare."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.alpha import on_white
from sfumato.evaluation.data import batches
from sfumato.evaluation.scoring import OnBatch
from sfumato.first_stages.base import FirstStage
from sfumato.generation.pixels import to_bytes, to_unit
from sfumato.losses.perceptual import PerceptualLoss
from sfumato.metrics.image import MAX_PSNR, WINDOW, psnr, ssim


@dataclass(frozen=True)
class Reconstructions:
    """pixels: (N, C, H, W) uint8, the model's own channels. psnr in dB (equal pictures count 100), ssim, perceptual: (N,).

    Pictures with transparency are compared on white; `alpha_psnr` (N,) is that of their fourth channel, None without.
    `ssim` is None for pictures smaller than its window. lpips: (N,) where its weights were given.
    """

    pixels: Tensor
    psnr: Tensor
    ssim: Tensor | None
    perceptual: Tensor
    alpha_psnr: Tensor | None = None
    lpips: Tensor | None = None


@torch.inference_mode()
def reconstruction(
    first_stage: FirstStage,
    pixels: Tensor,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    on_batch: OnBatch | None = None,
    lpips: PerceptualLoss | None = None,
) -> Reconstructions:
    """Reconstruct (N, C, H, W) uint8 pictures from the mode of q(z | x) and compare 8-bit pictures."""
    distance = PerceptualLoss.embedded()
    found: list[tuple[Tensor, ...]] = []
    structured, transparent = min(pixels.shape[-2:]) >= WINDOW, pixels.shape[1] == 4
    for part in batches(len(pixels), batch_size):
        x = to_unit(pixels[part].to(device))
        made = to_bytes(first_stage.decode(first_stage.posterior(x).mode()))
        x_hat = to_unit(made)
        unit, unit_hat = (x + 1) / 2, (x_hat + 1) / 2
        shown, shown_hat = on_white(unit), on_white(unit_hat)
        similarity = ssim(shown_hat, shown) if structured else x.new_zeros(len(x))
        alpha = psnr(unit_hat[:, 3:], unit[:, 3:]) if transparent else x.new_zeros(len(x))
        published = x.new_zeros(len(x)) if lpips is None else lpips(x_hat, x)
        scores = (psnr(shown_hat, shown), similarity, distance(x_hat, x), alpha, published)
        found.append((made.cpu(), *(score.cpu() for score in scores)))
        if on_batch is not None:
            on_batch(part.stop, len(pixels))
    made, ratio, similarity, perceived, alpha, published = (torch.cat(parts) for parts in zip(*found, strict=True))
    ratio, alpha = ratio.clamp(max=MAX_PSNR), alpha.clamp(max=MAX_PSNR)
    return Reconstructions(
        made,
        ratio,
        similarity if structured else None,
        perceived,
        alpha if transparent else None,
        None if lpips is None else published,
    )
