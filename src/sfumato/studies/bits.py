"""Bits per dimension of a family's held-out pictures, by `evaluation.likelihood`: which decoder it has, its run says."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.evaluation.data import choose
from sfumato.evaluation.decoder import NUM_FITTED, DecoderLoss, fitted_variance
from sfumato.evaluation.likelihood import GAUSSIAN, Bits, BitSettings, measure_bits, pixel_kind
from sfumato.explain.rate_distortion import log_plan
from sfumato.first_stages.base import FirstStage
from sfumato.model import LatentModel
from sfumato.priors.diffusion import DiffusionPrior


def held_out_bits(
    model: LatentModel,
    held_out: Tensor,
    training: Tensor,
    decoder: DecoderLoss,
    *,
    steps: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Bits:
    """Of pictures (N, C, H, W) uint8, told nothing; some of `training` (M, C, H, W) fit the variance of a Gaussian decoder.

    steps: of a diffusion's chain, None for every step of its schedule. Raises `UndefinedBits` where pixels have none.
    """
    first, prior = model.first_stage, model.prior
    kind = pixel_kind(first, prior, decoder)
    times, variance = None, None
    if steps is not None and isinstance(prior, DiffusionPrior):
        times = log_plan(prior.denoiser.schedule, steps)
    if kind in GAUSSIAN:
        assert isinstance(first, FirstStage)
        pixels = training[choose(len(training), NUM_FITTED, 0)]  # the same for all seeds, as `evaluate` takes them
        variance = fitted_variance(first, pixels, seed=seed, batch_size=batch_size, device=device)
    settings = BitSettings(seed, batch_size, times, variance=variance, decoder=decoder)
    return measure_bits(first, prior, held_out, lambda part: Conditioning(), settings, kind=kind, device=device)
