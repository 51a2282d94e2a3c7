"""The forward chain, its closed form, its posterior, and the reverse step that is fitted to it.

    q(x_t | x_s)      = N(alpha_ts x_s, sigma_ts^2)                                       eq. 2, from any s < t
    q(x_t | x_0)      = N(alpha_t x_0, sigma_t^2)                                         eq. 4
    q(x_s | x_t, x_0) = N(alpha_ts sigma_s^2 / sigma_t^2 x_t + alpha_s sigma_ts^2 / sigma_t^2 x_0,
                          sigma_ts^2 sigma_s^2 / sigma_t^2)                               eq. 6 and 7
    p(x_s | x_t)      = the same mean at the estimate of x_0, with a small, a large or a learned variance

    alpha_ts = alpha_t / alpha_s,   sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2 = sigma_t^2 (1 - SNR_t / SNR_s)

(Ho, Jain & Abbeel 2020, arXiv 2006.11239; two times apart as in Kingma et al. 2021, arXiv 2107.00630.) With s = t - 1/T the
step is the paper's: alpha_ts^2 = 1 - beta_t, sigma_ts^2 = beta_t and the posterior's variance is its beta-tilde_t.

x_0, x_s, x_t are (B, ...); s, t are (B,) in [0, 1], float64. Coefficients are float64 and meet x in the type of x.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.diffusion.schedule import Discrete, Schedule
from sfumato.noise import NoiseSource


class Variance(enum.Enum):
    """The variance of a reverse step: small = that of q(x_s | x_t, x_0); large = that of q(x_t | x_s)."""

    small = "small"
    large = "large"


class Learned(enum.Enum):
    """A variance between the two: estimates carry v beside x_0, [x_0, v] along the channels (`learned_variance`)."""

    learned = "learned"


ReverseVariance = Variance | Learned


@dataclass(frozen=True)
class Gaussian:
    """N(mean, variance), each element for itself. mean is (B, ...); variance (B, 1, ...) broadcasts to it."""

    mean: Tensor
    variance: Tensor

    def sample(self, noise: NoiseSource) -> Tensor:
        """mean + sqrt(variance) noise, in the shape of the mean."""
        return self.mean + self.variance.sqrt() * noise(self.mean)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) summed over dimensions, (B,) nats."""
        ratio = self.variance / other.variance
        each = ratio - 1 - ratio.log() + (self.mean - other.mean).square() / other.variance
        return 0.5 * each.expand_as(self.mean).flatten(1).sum(1)


@dataclass(frozen=True)
class Coefficients:
    """What ties x_s to x_t, (B,) float64: alpha_ts, sigma_ts^2 and, of the posterior, both weights and the variance."""

    alpha: Tensor
    fresh: Tensor
    of_x_t: Tensor
    of_x_0: Tensor
    posterior: Tensor

    def reverse_variance(self, variance: Variance) -> Tensor:
        """Of the reverse step p(x_s | x_t), (B,)."""
        return self.posterior if variance is Variance.small else self.fresh


def learned_variance(small: Tensor, large: Tensor, share: Tensor) -> Tensor:
    """exp(v log large + (1 - v) log small): from the small to the large variance, (B,) or () each, by v (B, ...).

    (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 15; of a coarser plan its own two, eq. 19.) The small one is above 0.
    """
    return torch.exp(share * _rows(large.log(), share) + (1 - share) * _rows(small.log(), share))


def coefficients(schedule: Schedule, s: Tensor, t: Tensor) -> Coefficients:
    """For times s < t, (B,) each, float64. At t = 1 alpha may be 0, and s may be the clean 0; both at once too."""
    assert s.dtype == t.dtype == torch.float64, f"times are float64, not {s.dtype} and {t.dtype}"
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    share = -torch.expm1(schedule.log_snr(t) - schedule.log_snr(s))  # sigma_ts^2 / sigma_t^2, without cancellation
    return Coefficients(
        alpha=alpha_t / alpha_s,
        fresh=sigma_t.square() * share,
        of_x_t=alpha_t / alpha_s * (sigma_s / sigma_t).square(),
        of_x_0=alpha_s * share,
        posterior=sigma_s.square() * share,
    )


def transition(schedule: Schedule, x_s: Tensor, s: Tensor, t: Tensor) -> Gaussian:
    """q(x_t | x_s), s < t: eq. 2."""
    c = coefficients(schedule, s, t)
    return Gaussian(_rows(c.alpha, x_s) * x_s, _rows(c.fresh, x_s))


def marginal(schedule: Schedule, x_0: Tensor, t: Tensor) -> Gaussian:
    """q(x_t | x_0): eq. 4."""
    alpha, sigma = schedule(t)
    return Gaussian(_rows(alpha, x_0) * x_0, _rows(sigma.square(), x_0))


def posterior(schedule: Schedule, x_t: Tensor, x_0: Tensor, s: Tensor, t: Tensor) -> Gaussian:
    """q(x_s | x_t, x_0), s < t: eq. 6 and 7. At s = 0 it is x_0 itself, with variance 0."""
    return reverse(schedule, x_t, x_0, s, t, Variance.small)


def reverse(
    schedule: Schedule, x_t: Tensor, x_0: Tensor, s: Tensor, t: Tensor, variance: ReverseVariance, share: Tensor | None = None
) -> Gaussian:
    """p(x_s | x_t), s < t, for an estimate x_0 from x_t. `share`: v (B, ...) of the learned variance, for which s > 0."""
    c = coefficients(schedule, s, t)
    mean = _rows(c.of_x_t, x_t) * x_t + _rows(c.of_x_0, x_t) * x_0
    if isinstance(variance, Learned):
        assert share is not None, "a learned variance needs v"
        return Gaussian(mean, learned_variance(c.posterior, c.fresh, share))
    return Gaussian(mean, _rows(c.reverse_variance(variance), x_t))


def chain(schedule: Discrete, x_0: Tensor, noise: NoiseSource) -> Iterator[tuple[Tensor, Tensor]]:
    """The Markov chain x_1, x_2, ... x_T step by step: yields (t (B,), x_t), with t = 1/T, 2/T, ... 1."""
    x = x_0
    s = torch.zeros(len(x_0), dtype=torch.float64)
    for step in range(1, schedule.num_steps + 1):
        t = torch.full_like(s, step / schedule.num_steps)
        x = transition(schedule, x, s, t).sample(noise)
        yield t, x
        s = t


def _rows(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like).reshape(-1, *[1] * (like.ndim - 1))  # (B,) -> (B, 1, ...)
