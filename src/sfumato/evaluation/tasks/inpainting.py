"""Inpainting: the perceptual distance of whole pictures and the Frechet distance, at one masked share.

Rombach et al. 2021 (arXiv 2112.10752, Tab. 7) report both, for 40 to 50 % masked and for all; here the masks have one share
(`sfumato.data.masks.draw_masks(share=...)`). The Frechet distance is over MobileNetV2 features (`Scorer`): no FID.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.evaluation.scoring import Scorer
from sfumato.evaluation.tasks.closeness import closeness
from sfumato.evaluation.tasks.intervals import frechet_interval
from sfumato.metrics.bootstrap import Interval

SCORER = Scorer()


@dataclass(frozen=True)
class Inpainting:
    """perceptual, frechet: lower is better. share: of the pixels that was masked, on average. count: of pictures.

    unchanged: pictures that are equal to the true one, to the bit, wherever the mask keeps it.
    """

    perceptual: Interval
    frechet: Interval
    share: float
    unchanged: int
    count: int


def inpainting(
    made: Tensor,
    truth: Tensor,
    masks: Tensor,
    rng: torch.Generator,
    device: torch.device | str = "cpu",
    scorer: Scorer = SCORER,
    num_resamples: int = 1000,
) -> Inpainting:
    """made, truth: (N, C, H, W) uint8 of the same channels; masks: (N, 1, H, W) of 0 and 1, 1 = made anew."""
    if made.shape != truth.shape or masks.shape != (len(made), 1, *made.shape[2:]):
        raise ValueError(f"pictures {tuple(made.shape)}, true ones {tuple(truth.shape)} and masks {tuple(masks.shape)} differ.")
    near = closeness(made, truth, rng, device, num_resamples=num_resamples)
    features = [scorer(pixels, device) for pixels in (made, truth)]
    frechet = frechet_interval(features[0], features[1], rng, min(200, num_resamples))
    same = ((made == truth) | (masks > 0.5).to(made.device)).flatten(1).all(1)
    return Inpainting(near.perceptual, frechet, masks.float().mean().item(), int(same.sum()), len(made))


FLAT, PAPER = 1, 250


def seam(made: Tensor, truth: Tensor, masks: Tensor) -> float | None:
    """The mean step of colour from a kept pixel to the drawn one beside it, in 8-bit levels, where the truth has none.

    Shapes as for `inpainting`. Counted are pairs across the mask's edge whose true colours differ by at most 1 level a channel
    and are not white (a channel below 250); None where there is no such pair.
    """
    steps = []
    colours, true = (pictures[:, :3].float() for pictures in (made, truth))
    for dim in (2, 3):
        edge = masks.diff(dim=dim).abs() > 0.5
        flat = true.diff(dim=dim).abs().amax(1, keepdim=True) <= FLAT
        inked = true.narrow(dim, 0, true.shape[dim] - 1).amin(1, keepdim=True) < PAPER
        steps.append(colours.diff(dim=dim).abs().mean(1, keepdim=True)[(edge & flat & inked).to(made.device)])
    found = torch.cat(steps)
    return found.mean().item() if len(found) else None
