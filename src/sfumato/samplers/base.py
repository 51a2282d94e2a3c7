"""What a sampler is: a generator that sees (x_t, t) and an estimate of x_0, one step at a time.

    stepper = sampler.steps(schedule, times, x, noise)
    x_t, t = next(stepper)                     # where the network is asked
    x_t, t = stepper.send(x_0)                 # ... and so on, until StopIteration, whose value is the sample

All samplers here walk on x_t = alpha_t x_0 + sigma_t eps, for every alpha and sigma, and all start from the same x: standard
normal noise, also where times[0] < 1 (at unit scale x_t has variance alpha^2 + sigma^2 of the variance-preserving
schedules, 1, at every t). k-diffusion's own first scale, x / alpha = (sigma / alpha) noise, differs from it by sigma_1,
0.2 % for the paper's schedule. alpha = 0 at t = 1 (rectified, zero terminal SNR) is fine for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Protocol

import torch
from torch import Tensor

from sfumato.diffusion.grids import Spacing
from sfumato.diffusion.schedule import Schedule
from sfumato.noise import NoiseSource

Stepper = Generator[tuple[Tensor, Tensor], Tensor, Tensor]
"""Yields (x_t (B, ...), t (B,)), is sent x_0 (B, ...), returns the sample (B, ...)."""

Point = tuple[float, float]
"""(alpha, sigma) at one time of a plan."""


class Sampler(Protocol):
    """A frozen dataclass of a sampler's own settings."""

    @property
    def spacing(self) -> Spacing:
        """The plan of times that this sampler is used with unless told otherwise."""

    def steps(self, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
        """Walk from x (B, ...) at times[0] to times[-1]; `times` is (N + 1,), descending. fp32 or float64 x."""

    def num_calls(self, num_steps: int) -> int:
        """How often `steps` yields for a plan of `num_steps` steps."""


def run(
    sampler: Sampler,
    schedule: Schedule,
    times: Tensor,
    x: Tensor,
    noise: NoiseSource,
    denoise: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Drive `sampler` to its end with `denoise(x_t, t) -> x_0` and return the sample."""
    stepper = sampler.steps(schedule, times, x, noise)
    try:
        x_t, t = next(stepper)
        while True:
            x_t, t = stepper.send(denoise(x_t, t))
    except StopIteration as stop:
        sample: Tensor = stop.value
        return sample


def points(schedule: Schedule, times: Tensor) -> list[Point]:
    """(alpha, sigma) at every time of a plan, as floats on the host, so that no later step waits for a device."""
    assert times.ndim == 1, f"a plan of times has one dimension, not {times.ndim}"
    assert len(times) >= 2, "a plan of times has at least a start and an end"
    alpha, sigma = schedule(times.to("cpu", torch.float64))
    return list(zip(alpha.tolist(), sigma.tolist(), strict=True))


def scales(schedule: Schedule, times: Tensor, largest_ratio: float) -> list[Point]:
    """(n, sigma) at every time of a plan, for methods that walk on y = x / n over p = sigma / n.

    n = alpha (dy/dp = eps) where sigma/alpha is at most `largest_ratio` all along the schedule, else n = alpha + sigma
    (dy/dp = eps - x_0, p <= 1), which alone is defined where alpha = 0.
    """
    ratio = float(schedule.sigma_ratio(torch.ones((), dtype=torch.float64)))
    flow = ratio > largest_ratio or math.isinf(ratio)
    return [(alpha + sigma if flow else alpha, sigma) for alpha, sigma in points(schedule, times)]


def clocks(times: Tensor, x: Tensor) -> list[Tensor]:
    """Every time of a plan as a (B,) tensor on the device of x: fp32, or float64 if x is."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return [t.expand(len(x)) for t in times.to(x.device, dtype)]


def posterior_variance(at: Point, to: Point) -> float:
    """Variance of q(x_s | x_t, x_0) for s < t: sigma_s^2 (1 - (alpha_t sigma_s)^2 / (alpha_s sigma_t)^2)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at, to
    shrink = alpha_t * sigma_s / (alpha_s * sigma_t)
    return sigma_s**2 * max(0.0, 1 - shrink**2)
