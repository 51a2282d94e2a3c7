"""The variational bound on -log p(x_0), term by term (Ho, Jain & Abbeel 2020, arXiv 2006.11239, eq. 5).

    L_T     = KL(q(x_T | x_0) || N(0, 1))
    L_{t-1} = KL(q(x_s | x_t, x_0) || p(x_s | x_t)),   s the next time of the plan, above 0
    L_0     = -log p(x_0 | x_t) at the last t, the decoder of 8-bit data (eq. 13):

    p(x_0 | x_t) = prod_i  integral of N(x; mu_i, variance) from x_0i - 1/255 to x_0i + 1/255,

open to -infinity at x_0i = -1 and to infinity at 1, with mu the estimate of x_0. The small variance of the last step is 0, so
that the full chain's decoder has that of the step before it, with either variance, as in that paper's code. Other plans may
have far shorter steps before their last, and that variance is then too small by as much: theirs is sigma_t^2 / alpha_t^2 at the
last t, that of p(x_0 | x_t) proportional to q(x_t | x_0) (Kingma et al. 2021, arXiv 2107.00630, section 3.3).

With the small variance L_{t-1} = 1/2 (SNR_s - SNR_t) ||x_0 - x_0_hat||^2, whose sum over ever finer plans is

    1/2 integral of ||x_0 - x_0_hat(x_t)||^2 dSNR    (Kingma et al. 2021, arXiv 2107.00630, eq. 18)

All terms are in nats, one a picture. One draw of x_t a time: each is an unbiased estimate of its expectation over q.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sfumato.diffusion.forward import (
    Coefficients,
    Gaussian,
    Learned,
    ReverseVariance,
    Variance,
    coefficients,
    learned_variance,
    marginal,
)
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError
from sfumato.noise import NoiseSource

Estimate = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), t (B,)) -> x_0 (B, ...): a denoiser under its condition; of a learned variance [x_0, v] along dim 1."""

NO_DECODER = (
    "L_0 is undefined here: it is the log-probability of 8-bit values, and these are continuous latents, for which only a "
    "density exists; use `rate`, the bound without L_0, or a model over the identity first stage."
)

HALF_BIN = 1 / 255
"""Half the distance of neighbouring values when 0 ... 255 lie on [-1, 1]."""


@dataclass(frozen=True)
class Term:
    """One term: of the step from t to s, with nats (B,), or None for L_0 of continuous data; x_0 (B, ...): its estimate."""

    t: float
    s: float
    x_0: Tensor
    nats: Tensor | None


@dataclass(frozen=True)
class Bound:
    """The terms for B pictures of `dimensions` values each, in nats.

    times: (N + 1,) descending. prior: L_T (B,). steps: L_{t-1} (B, N - 1), in the order of `times`. decoder: L_0 (B,), None
    where it is undefined.
    """

    times: Tensor
    prior: Tensor
    steps: Tensor
    decoder: Tensor | None
    dimensions: int

    @property
    def rate(self) -> Tensor:
        """L_T + L_{T-1} + ... + L_1, (B,) nats: the cost of x at the last time above 0. Defined for latents too."""
        return self.prior + self.steps.sum(1)

    @property
    def total(self) -> Tensor:
        """The bound on -log p(x_0), (B,) nats. Raises `InputError` for continuous latents."""
        if self.decoder is None:
            raise InputError(NO_DECODER)
        return self.rate + self.decoder

    @property
    def bits_per_dimension(self) -> Tensor:
        """The bound in bits for each value of the data, (B,). Raises `InputError` for continuous latents."""
        return to_bits(self.total, self.dimensions)


def to_bits(nats: Tensor, dimensions: int) -> Tensor:
    """Nats a picture -> bits per dimension."""
    return nats / (dimensions * math.log(2))


def every_step(schedule: Schedule) -> Tensor:
    """The full plan 1, 1 - 1/T, ... 0: (T + 1,) float64."""
    return torch.arange(schedule.num_steps, -1, -1, dtype=torch.float64) / schedule.num_steps


@torch.no_grad()
def bound(
    estimate: Estimate,
    schedule: Schedule,
    x_0: Tensor,
    noise: NoiseSource,
    *,
    times: Tensor | None = None,
    variance: ReverseVariance = Variance.small,
    eight_bit: bool = True,
    decoder_variance: float | None = None,
) -> Bound:
    """All terms for x_0 (B, ...) over `times` (None: every step of the schedule). A coarser plan is the bound of its own chain.

    eight_bit: x_0 are 8-bit values on [-1, 1] and L_0 is theirs; False for latents. decoder_variance: of L_0, above 0.
    Raises `InputError` for other values and for plans that do not go from 1 down to 0 in two steps or more.
    """
    plan = every_step(schedule) if times is None else times
    found = list(terms(estimate, schedule, x_0, noise, plan, variance, eight_bit, decoder_variance))
    steps = torch.stack([term.nats for term in found[:-1] if term.nats is not None], 1)
    return Bound(plan, prior_term(schedule, x_0), steps, found[-1].nats, x_0[0].numel())


@torch.no_grad()
def terms(
    estimate: Estimate,
    schedule: Schedule,
    x_0: Tensor,
    noise: NoiseSource,
    times: Tensor,
    variance: ReverseVariance = Variance.small,
    eight_bit: bool = True,
    decoder_variance: float | None = None,
) -> Iterator[Term]:
    """L_{t-1} and at last L_0, one network call each, with x_t ~ q(x_t | x_0); arguments and errors as of `bound`."""
    check_plan(times)
    if eight_bit:
        check_eight_bit(x_0)
    plan = times.to("cpu", torch.float64)
    for t, s in pairwise(plan):
        x_t = marginal(schedule, x_0, t[None]).sample(noise)
        x_0_hat, share = estimate(x_t, t.to(x_t.device, _kind(x_t)).expand(len(x_t))), None
        if isinstance(variance, Learned):
            x_0_hat, share = x_0_hat.chunk(2, dim=1)
        if s > 0:
            yield Term(float(t), float(s), x_0_hat, step_term(schedule, x_0, x_0_hat, s[None], t[None], variance, share))
        elif eight_bit:
            spread = decoder_variance or last_variance(schedule, plan)
            yield Term(float(t), 0.0, x_0_hat, -eight_bit_log_prob(x_0, x_0_hat, spread))
        else:
            yield Term(float(t), 0.0, x_0_hat, None)


def last_variance(schedule: Schedule, plan: Tensor) -> float:
    """Of the decoder in L_0, where none is given: of the full chain that of the step before it, else sigma^2 / alpha^2."""
    if len(plan) == schedule.num_steps + 1 and torch.equal(plan, every_step(schedule)):
        return float(coefficients(schedule, plan[-2:-1], plan[-3:-2]).posterior)
    return float(schedule.sigma_ratio(plan[-2]).square())


def prior_term(schedule: Schedule, x_0: Tensor) -> Tensor:
    """L_T, (B,) nats: what x_1 still says of x_0; 0 for a schedule that ends in pure noise."""
    x_1 = marginal(schedule, x_0.cpu().double(), torch.ones(1, dtype=torch.float64))
    return x_1.kl(Gaussian(torch.zeros_like(x_1.mean), torch.ones_like(x_1.variance)))


def step_term(
    schedule: Schedule,
    x_0: Tensor,
    x_0_hat: Tensor,
    s: Tensor,
    t: Tensor,
    variance: ReverseVariance,
    share: Tensor | None = None,
) -> Tensor:
    """L_{t-1} for 0 < s < t, (1,) float64 each: the KL divergence of two Gaussians whose means differ by a weight times
    x_0 - x_0_hat; (B,) nats. `share`: v (B, ...) of the learned variance."""
    c = coefficients(schedule, s, t)
    if isinstance(variance, Learned):
        assert share is not None, "a learned variance needs v"
        return learned_term(c, x_0.cpu().double(), x_0_hat.cpu().double(), share.cpu().double())
    wide = c.reverse_variance(variance)
    ratio = c.posterior / wide
    spread = 0.5 * x_0[0].numel() * (ratio - 1 - ratio.log())
    weight = 0.5 * c.of_x_0.square() / wide
    return float(weight) * _squared(x_0 - x_0_hat) + float(spread)


def learned_term(c: Coefficients, x_0: Tensor, x_0_hat: Tensor, share: Tensor) -> Tensor:
    """L_{t-1} of the learned variance, x_0, x_0_hat, v (B, ...); (B,) nats, with gradients to x_0_hat and v."""
    small, weight = (value.to(x_0).reshape(-1, *[1] * (x_0.ndim - 1)) for value in (c.posterior, c.of_x_0.square()))
    wide = learned_variance(c.posterior.to(share), c.fresh.to(share), share)
    ratio = small / wide
    each = 0.5 * (ratio - 1 - ratio.log() + weight * (x_0 - x_0_hat).square() / wide)
    return each.flatten(1).sum(1)


def eight_bit_log_prob(x_0: Tensor, mean: Tensor, variance: float) -> Tensor:
    """Eq. 13: log-probability of 8-bit x_0 (B, ...) on [-1, 1] under N(mean, variance), summed over dimensions; (B,) nats."""
    x_0, mean = x_0.cpu().double(), mean.cpu().double()
    std = math.sqrt(variance)
    low = torch.where(x_0 <= -1 + HALF_BIN, -math.inf, (x_0 - mean - HALF_BIN) / std)
    high = torch.where(x_0 >= 1 - HALF_BIN, math.inf, (x_0 - mean + HALF_BIN) / std)
    # In the upper tail the distribution function is 1 in floating point: mirror to the lower one, where its log is exact.
    mirrored = low + high > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    upper = torch.special.log_ndtr(high)
    each = upper + torch.log(-torch.expm1(torch.special.log_ndtr(low) - upper))
    return each.flatten(1).sum(1)


@torch.no_grad()
def continuous_rate(
    estimate: Estimate,
    schedule: Schedule,
    x_0: Tensor,
    noise: NoiseSource,
    *,
    end: float,
    num_points: int = 1000,
    smallest_snr: float = 1e-6,
) -> Tensor:
    """1/2 integral of ||x_0 - x_0_hat||^2 dSNR from t = 1 to `end` > 0, (B,) nats: the limit of the steps' sum.

    By the midpoint rule in log SNR at `num_points` network calls; a schedule that ends below `smallest_snr` is cut there. Only
    for denoisers that know every t, not the times of a table alone.
    """
    ends = schedule.log_snr(torch.tensor([1.0, end], dtype=torch.float64))
    low, high = max(float(ends[0]), math.log(smallest_snr)), float(ends[1])
    width = (high - low) / num_points
    total = torch.zeros(len(x_0), dtype=torch.float64, device="cpu")
    for index in range(num_points):
        log_snr = low + (index + 0.5) * width
        t = schedule.inverse_ratio(torch.tensor([math.exp(-0.5 * log_snr)], dtype=torch.float64))
        x_t = marginal(schedule, x_0, t).sample(noise)
        x_0_hat = estimate(x_t, t.to(x_t.device, _kind(x_t)).expand(len(x_t)))
        total += 0.5 * width * math.exp(log_snr) * _squared(x_0 - x_0_hat).cpu()
    return total


def check_plan(times: Tensor) -> None:
    """Raises `InputError` unless times (N + 1,) go from 1 down to 0 in at least two steps."""
    if times.ndim != 1 or len(times) < 3 or times[0] != 1 or times[-1] != 0 or not bool((times.diff() < 0).all()):
        raise InputError(
            f"times of a bound: got {times.numel()} of them, expected at least 3 that fall from 1 to 0, as `every_step` gives."
        )


def check_eight_bit(x_0: Tensor) -> None:
    """Raises `InputError` when x_0 are not 0 ... 255 on [-1, 1]."""
    levels = (x_0.detach().float() + 1) * 127.5
    worst = float((levels - levels.round().clamp(0, 255)).abs().max())
    if not worst < 0.01:
        raise InputError(
            "L_0 is defined for 8-bit data, v / 127.5 - 1 for whole v from 0 to 255, and these values are up to "
            f"{worst:.2g} steps off; give pictures as read, or eight_bit=False for the bound without L_0."
        )


def _squared(difference: Tensor) -> Tensor:
    """The squared norm of every row, float64 on the CPU (B,)."""
    return difference.cpu().double().square().flatten(1).sum(1)


def _kind(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
