"""Bits per dimension of held-out 8-bit pictures, for every family that defines them; for the others, why it does not.

    autoregressive over pixels     -log p(x)                                                          exact
    flow over pixels               -E log p(x + u), u the dequantizing noise                          bound
    diffusion over pixels          L_T + ... + L_0                                                    bound
    VAE                            -log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x)                      bound
    VQ and a prior of its codes    -log p(c) - log p(x | c), c = c(x)                                 bound

The last two need a density of pixels: the Gaussian around the decoder's answer whose one variance is fitted to training
pictures, which is the maximum of the bound in that variance. It exists for decoders that squared error alone has trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.diffusion.bounds import bound
from sfumato.evaluation.data import batches
from sfumato.evaluation.importance import importance_bound
from sfumato.explain.rate_distortion import log_plan
from sfumato.first_stages.identity import IdentityFirstStage
from sfumato.first_stages.kl import KLFirstStage
from sfumato.first_stages.vq import QuantizedFirstStage
from sfumato.generation.pixels import to_unit
from sfumato.losses.likelihood import GaussianLikelihood
from sfumato.metrics.dequantization import bits_per_dimension, dequantize
from sfumato.model import LatentModel
from sfumato.noise import PictureNoise
from sfumato.priors.autoregressive import AutoregressivePrior
from sfumato.priors.diffusion import DiffusionPrior
from sfumato.priors.flow import FlowPrior
from sfumato.priors.hierarchical import HierarchicalPrior
from sfumato.priors.normal import NormalPrior

NO_LIKELIHOOD = "a GAN defines no density: nothing leads from a picture back to its noise."
NO_LATENT_BITS = (
    "diffusion over continuous latents has no L_0, which is a probability of 8-bit values, and the decoder defines no density."
)
NO_DECODER_DENSITY = "the decoder was trained by a perceptual or adversarial loss, which is no density of pixels."


@dataclass(frozen=True)
class Bits:
    """values: (N,) bits per dimension of each picture, kind: "exact" or "bound", or no values and why."""

    values: Tensor | None
    kind: str


@dataclass(frozen=True)
class BitsSettings:
    """draws: K of the importance-weighted bound. steps: of a diffusion's chain, None for every step of its schedule."""

    draws: int = 64
    steps: int | None = None
    batch_size: int = 32
    seed: int = 0


@torch.no_grad()
def bits_of(
    model: LatentModel, held_out: Tensor, training: Tensor, settings: BitsSettings, gaussian: bool, device: torch.device
) -> Bits:
    """Of held-out pictures (N, C, H, W) uint8; `training` (M, C, H, W) fit the variance of a Gaussian decoder.

    gaussian: whether the decoder was trained by squared error alone, so that it has a density of pixels.
    """
    run = _Run(model, settings, device)
    first, prior = model.first_stage, model.prior
    match first, prior:
        case IdentityFirstStage(), AutoregressivePrior():
            return Bits(torch.cat([run.exact(prior, x) for x in run.parts(held_out)]), "exact")
        case IdentityFirstStage(), FlowPrior():
            return Bits(torch.cat([run.flow(prior, x) for x in run.parts(held_out)]), "bound")
        case IdentityFirstStage(), DiffusionPrior():
            return Bits(torch.cat([run.diffusion(prior, x, i) for i, x in enumerate(run.parts(held_out))]), "bound")
        case KLFirstStage() | QuantizedFirstStage(), NormalPrior() | AutoregressivePrior() | HierarchicalPrior() if (
            not gaussian
        ):
            return Bits(None, NO_DECODER_DENSITY)
        case KLFirstStage(), NormalPrior():
            pixels = run.fitted(training)
            return Bits(torch.cat([run.vae(first, prior, x, pixels) for x in run.parts(held_out)]), "bound")
        case QuantizedFirstStage(), AutoregressivePrior() | HierarchicalPrior():
            pixels = run.fitted(training)
            return Bits(torch.cat([run.codes(prior, x, pixels) for x in run.parts(held_out)]), "bound")
        case _, DiffusionPrior() | FlowPrior():
            return Bits(None, NO_LATENT_BITS)
        case _:
            return Bits(None, NO_LIKELIHOOD)


class _Run:
    """One measurement; every method takes pictures x (B, C, H, W) in [-1, 1] and gives (B,) bits per dimension."""

    def __init__(self, model: LatentModel, settings: BitsSettings, device: torch.device):
        self.model, self.settings, self.device = model, settings, device
        self.rng = torch.Generator(device).manual_seed(settings.seed)

    def parts(self, pixels: Tensor) -> Iterator[Tensor]:
        """Batches in [-1, 1] on the device."""
        return (to_unit(pixels[part].to(self.device)) for part in batches(len(pixels), self.settings.batch_size))

    def exact(self, prior: AutoregressivePrior, x: Tensor) -> Tensor:
        codes = self.model.encode(x)  # the pixels' own values
        return bits_per_dimension(prior.log_prob(codes, Conditioning()), x[0].numel(), bin_width=1).cpu().double()

    def flow(self, prior: FlowPrior, x: Tensor) -> Tensor:
        return prior.bits_per_dimension(x, Conditioning(), self.rng).cpu().double()

    def diffusion(self, prior: DiffusionPrior, x: Tensor, index: int) -> Tensor:
        schedule = prior.denoiser.schedule
        times = None if self.settings.steps is None else log_plan(schedule, self.settings.steps)
        first = self.settings.seed + index * self.settings.batch_size
        noise = PictureNoise(range(first, first + len(x)))

        def estimate(x_t: Tensor, t: Tensor) -> Tensor:
            return prior.estimate(x_t, t, Conditioning(), clip=1.0)  # as `evaluate` and the paper do

        return bound(estimate, schedule, x, noise, times=times, variance=prior.variance).bits_per_dimension.cpu().double()

    def fitted(self, training: Tensor) -> GaussianLikelihood:
        """sigma^2 = E (x - D(z))^2 / dimensions over training pictures."""
        total, count = 0.0, 0
        for x in self.parts(training):
            error = (dequantize(x, self.rng) - self.answer(x)).double().square()
            total, count = total + float(error.sum()), count + error.numel()
        return GaussianLikelihood(math.log(max(total / count, 1e-12)))

    def answer(self, x: Tensor) -> Tensor:
        """D(z), z ~ q(z | x); of a VQ first stage D(e(c(x)))."""
        return self.model.decode(self.model.encode(x, self.rng))

    def vae(self, first: KLFirstStage, prior: NormalPrior, x: Tensor, pixels: GaussianLikelihood) -> Tensor:
        found = importance_bound(
            first, prior, dequantize(x, self.rng), Conditioning(), pixels, self.settings.draws, self.rng
        ).bound
        return bits_per_dimension(found, x[0].numel()).cpu().double()

    def codes(self, prior: AutoregressivePrior | HierarchicalPrior, x: Tensor, pixels: GaussianLikelihood) -> Tensor:
        codes = self.model.encode(x)
        log_prob = prior.log_prob(codes, Conditioning()) + pixels(dequantize(x, self.rng), self.model.decode(codes))
        return bits_per_dimension(log_prob.double(), x[0].numel()).cpu()
