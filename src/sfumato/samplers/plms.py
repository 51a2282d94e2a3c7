"""Linear multistep methods on the probability flow: one call a step, the slopes of the steps before remembered.

    y = x / n,  p = sigma / n,  d = dy/dp = (x - n x_0) / sigma
    y_s = y_t + (p_s - p_t) sum_j w_j d_j,   sum_j w_j = 1,   d_0 at t, d_1 one step before, ...

PLMS (Liu, Ren, Lin & Zhao 2022, arXiv 2202.09778, eq. 9 and 12; in the paper's code) takes the Adams-Bashforth weights of
equal steps, up to order 4: 1; (3, -1)/2; (23, -16, 5)/12; (55, -59, 37, -9)/24. Its steps are equal in t, not in p, so that
its order is 2, and grids of unequal steps in t (Karras, exponential) are not for it. LMS (k-diffusion) integrates the
polynomial in p through the last slopes exactly, which is right on any grid.

With n = alpha, d is eps and the update is the published one. Where sigma/alpha passes 1,000 (cosine, rectified, zero terminal
SNR, for which nothing was published), n = alpha + sigma, since a sum of slopes times so large a p would not be finite.
The slopes are those of eps whatever the network predicts; PNDMScheduler of diffusers sums v where the network predicts v.
"""

from __future__ import annotations

import enum
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion.grids import PURE_NOISE, Spacing
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError
from sfumato.noise import NoiseSource
from sfumato.samplers.base import Point, Stepper, clocks, scales

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights of the newest slope, the one before, ... by how many there are."""

MAX_ORDER = len(ADAMS_BASHFORTH)


class PLMSStart(enum.Enum):
    """How PLMS begins, while slopes are missing.

    improved_euler: the first step once as Euler's, and again from where it began with the mean of the slopes at both ends: two
        calls. This is the pseudo improved Euler step of CompVis' code and of PNDMScheduler(skip_prk_steps=True) in diffusers,
        where the second call is seen as a time that comes twice.
    runge_kutta: the first three steps by pseudo Runge-Kutta, four calls each, two of them between the times of the plan: the
        F-PNDM of Liu et al., algorithm 2; PNDMScheduler(skip_prk_steps=False).
    """

    improved_euler = "improved_euler"
    runge_kutta = "runge_kutta"


@dataclass(frozen=True)
class PLMS:
    """Pseudo linear multistep. `largest_ratio`: up to which sigma/alpha at t = 1 steps are taken in sigma/alpha.

    The last step, to where the network is not asked, is always a multistep one: a plan of one step is Euler's. The published
    grid is `Spacing.leading`; the default one ends clean.
    """

    start: PLMSStart = PLMSStart.improved_euler
    spacing: Spacing = Spacing.linspace
    largest_ratio: float = PURE_NOISE

    def num_calls(self, num_steps: int) -> int:
        """N + 1, or N + 9 with the Runge-Kutta start; fewer where N < 2 or N < 4."""
        if self.start is PLMSStart.improved_euler:
            return num_steps + min(1, num_steps - 1)
        return num_steps + 3 * min(3, num_steps - 1)

    def steps(self, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
        """See `Sampler.steps`."""
        middle = (times[:-1] + times[1:]) / 2
        stops, halves = (scales(schedule, t, self.largest_ratio) for t in (times, _padded(middle)))
        clock, half_clock = clocks(times, x), clocks(middle, x)
        slopes: list[Tensor] = []
        for i, (at, to) in enumerate(pairwise(stops)):
            x_0 = yield x, clock[i]
            slope = slope_at(x, x_0, at)
            last = i == len(stops) - 2
            if self.start is PLMSStart.improved_euler and i == 0 and not last:
                guess = advance(x, x_0, at, to)
                after = slope_at(guess, (yield guess, clock[1]), to)
                change = 0.5 * (after - slope)
            elif self.start is PLMSStart.runge_kutta and i < 3 and not last:
                change = yield from _runge_kutta(x, x_0, (at, halves[i], to), (half_clock[i], clock[i + 1]))
            else:
                weights = ADAMS_BASHFORTH[len(slopes)]
                change = combine((weights[0] - 1, *weights[1:]), (slope, *slopes))
            slopes = [slope, *slopes][: MAX_ORDER - 1]
            x = advance(x, x_0, at, to, change)
        return x


@dataclass(frozen=True)
class LMS:
    """Linear multistep with the weights of the plan's own steps. `order`: 1 ... 4, how many slopes are used.

    `largest_ratio`: up to which sigma/alpha at t = 1 steps are taken in sigma/alpha, as k-diffusion does.
    """

    order: int = 4
    spacing: Spacing = Spacing.linspace
    largest_ratio: float = PURE_NOISE

    def __post_init__(self) -> None:
        if self.order not in range(1, MAX_ORDER + 1):
            raise InputError(f"order {self.order} of LMS: expected 1 ... {MAX_ORDER}.")

    def num_calls(self, num_steps: int) -> int:
        """One call a step."""
        return num_steps

    def steps(self, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
        """See `Sampler.steps`."""
        stops, clock = scales(schedule, times, self.largest_ratio), clocks(times, x)
        positions = [sigma / n for n, sigma in stops]
        plan = [lagrange_weights(positions[max(0, i + 1 - self.order) : i + 2]) for i in range(len(stops) - 1)]
        slopes: list[Tensor] = []
        for i, (at, to) in enumerate(pairwise(stops)):
            x_0 = yield x, clock[i]
            slopes = [slope_at(x, x_0, at), *slopes][: self.order]
            x = advance(x, x_0, at, to, combine((plan[i][0] - 1, *plan[i][1:]), slopes))
        return x


def slope_at(x: Tensor, x_0: Tensor, at: Point) -> Tensor:
    """dy/dp at `at` = (n, sigma)."""
    n, sigma = at
    return (x - n * x_0) / sigma


def advance(x: Tensor, x_0: Tensor, at: Point, to: Point, change: Tensor | None = None) -> Tensor:
    """x at `to` by Euler's step, whose slope is changed by `change`.

    n_s (y + (p_s - p_t) d) written as a x + b x_0, so that a large p meets no difference of large numbers.
    """
    (n_t, sigma_t), (n_s, sigma_s) = at, to
    keep = sigma_s / sigma_t
    x = keep * x + (n_s - keep * n_t) * x_0
    return x if change is None else x + n_s * (sigma_s / n_s - sigma_t / n_t) * change


def combine(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """sum_j w_j d_j."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        total = total + weight * slope
    return total


def lagrange_weights(positions: Sequence[float]) -> tuple[float, ...]:
    """w_j of a step from positions[-2] to positions[-1], for slopes known at positions[:-1], the newest first.

    w_j = 1 / (p_s - p_t) times the integral over the step of the Lagrange polynomial that is 1 at position j.
    """
    *known, start, end = positions
    scale = end - start  # in units of the step the polynomials are well conditioned, whatever p is
    nodes = [(p - start) / scale for p in (start, *reversed(known))]
    weights = []
    for j, node in enumerate(nodes):
        others = nodes[:j] + nodes[j + 1 :]
        integral = np.polynomial.Polynomial.fromroots(others).integ() if others else np.polynomial.Polynomial([0.0, 1.0])
        weights.append(float(integral(1.0) - integral(0.0)) / float(np.prod([node - other for other in others])))
    return tuple(weights)


def _runge_kutta(
    x: Tensor, x_0: Tensor, stops: tuple[Point, Point, Point], clock: tuple[Tensor, Tensor]
) -> Generator[tuple[Tensor, Tensor], Tensor, Tensor]:
    """The change of slope of a step (start, middle, end) by pseudo Runge-Kutta: (d_1 + 2 d_2 + 2 d_3 + d_4) / 6 - d_1."""
    at, middle, to = stops
    first = slope_at(x, x_0, at)
    guess = advance(x, x_0, at, middle)
    second = slope_at(guess, (yield guess, clock[0]), middle)
    guess = advance(x, x_0, at, middle, second - first)
    third = slope_at(guess, (yield guess, clock[0]), middle)
    guess = advance(x, x_0, at, to, third - first)
    fourth = slope_at(guess, (yield guess, clock[1]), to)
    return (2 * second + 2 * third + fourth - 5 * first) / 6


def _padded(times: Tensor) -> Tensor:
    """A plan has at least two times."""
    return torch.cat([times, times[-1:]])
