"""What a picture's latents cost under the model's own prior, where that is no chain of steps: a point of the plane.

    normal                    E KL(q(z | x) || N(0, 1))                  a VAE's rate (Kingma & Welling 2013, arXiv 1312.6114)
    flow, over latents        E log q(z | x) - log p(z), z ~ q(z | x)    the same for a density without a closed form
    flow, over pixels         -E log2 p(x + u), u dequantizes            nothing is lost: distortion 0
    autoregressive            -log2 p(c), c = c(x)                       codes of a VQ stage, or of 8-bit pixels: distortion 0

A first stage's own point (`rate_distortion.first_stage_point`) knows nothing of neighbours; what a prior gains on it is what it
has learned of them. Under a diffusion prior the rate is a curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.explain.rate_distortion import Point, check_pixels, latent_sample, no_rate, parts, squared_error
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.identity import IdentityFirstStage
from sfumato.first_stages.vq import QuantizedFirstStage
from sfumato.generation.pixels import to_unit
from sfumato.metrics.dequantization import BIN_WIDTH, dequantize
from sfumato.noise import PictureNoise
from sfumato.posterior import DiagonalGaussian
from sfumato.priors.autoregressive import AutoregressivePrior
from sfumato.priors.base import Prior
from sfumato.priors.flow import FlowPrior
from sfumato.priors.hierarchical import HierarchicalPrior
from sfumato.priors.normal import NormalPrior

Conditions = Callable[[slice], Conditioning]
"""Which pictures -> what the prior is told of them."""

_Ask = Callable[[Tensor, Conditioning, range], tuple[Tensor, Tensor]]
"""Pictures (B, C, H, W) in [-1, 1], their condition and seeds -> nats (B,), and what is left of them."""


def has_prior_point(first_stage: FirstStage, prior: Prior[Any]) -> bool:
    """Whether the prior gives these latents a rate: a diffusion's is a curve, a regression's and that of a density over
    points without spread is none."""
    return _asked(first_stage, prior) is not None


@torch.no_grad()
def prior_point(
    first_stage: FirstStage,
    prior: Prior[Any],
    conditions: Conditions,
    pixels: Tensor,
    *,
    seed: int = 0,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
) -> Point:
    """Rate and distortion of pictures (N, C, H, W) uint8 under a prior that is no diffusion.

    Picture i has the noise of seed + i. Raises `InputError` for no pictures, and pairs without a point (`has_prior_point`).
    """
    check_pixels(pixels)
    found = _asked(first_stage, prior)
    if found is None:
        raise InputError(f"{type(prior).__name__} over {type(first_stage).__name__} gives pictures no rate that is a point.")
    ask, under = found
    nats, error = 0.0, 0.0
    for part in parts(len(pixels), batch_size):
        x = to_unit(pixels[part].to(device))
        paid, x_hat = ask(x, conditions(part), range(seed + part.start, seed + part.stop))
        nats += float(paid.double().sum())
        error += squared_error(x_hat, x)
    rate = nats / (pixels.numel() * math.log(2))
    return Point(type(prior).__name__, rate, math.sqrt(error / pixels.numel()), under)


def _asked(first_stage: FirstStage, prior: Prior[Any]) -> tuple[_Ask, str] | None:
    """How this pair's rate is measured, and its name."""
    match first_stage, prior:
        case IdentityFirstStage(), AutoregressivePrior():
            return _of_codes(first_stage, prior), "its autoregressive prior, exact"
        case QuantizedFirstStage(), AutoregressivePrior() | HierarchicalPrior():
            return _of_codes(first_stage, prior), "its autoregressive prior"
        case IdentityFirstStage(), FlowPrior() if prior.config.dequantize:
            return _of_pixels(prior), "its flow, a bound"
        case IdentityFirstStage() | QuantizedFirstStage(), _:
            return None
        case _, NormalPrior():
            return _of_spread(first_stage, lambda q, z, cond: q.kl()), "its normal prior"
        case _, FlowPrior():
            return _of_spread(first_stage, lambda q, z, cond: q.log_prob(z) - prior.log_prob(z.float(), cond)), "its flow"
        case _:
            return None


def _of_codes(first_stage: FirstStage, prior: AutoregressivePrior | HierarchicalPrior) -> _Ask:
    face = first_stage.codes()

    def ask(x: Tensor, cond: Conditioning, seeds: range) -> tuple[Tensor, Tensor]:
        codes = face.encode(x)
        return -prior.log_prob(codes, cond), face.decode(codes)

    return ask


def _of_pixels(prior: FlowPrior) -> _Ask:
    """Each picture with dequantizing noise of its own."""

    def ask(x: Tensor, cond: Conditioning, seeds: range) -> tuple[Tensor, Tensor]:
        each = [dequantize(one.cpu(), torch.Generator().manual_seed(seed)) for one, seed in zip(x, seeds, strict=True)]
        log_prob = prior.log_prob(torch.stack(each).to(x.device), cond).double()
        return -log_prob - x[0].numel() * math.log(BIN_WIDTH), x

    return ask


def _of_spread(first_stage: FirstStage, rate: Callable[[DiagonalGaussian, Tensor, Conditioning], Tensor]) -> _Ask:
    """By a sample z of q(z | x), both in float64."""

    def ask(x: Tensor, cond: Conditioning, seeds: range) -> tuple[Tensor, Tensor]:
        q = first_stage.posterior(x)
        if q.log_variance is None:
            raise no_rate(first_stage)
        z = latent_sample(q, PictureNoise(seeds))
        return rate(DiagonalGaussian(q.mean.double(), q.log_variance.double()), z.double(), cond), first_stage.decode(z)

    return ask
