"""DDIM and the one-step family around it (Song, Meng & Ermon 2020, arXiv 2010.02502, eq. 12 and 16), from t to s < t:

    x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps + std noise,   eps = (x_t - alpha_t x_0) / sigma_t
    std = eta sqrt(Var q(x_s | x_t, x_0))

eta = 0 is the Euler step of d(x/alpha) = eps d(sigma/alpha), and of every rescaling of it: for the rectified schedule it is
x_s = x_t + (s - t)(eps - x_0). eta = 1 is ancestral sampling with the small posterior variance. So Euler and Euler ancestral
(Karras et al. 2022, arXiv 2206.00364; k-diffusion) are the same update on a grid of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from sfumato.diffusion.grids import Spacing
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError
from sfumato.noise import NoiseSource
from sfumato.samplers.base import Point, Stepper, clocks, points, posterior_variance


@dataclass(frozen=True)
class DDIM:
    """eta in [0, 1] goes from the deterministic flow to ancestral sampling."""

    eta: float = 0.0
    spacing: Spacing = Spacing.trailing

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta {self.eta}: expected a number from 0 (deterministic) to 1 (ancestral).")

    def num_calls(self, num_steps: int) -> int:
        """One call a step."""
        return num_steps

    def steps(self, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
        """See `Sampler.steps`."""
        return _walk(self.eta, schedule, times, x, noise)


@dataclass(frozen=True)
class Euler:
    """Euler's method on the probability flow in the variable sigma / alpha: order 1, the flow step if rectified."""

    spacing: Spacing = Spacing.linspace

    def num_calls(self, num_steps: int) -> int:
        """One call a step."""
        return num_steps

    def steps(self, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
        """See `Sampler.steps`."""
        return _walk(0.0, schedule, times, x, noise)


@dataclass(frozen=True)
class EulerAncestral:
    """An Euler step down to sigma_down, then noise up to sigma_s (k-diffusion's Euler a): the update of DDIM(eta = 1)."""

    spacing: Spacing = Spacing.linspace

    def num_calls(self, num_steps: int) -> int:
        """One call a step."""
        return num_steps

    def steps(self, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
        """See `Sampler.steps`."""
        return _walk(1.0, schedule, times, x, noise)


def coefficients(at: Point, to: Point, eta: float) -> tuple[float, float, float]:
    """(a, b, c) of x_s = a x_t + b x_0 + c noise, from `at` = (alpha_t, sigma_t) to `to` = (alpha_s, sigma_s)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    variance = eta**2 * posterior_variance(at, to)
    keep = math.sqrt(max(0.0, sigma_s**2 - variance)) / sigma_t
    return keep, alpha_s - keep * alpha_t, math.sqrt(variance)


def _walk(eta: float, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
    stops, clock = points(schedule, times), clocks(times, x)
    plan = [coefficients(at, to, eta) for at, to in pairwise(stops)]
    for t, (a, b, c) in zip(clock, plan, strict=False):
        x_0 = yield x, t
        x = a * x + b * x_0
        if c > 0:
            x = x + c * noise(x)
    return x
