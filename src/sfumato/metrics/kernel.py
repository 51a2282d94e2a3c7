"""Kernel distance: squared maximum mean discrepancy with a cubic polynomial kernel.

    k(u, v) = (u.v / D + 1)^3
    mmd^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)

(Gretton et al. 2012, JMLR 13, eq. 3; Binkowski et al. 2018, arXiv 1801.01401, section 4). Unbiased at every number of
pictures, so that it can be negative for equal distributions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.metrics.bootstrap import Interval


def polynomial(u: Tensor, v: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M)."""
    return (u @ v.T / u.shape[1] + 1) ** 3


def _off_diagonal_mean(gram: Tensor) -> Tensor:
    n = len(gram)
    return (gram.sum() - gram.diagonal().sum()) / (n * (n - 1))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased mmd^2 of (N, D) and (M, D) features, at least 2 each."""
    if min(len(a), len(b)) < 2:
        raise ValueError(f"the kernel distance needs at least 2 features a side, not {len(a)} and {len(b)}.")
    a, b = a.double(), b.double()
    within = _off_diagonal_mean(polynomial(a, a)) + _off_diagonal_mean(polynomial(b, b))
    return (within - 2 * polynomial(a, b).mean()).item()


def kernel_interval(
    a: Tensor, b: Tensor, rng: torch.Generator, *, num_subsets: int = 100, subset: int | None = None, level: float = 0.95
) -> Interval:
    """`kernel_distance` with an interval by subsampling (Politis & Romano 1994).

    Subsets of m = `subset` (default: a quarter) of each side, drawn without replacement, give estimates that spread wider than
    the whole set's by a factor of at least sqrt(n / m); the interval is their centred quantiles times sqrt(m / n).
    """
    smaller = min(len(a), len(b))
    size = max(2, smaller // 4 if subset is None else min(subset, smaller))
    value = kernel_distance(a, b)
    draws = [
        kernel_distance(
            a[torch.randperm(len(a), generator=rng)[:size]],
            b[torch.randperm(len(b), generator=rng)[:size]],
        )
        for _ in range(num_subsets)
    ]
    spread = torch.tensor(draws, dtype=torch.float64)
    spread = (spread - spread.mean()) * (size / smaller) ** 0.5
    low, high = torch.quantile(spread, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Interval(value, value + low, value + high, level)
