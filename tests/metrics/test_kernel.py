"""Kernel distance: against loops, unbiased on equal distributions, right on a known pair."""

from __future__ import annotations

import itertools

import pytest
import torch

from sfumato.metrics.kernel import kernel_distance, kernel_interval


def normal(n: int, dim: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_agrees_with_loops() -> None:
    a, b = normal(5, 3, 0), normal(4, 3, 1)

    def k(u: torch.Tensor, v: torch.Tensor) -> float:
        return (u.dot(v).item() / 3 + 1) ** 3

    def within(f: torch.Tensor) -> float:
        pairs = list(itertools.permutations(f, 2))
        return sum(k(u, v) for u, v in pairs) / len(pairs)

    cross = sum(k(u, v) for u in a for v in b) / 20
    assert kernel_distance(a, b) == pytest.approx(within(a) + within(b) - 2 * cross, rel=1e-12)


def test_unbiased_for_equal_distributions() -> None:
    values = torch.tensor([kernel_distance(normal(20, 4, 2 * s), normal(20, 4, 2 * s + 1)) for s in range(400)])
    error = values.std() / 20
    assert values.mean().abs() < 3 * error
    assert (values < 0).any()


def test_mean_shift_in_one_dimension() -> None:
    """k = (uv + 1)^3 in one dimension has the features 1, sqrt3 u, sqrt3 u^2, u^3: mmd^2 is the distance of their means."""
    shift = 0.5
    # N(m, 1): E u = m, E u^2 = 1 + m^2, E u^3 = m^3 + 3 m
    wanted = 3 * shift**2 + 3 * (shift**2) ** 2 + (shift**3 + 3 * shift) ** 2
    assert kernel_distance(normal(4000, 1, 0), normal(4000, 1, 1, shift)) == pytest.approx(wanted, rel=0.15)


def test_interval_covers_and_is_seeded() -> None:
    truth = 3 * 0.25 + 3 * 0.0625 + (0.125 + 1.5) ** 2
    covered = 0
    for s in range(40):
        a, b = normal(200, 1, 2 * s), normal(200, 1, 2 * s + 1, 0.5)
        found = kernel_interval(a, b, torch.Generator().manual_seed(s), num_subsets=60)
        assert found.low <= found.high
        covered += found.low <= truth <= found.high
    assert covered >= 30
    a, b = normal(50, 2, 0), normal(50, 2, 1)
    once, again = (kernel_interval(a, b, torch.Generator().manual_seed(3)) for _ in range(2))
    assert once == again
    assert once.value == kernel_distance(a, b)


def test_needs_two_features() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(normal(1, 2, 0), normal(5, 2, 0))
