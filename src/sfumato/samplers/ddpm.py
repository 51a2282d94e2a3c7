"""Ancestral sampling (Ho, Jain & Abbeel 2020, arXiv 2006.11239, eq. 6-7 and algorithm 2), from t to s < t on any grid:

    q(x_s | x_t, x_0) = N(alpha_ts sigma_s^2 / sigma_t^2 x_t + alpha_s sigma_ts^2 / sigma_t^2 x_0,
                          sigma_ts^2 sigma_s^2 / sigma_t^2)
    alpha_ts = alpha_t / alpha_s,   sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2

(the form of Kingma et al. 2021, arXiv 2107.00630, eq. 25-32). The small variance is the one above, right for data at a point;
the large one is sigma_ts^2 (beta_t on the full grid), right for data that is N(0, 1). A learned one lies between them, for
each number by its own v (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 15). The step to sigma = 0 adds no noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from sfumato.diffusion.forward import Learned, ReverseVariance, Variance
from sfumato.diffusion.grids import Spacing
from sfumato.diffusion.schedule import Schedule
from sfumato.noise import NoiseSource
from sfumato.samplers.base import Point, Stepper, clocks, points, posterior_variance


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling. With the learned variance it is sent [x_0, v] along the channels, (B, 2 C, ...)."""

    variance: ReverseVariance = Variance.small
    spacing: Spacing = Spacing.trailing

    def num_calls(self, num_steps: int) -> int:
        """One call a step."""
        return num_steps

    def steps(self, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
        """See `Sampler.steps`."""
        stops, clock = points(schedule, times), clocks(times, x)
        if isinstance(self.variance, Learned):
            return (yield from self._learned(stops, clock, x, noise))
        plan = [coefficients(at, to, self.variance) for at, to in pairwise(stops)]
        for t, (a, b, c) in zip(clock, plan, strict=False):
            x_0 = yield x, t
            x = a * x + b * x_0
            if c > 0:
                x = x + c * noise(x)
        return x

    def _learned(self, stops: list[Point], clock: list[Tensor], x: Tensor, noise: NoiseSource) -> Stepper:
        plans = ([coefficients(at, to, v) for at, to in pairwise(stops)] for v in (Variance.small, Variance.large))
        for t, (a, b, small), (_, _, large) in zip(clock, *plans, strict=False):
            x_0, share = (yield x, t).chunk(2, dim=1)
            x = a * x + b * x_0
            if small > 0:
                x = x + small * (large / small) ** share * noise(x)
        return x


def coefficients(at: Point, to: Point, variance: Variance) -> tuple[float, float, float]:
    """(a, b, c) of x_s = a x_t + b x_0 + c noise, from `at` = (alpha_t, sigma_t) to `to` = (alpha_s, sigma_s)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    ratio = alpha_t / alpha_s
    fresh = sigma_t**2 - ratio**2 * sigma_s**2  # sigma_ts^2
    if variance is Variance.small:
        spread = posterior_variance(at, to)
    else:
        spread = fresh if sigma_s > 0 else 0.0
    return ratio * (sigma_s / sigma_t) ** 2, alpha_s * fresh / sigma_t**2, math.sqrt(max(0.0, spread))
