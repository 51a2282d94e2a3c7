"""DPM-Solver++ SDE, the stochastic single-step solver of k-diffusion (`sample_dpmpp_sde`, r = 1/2, eta = 1), with
lambda = log(alpha/sigma) (after Lu et al. 2022, arXiv 2211.01095, algorithm 1 and section 5), from t to s < t:

    u: lambda_u = (lambda_t + lambda_s) / 2
    x_u = ancestral step from x_t to u with x_0(t);   x_s = ancestral step from x_t to s with x_0(u)

where an ancestral step is that of DDIM(eta = 1). The noise of the whole step continues that of its half, as the increments of
one Brownian motion over p = sigma/alpha do:

    n = sqrt((p_t - p_u) / (p_t - p_s)) n_1 + sqrt((p_u - p_s) / (p_t - p_s)) n_2
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sfumato.diffusion.grids import Spacing
from sfumato.diffusion.schedule import Schedule
from sfumato.noise import NoiseSource
from sfumato.samplers.base import Stepper, clocks, points
from sfumato.samplers.ddim import coefficients


@dataclass(frozen=True)
class DPMSolverPPSDE:
    """Two calls a step, one in the last, which is to x_0."""

    spacing: Spacing = Spacing.karras

    def num_calls(self, num_steps: int) -> int:
        """2N - 1."""
        return 2 * num_steps - 1

    def steps(self, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
        """See `Sampler.steps`."""
        middle = _between(schedule, times.to("cpu", torch.float64))
        stops, clock = points(schedule, times), clocks(times, x)
        halves, half_clock = points(schedule, torch.cat([middle, middle[-1:]])), clocks(middle, x)
        last = len(stops) - 2
        for i, (at, to) in enumerate(pairwise(stops)):
            x_0 = yield x, clock[i]
            a, b, c = coefficients(at, to, 1.0)
            if i == last:
                x = a * x + b * x_0
                return x + c * noise(x) if c > 0 else x
            a_u, b_u, c_u = coefficients(at, halves[i], 1.0)
            first = noise(x)
            x_u = a_u * x + b_u * x_0 + c_u * first
            x_0 = yield x_u, half_clock[i]
            old = _share(at, halves[i], to)
            fresh = old * first + math.sqrt(max(0.0, 1 - old**2)) * noise(x)
            x = a * x + b * x_0 + c * fresh
        return x


def _between(schedule: Schedule, times: Tensor) -> Tensor:
    """The time in the middle of every step (N,): of log(sigma/alpha), but of t where that is infinite at an end."""
    ratio = schedule.sigma_ratio(times)
    product = ratio[:-1] * ratio[1:]
    finite = (product > 0) & product.isfinite()
    by_ratio = schedule.inverse_ratio(torch.where(finite, product, torch.ones_like(product)).sqrt())
    return torch.where(finite, by_ratio, (times[:-1] + times[1:]) / 2)


def _share(at: tuple[float, float], middle: tuple[float, float], to: tuple[float, float]) -> float:
    """sqrt((p_t - p_u) / (p_t - p_s)); 1 from infinite p."""
    if at[0] == 0:
        return 1.0
    p_t, p_u, p_s = (sigma / alpha for alpha, sigma in (at, middle, to))
    return math.sqrt((p_t - p_u) / (p_t - p_s))
