"""Rate and distortion of progressive coding (Ho, Jain & Abbeel 2020, arXiv 2006.11239, section 4.3).

A receiver who has x_T, then x_{T-1}, ... down to x_t has paid and sees

    rate(t)       = L_T + sum of L_{t'-1} over the steps from 1 down to t, in bits per value of the picture
    distortion(t) = sqrt(mean (x - x_hat)^2) on 0 ... 255, x_hat the estimate of x_0 from x_t, decoded

both averaged over pictures and noise. The steep part of the curve is what the eye calls semantic, the flat rest what it hardly
sees (figure 2 of Rombach et al. 2021, arXiv 2112.10752). A latent model's values are counted per value of the picture too, so
that all curves share their axes; L_0 is undefined for continuous latents, so their curve stops at the last t above 0. What is
coded is one sample of q(z | x): where sigma_t / alpha_t is below its spread, bits are paid for the stage's own noise.

A first stage is a point: the rate of its latents alone, under

    a Gaussian fitted to them, per channel:  E KL(q(z | x) || N(m_c, s_c^2))   for a KL stage, whose training weight is no rate
    their code's own frequencies:            entropy of the indices            for a VQ stage

of several levels, or of residual codes, the sum of each one's own entropy: no level is told of another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.bounds import Estimate, check_plan, every_step, prior_term, terms, to_bits
from sfumato.diffusion.forward import Learned, ReverseVariance, Variance
from sfumato.diffusion.grids import Spacing
from sfumato.diffusion.grids import times as times_of
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.identity import IdentityFirstStage
from sfumato.first_stages.vq import QuantizedFirstStage
from sfumato.generation.pixels import to_unit
from sfumato.noise import PictureNoise
from sfumato.posterior import DiagonalGaussian

Estimates = Callable[[slice], Estimate]
"""Which pictures -> the denoiser under their conditions."""

OnBatch = Callable[[int, int], None]
"""(pictures done, of how many)."""


@dataclass(frozen=True)
class Curve:
    """times (N,), falling; rate (N,) bits per value of the picture; rmse (N,) on 0 ... 255. float64.

    lossless: bits per value with L_0, where nothing is lost; None for latents.
    """

    times: Tensor
    rate: Tensor
    rmse: Tensor
    lossless: float | None
    num_pictures: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in vars(self).items()}


@dataclass(frozen=True)
class Point:
    """A first stage: rate in bits per value of the picture, rmse on 0 ... 255, and what the rate was taken under."""

    name: str
    rate: float
    rmse: float
    under: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@torch.no_grad()
def curve(
    first_stage: FirstStage,
    schedule: Schedule,
    estimates: Estimates,
    pixels: Tensor,
    *,
    times: Tensor | None = None,
    variance: ReverseVariance = Variance.small,
    seed: int = 0,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    on_batch: OnBatch | None = None,
) -> Curve:
    """The curve of a diffusion model on pictures (N, C, H, W) uint8; picture i has the noise of seed + i.

    times: the plan (None: every step of the schedule); a coarser one is the curve of its own, shorter chain, of higher rate.
    Estimates over pixels are clipped to [-1, 1], as in the paper. variance: of the reverse steps; learned, estimates are
    [x_0, v] along the channels, as `diffusion.bounds` asks. Raises `InputError` for no pictures or a plan that is none.
    """
    check_pixels(pixels)
    plan = every_step(schedule) if times is None else times
    check_plan(plan)
    in_pixels = isinstance(first_stage, IdentityFirstStage)
    nats = torch.zeros(len(plan) + 1, dtype=torch.float64)  # L_T, then one a step
    errors = torch.zeros(len(plan) - 1, dtype=torch.float64)
    for part in parts(len(pixels), batch_size):
        x = to_unit(pixels[part].to(device))
        noise = PictureNoise(range(seed + part.start, seed + part.stop))
        z = latent_sample(first_stage.posterior(x), noise)
        estimate = clipped(estimates(part), variance) if in_pixels else estimates(part)
        nats[0] += float(prior_term(schedule, z).sum())
        for index, term in enumerate(terms(estimate, schedule, z, noise, plan, variance, in_pixels)):
            errors[index] += squared_error(first_stage.decode(term.x_0), x)
            nats[index + 1] += 0.0 if term.nats is None else float(term.nats.sum())
        if on_batch is not None:
            on_batch(part.stop, len(pixels))
    spent = to_bits(nats[:-1].cumsum(0), pixels.numel())  # before each step, and after the last
    rmse = (errors / pixels.numel()).sqrt()
    return Curve(plan[:-1], spent[:-1], rmse, float(spent[-1]) if in_pixels else None, len(pixels))


@torch.no_grad()
def first_stage_point(
    first_stage: FirstStage, pixels: Tensor, *, seed: int = 0, batch_size: int = 16, device: torch.device | str = "cpu"
) -> Point:
    """Rate and distortion of a first stage alone on pictures (N, C, H, W) uint8, by one sample of q(z | x) a picture.

    The entropy of codes is that of their frequencies in these pictures, by level: too small where there are few indices for the
    codes.
    Raises `InputError` for no pictures, and for an encoder that gives real numbers without spread, whose rate is infinite.
    """
    check_pixels(pixels)
    moments, error = _Moments(), 0.0
    codes: list[Tensor] = []  # counts, of each level
    for part in parts(len(pixels), batch_size):
        x = to_unit(pixels[part].to(device))
        q = first_stage.posterior(x)
        z = latent_sample(q, PictureNoise(range(seed + part.start, seed + part.stop)))
        error += squared_error(first_stage.decode(z), x)
        if isinstance(first_stage, QuantizedFirstStage):
            found = _counts(first_stage, z)
            codes = [a + b for a, b in zip(codes, found, strict=True)] if codes else found
        elif q.log_variance is not None:
            moments.add(q.mean, q.log_variance)
        else:
            raise no_rate(first_stage)
    rmse = math.sqrt(error / pixels.numel())
    if codes:
        nats = sum(_entropy(counts) for counts in codes)
        return Point(type(first_stage).__name__, _bits(nats, pixels), rmse, "the frequencies of its codes")
    return Point(type(first_stage).__name__, _bits(moments.nats(), pixels), rmse, "a Gaussian fitted per channel")


def log_plan(schedule: Schedule, num_steps: int) -> Tensor:
    """A plan of `num_steps` steps, equal in log SNR but for the last, on which a chain of few steps wastes the least bits;
    the schedule's own where as many as that are asked. (N + 1,) float64. Raises `InputError` for fewer than 2 or more."""
    if num_steps == schedule.num_steps:
        return every_step(schedule)
    if num_steps < 2:
        raise InputError(f"{num_steps} steps: expected 2 or more, the last of which is the decoder's.")
    plan = times_of(Spacing.exponential, schedule, num_steps)
    plan[0] = 1.0  # it is but for rounding
    return plan


def no_rate(first_stage: FirstStage) -> InputError:
    """Why an encoder without spread or codes is no point."""
    return InputError(
        f"{type(first_stage).__name__} has no rate of its own: its latents are real numbers without spread, which cost "
        "infinitely many bits; only a KL or VQ first stage is a point of the rate-distortion plane."
    )


def check_pixels(pixels: Tensor) -> None:
    """Raises `InputError` unless pixels are (N, C, H, W) uint8 with N above 0."""
    if pixels.ndim != 4 or pixels.dtype != torch.uint8 or len(pixels) == 0:
        raise InputError(f"pictures: got {tuple(pixels.shape)} {pixels.dtype}, expected (N, C, H, W) uint8, at least one.")


class _Moments:
    """Of latents, per channel, for the KL divergence from each q(z | x) to the Gaussian fitted to all."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.square = self.variance = self.log_variance = torch.zeros(())

    def add(self, mean: Tensor, log_variance: Tensor) -> None:
        """(B, C, ...) each."""
        mean, log_variance = (v.cpu().double().transpose(0, 1).flatten(1) for v in (mean, log_variance))  # (C, B ...)
        self.count += mean.shape[1]
        self.mean = self.mean + mean.sum(1)
        self.square = self.square + mean.square().sum(1)
        self.variance = self.variance + log_variance.exp().sum(1)
        self.log_variance = self.log_variance + log_variance.sum(1)

    def nats(self) -> float:
        """The sum of KL(q || fitted) over everything: with the fitted variance s^2 it is 1/2 sum (log s^2 - log variance)."""
        fitted = (self.square + self.variance) / self.count - (self.mean / self.count).square()
        return float(0.5 * (self.count * fitted.log() - self.log_variance).sum())


def _counts(first_stage: QuantizedFirstStage, z: Tensor) -> list[Tensor]:
    """How often each code is used by latents in unit scale, (codes,) float64: of each level, and of residual codes each."""
    found = []
    for name, level in first_stage.levels(z).items():
        codes = level.found.codes  # (B, h, w), or (B, depth, h, w)
        for one in (codes,) if codes.ndim == 3 else codes.unbind(1):
            found.append(torch.bincount(one.flatten().cpu(), minlength=first_stage.quantizers[name].num_codes).double())
    return found


def _entropy(counts: Tensor) -> float:
    """Nats of all that was counted, (codes,), under its own frequencies."""
    used = counts[counts > 0]
    return -float((used * (used / used.sum()).log()).sum())


def latent_sample(q: DiagonalGaussian, noise: PictureNoise) -> Tensor:
    """Of q(z | x), by the pictures' own noise: independent of the batch size."""
    return q.mean if q.log_variance is None else q.mean + torch.exp(0.5 * q.log_variance) * noise(q.mean)


def clipped(estimate: Estimate, variance: ReverseVariance = Variance.small) -> Estimate:
    """x_0 clamped to [-1, 1]; v of a learned variance as it is."""

    def ask(x_t: Tensor, t: Tensor) -> Tensor:
        found = estimate(x_t, t)
        if not isinstance(variance, Learned):
            return found.clamp(-1, 1)
        x_0, share = found.chunk(2, dim=1)
        return torch.cat([x_0.clamp(-1, 1), share], dim=1)

    return ask


def squared_error(x_hat: Tensor, x: Tensor) -> float:
    """The sum of squares on the scale 0 ... 255, of x_hat clipped to it."""
    difference = (x_hat.float().clamp(-1, 1) - x).cpu().double() * 127.5
    return float(difference.square().sum())


def _bits(nats: float, pixels: Tensor) -> float:
    return nats / (pixels.numel() * math.log(2))


def parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
