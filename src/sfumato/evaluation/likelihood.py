"""Bits per dimension of 8-bit pictures, or a bound on them, where a model gives one.

    codes of pixels    exact: -log2 P(x) / D, by an autoregressive prior over the identity first stage
    a density          bound: of dequantized pixels (`metrics.dequantization`), by a flow or normal prior over the identity
    a chain            bound: L_T + ... + L_0 of a diffusion prior over the identity (`diffusion.bounds`)
    a VAE              bound: importance-weighted (`evaluation.importance`), an encoder with spread and a prior with a density
    codes of a stage   exact bits per code, by an autoregressive prior; of pixels undefined, like every other pair

The VAE's p(x | z) is a Gaussian around the decoding, integrated over each 8-bit bin and open at both ends (Ho, Jain & Abbeel
2020, arXiv 2006.11239, eq. 13), with one variance for all, fitted to training pictures (Rybkin, Daniilidis & Levine 2020, arXiv
2006.13202, section 3): a bound for every variance, the best one for the likeliest.

Everything is by the pictures' own noise and in float64 at the end. Guidance is another model and has no place here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.diffusion.bounds import bound, eight_bit_log_prob
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError
from sfumato.evaluation.data import batches
from sfumato.evaluation.importance import importance_bound
from sfumato.evaluation.scoring import OnBatch
from sfumato.first_stages.base import Decoder, FirstStage
from sfumato.first_stages.generator import GeneratorFirstStage
from sfumato.first_stages.identity import IdentityFirstStage
from sfumato.first_stages.kl import KLFirstStage
from sfumato.first_stages.vq import VQFirstStage
from sfumato.generation.pixels import to_unit
from sfumato.latent import Codes
from sfumato.metrics.dequantization import LEVELS, bits_per_dimension, dequantize
from sfumato.noise import PictureNoise
from sfumato.priors.autoregressive import AutoregressivePrior
from sfumato.priors.base import Density, Prior
from sfumato.priors.diffusion import DiffusionPrior
from sfumato.priors.flow import FlowPrior
from sfumato.priors.normal import NormalPrior

Conditions = Callable[[slice], Conditioning]
"""Which pictures -> what the prior is told of them."""

NUM_SAMPLES = 16
"""Draws of the importance-weighted bound."""
LEAST_VARIANCE = (1 / 255) ** 2 / 3
"""Of a decoder: that of rounding to 8 bits alone, uniform on a bin of width 2/255."""


class Kind(Enum):
    """How a pair of first stage and prior gives bits."""

    pixels = "exact"
    density = "a bound, with uniform dequantization"
    chain = "a bound, the variational one of the diffusion chain"
    importance = "a bound, importance-weighted"
    codes = "exact, of the first stage's codes"


@dataclass(frozen=True)
class Bits:
    """values: (N,) float64 bits, of each picture. key, label: of its row; how: a sentence for the report."""

    values: Tensor
    kind: Kind
    how: str

    @property
    def key(self) -> str:
        """The row's name in JSON."""
        return "bits_per_code" if self.kind is Kind.codes else "bits_per_dimension"

    @property
    def label(self) -> str:
        """The row's name for people."""
        exact = self.kind in (Kind.pixels, Kind.codes)
        return f"{self.key.replace('_', ' ')}{'' if exact else ' (bound)'}"


def kind_of(first_stage: Decoder, prior: Prior[Any]) -> Kind:
    """Decides by type. Raises `InputError` that says why where pixels have no bits per dimension."""
    match first_stage, prior:
        case GeneratorFirstStage(), _:
            raise _undefined("a generator gives pictures and no density: nothing says how likely a given picture is")
        case IdentityFirstStage(), AutoregressivePrior():
            wanted = Codes((1,), LEVELS, first_stage.channels)
            if prior.latent != wanted:
                raise _undefined(f"the prior is over {prior.latent}, and 8-bit pixels are {wanted}")
            return Kind.pixels
        case IdentityFirstStage(), FlowPrior() if not prior.config.dequantize:
            raise _undefined("this flow was trained on continuous latents; one over pixels has prior.dequantize=true")
        case IdentityFirstStage(), FlowPrior() | NormalPrior():
            return Kind.density
        case IdentityFirstStage(), DiffusionPrior():
            return Kind.chain
        case KLFirstStage(), FlowPrior() | NormalPrior():
            return Kind.importance
        case VQFirstStage(), AutoregressivePrior():
            return Kind.codes
        case _, DiffusionPrior():
            raise _undefined(
                "a diffusion prior over a first stage's latents bounds their density, and the decoder gives pixels none; "
                "`sfumato explain rate-distortion` shows what the latents cost"
            )
        case _:
            raise _undefined(f"{type(prior).__name__} over {type(first_stage).__name__} gives no density of pixels")


def _undefined(why: str) -> InputError:
    return InputError(f"bits per dimension are undefined for this model: {why}; leave --bits out.")


@dataclass(frozen=True)
class BitSettings:
    """seed: picture i has the noise of seed + i. times: the chain's plan (None: every step of its schedule; fewer cost bits).

    variance: of the VAE's decoder, as `fitted_variance` gives it.
    """

    seed: int = 0
    batch_size: int = 16
    times: Tensor | None = None
    num_samples: int = NUM_SAMPLES
    variance: float | None = None


@torch.no_grad()
def measure_bits(
    first_stage: Decoder,
    prior: Prior[Any],
    pixels: Tensor,
    conditions: Conditions,
    settings: BitSettings | None = None,
    *,
    device: torch.device | str = "cpu",
    on_batch: OnBatch | None = None,
) -> Bits:
    """Of pictures (N, C, H, W) uint8, N above 0. Raises `InputError` as `kind_of`, and where a VAE's variance is missing."""
    kind, settings = kind_of(first_stage, prior), settings or BitSettings()
    if kind is Kind.importance and settings.variance is None:
        raise InputError("bits per dimension of a VAE need the variance of its decoder; `fitted_variance` measures it.")
    found = []
    for part in batches(len(pixels), settings.batch_size):
        cond = conditions(part)
        found.append(_part(kind, first_stage, prior, pixels[part], cond, settings, part.start, device).double().cpu())
        if on_batch is not None:
            on_batch(part.stop, len(pixels))
    return Bits(torch.cat(found), kind, _sentence(kind, prior, settings))


def _part(
    kind: Kind,
    first_stage: Decoder,
    prior: Prior[Any],
    pixels: Tensor,
    cond: Conditioning,
    settings: BitSettings,
    start: int,
    device: torch.device | str,
) -> Tensor:
    """(B,) bits of one batch, whose first picture has number `start`."""
    x, size, seeds = (
        to_unit(pixels.to(device)),
        pixels[0].numel(),
        range(settings.seed + start, settings.seed + start + len(pixels)),
    )
    match kind:
        case Kind.pixels:
            log_prob = cast(Density, prior).log_prob(pixels.to(device).long(), cond)
            return bits_per_dimension(log_prob, size, bin_width=1)
        case Kind.codes:
            assert isinstance(first_stage, VQFirstStage)
            codes = first_stage.codes().encode(x)
            return bits_per_dimension(cast(Density, prior).log_prob(codes, cond), codes[0].numel(), bin_width=1)
        case Kind.density:
            noisy = [dequantize(v[None].cpu(), torch.Generator().manual_seed(seed)) for v, seed in zip(x, seeds, strict=True)]
            return bits_per_dimension(cast(Density, prior).log_prob(torch.cat(noisy).to(device), cond), size)
        case Kind.chain:
            assert isinstance(prior, DiffusionPrior)
            denoiser = prior.denoiser

            def estimate(x_t: Tensor, t: Tensor) -> Tensor:
                return denoiser(x_t, t, cond).x_0.clamp(-1, 1)

            noise, spread = PictureNoise(seeds), decoder_variance(denoiser.schedule, settings.times)
            found = bound(estimate, denoiser.schedule, x, noise, times=settings.times, decoder_variance=spread)
            return found.bits_per_dimension
        case Kind.importance:
            assert isinstance(first_stage, FirstStage)
            assert settings.variance is not None
            return _importance(first_stage, cast(Density, prior), x, cond, settings, settings.variance, start)


def decoder_variance(schedule: Schedule, times: Tensor | None) -> float | None:
    """Of L_0. The full chain's is None, the variance of the step before as in Ho, Jain & Abbeel 2020. Another plan's steps may
    be far shorter, and that variance too small by as much: there p(x_0 | x_t) is proportional to q(x_t | x_0), rounded, of
    variance sigma_t^2 / alpha_t^2 (Kingma et al. 2021, arXiv 2107.00630, section 3.3)."""
    return None if times is None else float(schedule.sigma_ratio(times[-2:-1].double()).square())


def _importance(
    first_stage: FirstStage, prior: Density, x: Tensor, cond: Conditioning, settings: BitSettings, variance: float, start: int
) -> Tensor:
    def likelihood(x: Tensor, x_hat: Tensor) -> Tensor:
        return eight_bit_log_prob(x, x_hat.float(), variance).to(x.device)

    rng = torch.Generator(x.device).manual_seed(settings.seed + start)
    found = importance_bound(first_stage, prior, x, cond, likelihood, settings.num_samples, rng)
    return bits_per_dimension(found.bound, x[0].numel(), bin_width=1)


@torch.no_grad()
def fitted_variance(
    first_stage: FirstStage, pixels: Tensor, *, seed: int = 0, batch_size: int = 16, device: torch.device | str = "cpu"
) -> float:
    """The likeliest variance of a decoder's Gaussian, on [-1, 1]: the mean squared error of training pictures (N, C, H, W)
    uint8, each by one sample of q(z | x). Never below that of rounding to 8 bits."""
    total = 0.0
    for part in batches(len(pixels), batch_size):
        x = to_unit(pixels[part].to(device))
        z = first_stage.posterior(x).sample(torch.Generator(x.device).manual_seed(seed + part.start))
        total += float((first_stage.decode(z).float() - x).double().cpu().square().sum())
    return max(LEAST_VARIANCE, total / pixels.numel())


def _sentence(kind: Kind, prior: Prior[Any], settings: BitSettings) -> str:
    match kind:
        case Kind.pixels:
            return "Bits per dimension are exact, without guidance."
        case Kind.codes:
            return (
                "Bits per code are exact, of the first stage's codes. Bits per dimension of pixels are undefined: a decoder of "
                "codes gives them no density."
            )
        case Kind.density:
            return "Bits per dimension are a bound, by one draw of uniform dequantization a picture, without guidance."
        case Kind.chain:
            assert isinstance(prior, DiffusionPrior)
            steps = prior.denoiser.schedule.num_steps if settings.times is None else len(settings.times) - 1
            ends = "the step before's" if settings.times is None else "sigma^2 / alpha^2 at its last t"
            chain = f"the variational bound of the chain of {steps} steps with small variance and L_0's decoder of {ends}"
            return f"Bits per dimension are {chain}, without guidance."
        case Kind.importance:
            return (
                f"Bits per dimension are the importance-weighted bound of {settings.num_samples} draws, with a decoder that is "
                f"a discretised Gaussian of variance {settings.variance:.3g}, fitted to training pictures."
            )
