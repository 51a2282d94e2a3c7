"""Bits per dimension of 8-bit pictures, or a bound on them, where a model gives one.

    codes of pixels    exact: -log2 P(x) / D, by an autoregressive prior over the identity first stage
    a density          bound: of dequantized pixels (`metrics.dequantization`), by a flow or normal prior over the identity
    a chain            bound: L_T + ... + L_0 of a diffusion prior over the identity (`diffusion.bounds`)
    a VAE              bound: importance-weighted (`evaluation.importance`), an encoder with spread and a prior with a density
    codes of a stage   exact bits per code, by an autoregressive prior
    through codes      bound on those of pixels: -log P(c) - log P(x | c) at the codes c of x

The last two are of one pair, a VQ first stage and an autoregressive prior: P(x) = sum over c of P(c) P(x | c), of which the
codes that the encoder gives are one term, so that the bound is what the codes cost and what they leave out. P(x | z) of a VAE's
decoder and P(x | c) are a Gaussian's (`evaluation.decoder`), which a decoder has that was trained by squared error alone. Every
other pair gives pixels no density, and `UndefinedBits` says why.

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
from sfumato.diffusion.bounds import bound
from sfumato.errors import InputError
from sfumato.evaluation.data import batches
from sfumato.evaluation.decoder import DecoderLoss, EightBitGaussian
from sfumato.evaluation.importance import importance_bound
from sfumato.evaluation.scoring import OnBatch
from sfumato.first_stages.base import Decoder, FirstStage
from sfumato.first_stages.generator import GeneratorFirstStage
from sfumato.first_stages.identity import IdentityFirstStage
from sfumato.first_stages.kl import KLFirstStage
from sfumato.first_stages.vq import QuantizedFirstStage
from sfumato.generation.pixels import to_unit
from sfumato.latent import Codes
from sfumato.metrics.dequantization import LEVELS, bits_per_dimension, dequantize
from sfumato.noise import PictureNoise
from sfumato.priors.autoregressive import AutoregressivePrior
from sfumato.priors.base import Density, Prior
from sfumato.priors.diffusion import DiffusionPrior
from sfumato.priors.flow import FlowPrior
from sfumato.priors.hierarchical import HierarchicalPrior
from sfumato.priors.normal import NormalPrior

Conditions = Callable[[slice], Conditioning]
"""Which pictures -> what the prior is told of them."""

NUM_SAMPLES = 64
"""Draws of the importance-weighted bound, which falls with their number."""
GENERATOR = "a generator gives pictures and no density: nothing says how likely a given picture is"
LATENT_DIFFUSION = (
    "a diffusion prior over a first stage's latents bounds their density, and the decoder gives pixels none; "
    "`sfumato explain rate-distortion` shows what the latents cost"
)
NO_GAUSSIAN = (
    "the decoder learned from more than squared error (a perceptual distance, a critic, an absolute error), so that its answer "
    "is the mean of no Gaussian of pixels"
)
UNKNOWN_DECODER = "how the decoder was trained is not known, and only one of squared error alone has a density of pixels"


class Kind(Enum):
    """How a pair of first stage and prior gives bits."""

    pixels = "exact"
    density = "a bound, with uniform dequantization"
    chain = "a bound, the variational one of the diffusion chain"
    importance = "a bound, importance-weighted"
    codes = "exact, of the first stage's codes"
    through_codes = "a bound, by the first stage's codes and a Gaussian around their decoding"


GAUSSIAN = (Kind.importance, Kind.through_codes)
"""Those that take a density of the decoder."""


class UndefinedBits(InputError):
    """Pixels have no bits per dimension under a model. why: without what to do about it, which depends on who asks."""

    def __init__(self, why: str, otherwise: str = "") -> None:
        super().__init__(f"bits per dimension are undefined for this model: {why}; leave --bits out{otherwise}.")
        self.why = why


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
        return f"{self.key.replace('_', ' ')}{'' if self.exact else ' (bound)'}"

    @property
    def exact(self) -> bool:
        """Whether they are the model's own, and no bound on them."""
        return self.kind in (Kind.pixels, Kind.codes)


def kind_of(first_stage: Decoder, prior: Prior[Any]) -> Kind:
    """Decides by type. Raises `UndefinedBits` that says why where there are no bits."""
    match first_stage, prior:
        case GeneratorFirstStage(), _:
            raise UndefinedBits(GENERATOR)
        case IdentityFirstStage(), AutoregressivePrior():
            wanted = Codes((1,), LEVELS, first_stage.channels)
            if prior.latent != wanted:
                raise UndefinedBits(f"the prior is over {prior.latent}, and 8-bit pixels are {wanted}")
            return Kind.pixels
        case IdentityFirstStage(), FlowPrior() if not prior.config.dequantize:
            raise UndefinedBits("this flow was trained on continuous latents; one over pixels has prior.dequantize=true")
        case IdentityFirstStage(), FlowPrior() | NormalPrior():
            return Kind.density
        case IdentityFirstStage(), DiffusionPrior():
            return Kind.chain
        case KLFirstStage(), FlowPrior() | NormalPrior():
            return Kind.importance
        case QuantizedFirstStage(), AutoregressivePrior() | HierarchicalPrior():
            return Kind.codes
        case _, DiffusionPrior():
            raise UndefinedBits(LATENT_DIFFUSION)
        case _:
            raise UndefinedBits(f"{type(prior).__name__} over {type(first_stage).__name__} gives no density of pixels")


def kinds_of(first_stage: Decoder, prior: Prior[Any], decoder: DecoderLoss = DecoderLoss.unknown) -> tuple[Kind, ...]:
    """All bits that there are: of codes and, where the decoder has a density, of pixels through them.

    A VAE is a Gaussian decoder by its definition and has its bound unless it is known to have learned from something else.
    Raises `UndefinedBits` as `kind_of`, and there.
    """
    kind = kind_of(first_stage, prior)
    if kind is Kind.importance and decoder is DecoderLoss.other:
        raise UndefinedBits(NO_GAUSSIAN, ", or take a Gaussian around its answer all the same (--bits-gaussian)")
    return (Kind.codes, Kind.through_codes) if kind is Kind.codes and decoder.gaussian else (kind,)


def pixel_kind(first_stage: Decoder, prior: Prior[Any], decoder: DecoderLoss = DecoderLoss.unknown) -> Kind:
    """That of pixels among `kinds_of`. Raises `UndefinedBits` where codes alone have bits, too."""
    kind = kinds_of(first_stage, prior, decoder)[-1]
    if kind is Kind.codes:
        raise UndefinedBits(NO_GAUSSIAN if decoder is DecoderLoss.other else UNKNOWN_DECODER)
    return kind


@dataclass(frozen=True)
class BitSettings:
    """seed: picture i has the noise of seed + i. times: the chain's plan (None: every step of its schedule; fewer cost bits).

    variance: of the decoder's Gaussian, as `fitted_variance` gives it. decoder: how it learned, for the report.
    """

    seed: int = 0
    batch_size: int = 16
    times: Tensor | None = None
    num_samples: int = NUM_SAMPLES
    variance: float | None = None
    decoder: DecoderLoss = DecoderLoss.unknown


@torch.no_grad()
def measure_bits(
    first_stage: Decoder,
    prior: Prior[Any],
    pixels: Tensor,
    conditions: Conditions,
    settings: BitSettings | None = None,
    *,
    kind: Kind | None = None,
    device: torch.device | str = "cpu",
    on_batch: OnBatch | None = None,
) -> Bits:
    """Of pictures (N, C, H, W) uint8, N above 0. kind: one of the pair's `kinds_of`, None for `kind_of`.

    Raises `InputError` as `kind_of`, and where the variance of a decoder is missing.
    """
    kind, settings = kind or kind_of(first_stage, prior), settings or BitSettings()
    if kind in GAUSSIAN and settings.variance is None:
        raise InputError("bits per dimension by a decoder need its Gaussian's variance; `fitted_variance` measures it.")
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
            assert isinstance(first_stage, FirstStage)
            codes = first_stage.codes().encode(x)
            return bits_per_dimension(cast(Density, prior).log_prob(codes, cond), codes[0].numel(), bin_width=1)
        case Kind.density:
            noisy = [dequantize(v[None].cpu(), torch.Generator().manual_seed(seed)) for v, seed in zip(x, seeds, strict=True)]
            return bits_per_dimension(cast(Density, prior).log_prob(torch.cat(noisy).to(device), cond), size)
        case Kind.chain:
            assert isinstance(prior, DiffusionPrior)
            denoiser = prior.denoiser

            def estimate(x_t: Tensor, t: Tensor) -> Tensor:
                return prior.estimate(x_t, t, cond, clip=1.0)

            noise, times = PictureNoise(seeds), settings.times
            found = bound(estimate, denoiser.schedule, x, noise, times=times, variance=prior.variance)
            return found.bits_per_dimension
        case Kind.importance:
            assert isinstance(first_stage, FirstStage)
            assert settings.variance is not None
            likelihood = EightBitGaussian(settings.variance)
            rng = torch.Generator(x.device).manual_seed(settings.seed + start)
            nats = importance_bound(first_stage, cast(Density, prior), x, cond, likelihood, settings.num_samples, rng).bound
            return bits_per_dimension(nats, size, bin_width=1)
        case Kind.through_codes:
            assert isinstance(first_stage, FirstStage)
            assert settings.variance is not None
            face = first_stage.codes()
            codes = face.encode(x)
            given = EightBitGaussian(settings.variance)(x, face.decode(codes))
            return bits_per_dimension(cast(Density, prior).log_prob(codes, cond).double() + given, size, bin_width=1)


def _sentence(kind: Kind, prior: Prior[Any], settings: BitSettings) -> str:
    match kind:
        case Kind.pixels:
            return "Bits per dimension are exact, without guidance."
        case Kind.codes:
            return f"Bits per code are exact, of the first stage's codes. {_of_pixels(settings.decoder)}"
        case Kind.density:
            return "Bits per dimension are a bound, by one draw of uniform dequantization a picture, without guidance."
        case Kind.chain:
            assert isinstance(prior, DiffusionPrior)
            steps = prior.denoiser.schedule.num_steps if settings.times is None else len(settings.times) - 1
            ends = "the step before's" if settings.times is None else "sigma^2 / alpha^2 at its last t"
            chain = f"the chain of {steps} steps with {prior.variance.value} variance and L_0's decoder of {ends}"
            return f"Bits per dimension are the variational bound of {chain}, without guidance."
        case Kind.importance | Kind.through_codes:
            how = f"the importance-weighted bound of {settings.num_samples} draws"
            if kind is Kind.through_codes:
                how = "a bound, what the codes of a picture cost and what they leave out"
            return (
                f"Bits per dimension are {how}, with a decoder that is a discretised Gaussian of variance "
                f"{settings.variance:.3g}, fitted to training pictures; it was {settings.decoder.value}."
            )


def _of_pixels(decoder: DecoderLoss) -> str:
    """What stands beside bits per code."""
    if decoder.gaussian:
        return "Those of pixels are beside them."
    why = NO_GAUSSIAN if decoder is DecoderLoss.other else UNKNOWN_DECODER
    return f"Bits per dimension of pixels are undefined: {why}; --bits-gaussian takes a Gaussian around its answer."
