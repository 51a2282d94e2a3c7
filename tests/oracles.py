"""Data for which the best denoiser and the probability flow are known on paper, elementwise and in float64.

x_t = alpha x_0 + sigma eps with x_0 ~ N(mean, std^2) has x_t ~ N(alpha mean, alpha^2 std^2 + sigma^2), and

    E[x_0 | x_t] = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha mean)

The flow is the monotone map between the marginals: (x_t - alpha mean) / sqrt(alpha^2 std^2 + sigma^2) stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.diffusion.schedule import Schedule


@dataclass(frozen=True)
class GaussianData:
    """x_0 ~ N(mean, std^2), each element for itself."""

    mean: float = 0.3
    std: float = 0.5

    def denoiser(self, schedule: Schedule) -> Callable[[Tensor, Tensor], Tensor]:
        """(x_t (B, ...), t (B,)) -> E[x_0 | x_t]."""

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = (v.reshape(-1, *[1] * (x_t.ndim - 1)) for v in schedule(t))
            gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
            return self.mean + gain * (x_t - alpha * self.mean)

        return denoise

    def moments(self, schedule: Schedule, t: float) -> tuple[float, float]:
        """Mean and standard deviation of x_t."""
        alpha, sigma = (float(v) for v in schedule(torch.tensor(t, dtype=torch.float64)))
        return alpha * self.mean, math.sqrt(alpha**2 * self.std**2 + sigma**2)

    def flow(self, schedule: Schedule, x: Tensor, start: float, end: float) -> Tensor:
        """Where the probability flow takes x from `start` to `end`."""
        mean_t, std_t = self.moments(schedule, start)
        mean_s, std_s = self.moments(schedule, end)
        return mean_s + std_s / std_t * (x - mean_t)


@dataclass(frozen=True)
class MixtureData:
    """x_0 ~ sum_i weights[i] N(means[i], stds[i]^2), each element for itself."""

    weights: tuple[float, ...] = (0.3, 0.7)
    means: tuple[float, ...] = (-1.0, 0.8)
    stds: tuple[float, ...] = (0.2, 0.3)

    def denoiser(self, schedule: Schedule) -> Callable[[Tensor, Tensor], Tensor]:
        """(x_t (B, ...), t (B,)) -> E[x_0 | x_t]."""

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = (v.reshape(-1, *[1] * x_t.ndim) for v in schedule(t))  # one more axis: the parts
            weights, means, stds = (x_t.new_tensor(v) for v in (self.weights, self.means, self.stds))
            x = x_t[..., None]
            variance = alpha**2 * stds**2 + sigma**2
            share = torch.softmax(weights.log() - 0.5 * variance.log() - 0.5 * (x - alpha * means) ** 2 / variance, -1)
            return (share * (means + alpha * stds**2 / variance * (x - alpha * means))).sum(-1)

        return denoise

    @property
    def mean(self) -> float:
        """E[x_0]."""
        return sum(w * m for w, m in zip(self.weights, self.means, strict=True))

    @property
    def variance(self) -> float:
        """Var[x_0]."""
        second = sum(w * (m**2 + s**2) for w, m, s in zip(self.weights, self.means, self.stds, strict=True))
        return second - self.mean**2


@dataclass(frozen=True)
class CorrelatedData:
    """x_0 ~ N(mean, covariance) over all elements of a row together.

    E[x_0 | x_t] = mean + G (x_t - alpha mean),  G = alpha C (alpha^2 C + sigma^2 I)^-1,  Cov[x_0 | x_t] = C - alpha G C
    """

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]

    def gain(self, schedule: Schedule, t: float) -> Tensor:
        """G (n, n) at t, float64."""
        alpha, sigma = (float(v) for v in schedule(torch.tensor(t, dtype=torch.float64)))
        c = torch.tensor(self.covariance, dtype=torch.float64)
        return alpha * c @ torch.linalg.inv(alpha**2 * c + sigma**2 * torch.eye(len(c), dtype=torch.float64))

    def uncertainty(self, schedule: Schedule, t: float) -> Tensor:
        """Cov[x_0 | x_t] (n, n), float64: the same for every x_t."""
        alpha, _ = (float(v) for v in schedule(torch.tensor(t, dtype=torch.float64)))
        c = torch.tensor(self.covariance, dtype=torch.float64)
        return c - alpha * self.gain(schedule, t) @ c

    def denoiser(self, schedule: Schedule) -> Callable[[Tensor, Tensor], Tensor]:
        """(x_t (B, ...), t (B,), all the same) -> E[x_0 | x_t]."""

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            alpha, _ = schedule(t[:1].double())
            mean = torch.tensor(self.mean, dtype=torch.float64)
            flat = mean + (x_t.flatten(1).double() - alpha * mean) @ self.gain(schedule, float(t[0])).T
            return flat.view(x_t.shape).to(x_t)

        return denoise
