"""Bootstrap intervals: how far a number would move for another sample of the same size.

Resample the N items with replacement, recompute the statistic, take the quantiles (Efron 1979). A statistic that is
itself biased at finite N, as the Frechet distance, is biased once more on resamples: `centred` subtracts the resamples'
mean excess, so that the interval lies around the reported value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A value and the interval [low, high] of probability `level` around it."""

    value: float
    low: float
    high: float
    level: float = 0.95

    def scaled(self, factor: float) -> Interval:
        """The same in another unit; `factor` is positive."""
        return Interval(self.value * factor, self.low * factor, self.high * factor, self.level)


def bootstrap(
    count: int,
    statistic: Callable[[Tensor], float],
    rng: torch.Generator,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    centred: bool = False,
) -> Interval:
    """Interval of `statistic`, a function of the indices (N,) of the items it may use."""
    if count < 1 or num_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"bootstrap needs items, resamples and a level in (0, 1), not {count}, {num_resamples}, {level}.")
    value = statistic(torch.arange(count))
    draws = [statistic(torch.randint(count, (count,), generator=rng)) for _ in range(num_resamples)]
    spread = torch.tensor(draws, dtype=torch.float64)
    if centred:
        spread = spread - spread.mean() + value
    low, high = torch.quantile(spread, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Interval(value, low, high, level)


def mean_interval(values: Tensor, rng: torch.Generator, num_resamples: int = 1000, level: float = 0.95) -> Interval:
    """Percentile interval of the mean of (N,) values."""
    values = values.detach().double().cpu()
    return bootstrap(len(values), lambda index: values[index].mean().item(), rng, num_resamples=num_resamples, level=level)
