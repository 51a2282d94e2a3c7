"""UniPC (Zhao, Bai, Rao, Zhou & Lu 2023, arXiv 2302.04867): a predictor, and a corrector that needs no call of its own.

Data prediction, lambda = log(alpha/sigma), h = lambda_s - lambda_t, z = -h; m_0 the estimate of x_0 at t, m_i those of the
steps before, r_i = (lambda_i - lambda_t) / h:

    x_s = sigma_s/sigma_t x_t - alpha_s (e^z - 1) m_0 - alpha_s B(z) sum_i a_i (m_i - m_0) / r_i
    sum_i a_i r_i^(n-1) = n! z phi_(n+1)(z) / B(z),  n = 1, 2, ...;   phi_k(z) = sum_j z^j / (j + k)!

(eq. 5-9 and appendix; B(z) = z is B1 or bh1, B(z) = e^z - 1 is B2 or bh2). The predictor UniP-p has the p - 1 terms of
the past. The network's answer m_s at its x_s then gives UniC-p, the same step again with the term r = 1, m_s - m_0; from
there the next predictor goes on. Where one unknown is left, a = 1/2 as published: it is of the same order.

Steps that are infinite in lambda, from alpha = 0 and to sigma = 0, are of order 1 and are not corrected.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sfumato.diffusion.grids import Spacing
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError
from sfumato.noise import NoiseSource
from sfumato.samplers.base import Point, Stepper, clocks, points

MAX_ORDER = 3


class BH(enum.Enum):
    """B(h): bh1 is h, bh2 is e^h - 1 (of z = -h)."""

    bh1 = "bh1"
    bh2 = "bh2"


@dataclass(frozen=True)
class Update:
    """x_s = keep x_t + sum_i weights[i] m_i, the newest estimate first."""

    keep: float
    weights: tuple[float, ...]

    def __call__(self, x: Tensor, estimates: Sequence[Tensor]) -> Tensor:
        total = self.keep * x
        for weight, estimate in zip(self.weights, estimates, strict=True):
            total = total + weight * estimate
        return total


@dataclass(frozen=True)
class UniPC:
    """`order` p of the predictor, 1 ... 3: 2 for guided sampling, 3 without guidance, say the authors.

    lower_order_final: the last steps have the orders ..., 2, 1, for stability in few steps (published default).
    """

    order: int = 2
    variant: BH = BH.bh2
    corrector: bool = True
    lower_order_final: bool = True
    spacing: Spacing = Spacing.karras

    def __post_init__(self) -> None:
        if self.order not in range(1, MAX_ORDER + 1):
            raise InputError(f"order {self.order} of UniPC: expected 1 ... {MAX_ORDER}.")

    def num_calls(self, num_steps: int) -> int:
        """One call a step."""
        return num_steps

    def steps(self, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
        """See `Sampler.steps`."""
        stops, clock = points(schedule, times), clocks(times, x)
        orders = step_orders(stops, self.order, self.lower_order_final)
        predictors = [self._update(stops, i, order, correct=False) for i, order in enumerate(orders)]
        correctors = [self._update(stops, i, order, correct=True) for i, order in enumerate(orders[:-1])]
        estimates: list[Tensor] = []
        base = x  # where the last predictor began
        for i, predictor in enumerate(predictors):
            x_0 = yield x, clock[i]
            if i > 0 and self.corrector and _finite(stops, i - 1):
                x = correctors[i - 1](base, [x_0, *estimates[: orders[i - 1]]])
            estimates = [x_0, *estimates][:MAX_ORDER]
            base, x = x, predictor(x, estimates[: orders[i]])
        return x

    def _update(self, stops: list[Point], i: int, order: int, correct: bool) -> Update:
        """Step i by UniP-`order`, or again by UniC-`order`, whose newest estimate is that at the end of the step."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = stops[i], stops[i + 1]
        shrink = alpha_t * sigma_s / (alpha_s * sigma_t)  # e^z, also where h is infinite
        keep, newest = sigma_s / sigma_t, alpha_s * (1 - shrink)
        if not _finite(stops, i):
            return Update(keep, (newest, 0.0) if correct else (newest,))
        lambdas = [log_ratio(stop) for stop in stops[i + 1 - order : i + 2]]
        h = lambdas[-1] - lambdas[-2]
        ratios = [(value - lambdas[-2]) / h for value in reversed(lambdas[:-2])] + ([1.0] if correct else [])
        z = -h
        b = z if self.variant is BH.bh1 else math.expm1(z)
        weights = [-alpha_s * b * a / r for a, r in zip(solve(ratios, z, b), ratios, strict=True)]
        past = weights[:-1] if correct else weights
        result = (newest - sum(weights), *past)
        return Update(keep, (weights[-1], *result) if correct else result)


def step_orders(stops: list[Point], order: int, lower_order_final: bool) -> list[int]:
    """The order of every step: as many estimates as there are, 1 for a step of infinite h, none from before such a step."""
    result, count = [], len(stops) - 1
    for i in range(count):
        if not _finite(stops, i):
            result.append(1)
            continue
        known = 1
        while known <= i and _finite(stops, i - known):
            known += 1
        result.append(min(order, known, count - i if lower_order_final else order))
    return result


def solve(ratios: Sequence[float], z: float, b: float) -> list[float]:
    """a_i of the conditions above; 1/2 for one unknown."""
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    powers = np.vander(np.array(ratios), increasing=True).T  # (n, i): r_i^(n-1)
    right = [math.factorial(n) * z * phi(n + 1, z) / b for n in range(1, len(ratios) + 1)]
    return [float(a) for a in np.linalg.solve(powers, np.array(right))]


def phi(k: int, z: float) -> float:
    """phi_k(z) = sum_j z^j / (j + k)!; phi_0 = e^z and phi_(k+1) = (phi_k - 1/k!) / z, which loses digits at small z."""
    if abs(z) < 1:
        return sum(z**j / math.factorial(j + k) for j in range(20))
    value = math.exp(z)
    for i in range(k):
        value = (value - 1 / math.factorial(i)) / z
    return value


def log_ratio(stop: Point) -> float:
    """lambda = log(alpha / sigma) of a point where both are positive."""
    alpha, sigma = stop
    return math.log(alpha / sigma)


def _finite(stops: list[Point], i: int) -> bool:
    """Whether step i is finite in lambda."""
    return stops[i][0] > 0 and stops[i + 1][1] > 0
