"""Bootstrap intervals: the normal theory's width, coverage, seeds, the centred form."""

from __future__ import annotations

import math

import pytest
import torch

from sfumato.metrics.bootstrap import Interval, bootstrap, mean_interval


def normal(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_width_is_that_of_the_normal_theory() -> None:
    values = normal(400, 0)
    found = mean_interval(values, torch.Generator().manual_seed(0), 4000)
    half = 1.96 * values.std(correction=0).item() / 20
    assert found.value == pytest.approx(values.mean().item())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)


def test_coverage() -> None:
    found = [mean_interval(normal(60, s), torch.Generator().manual_seed(s), 300) for s in range(200)]
    share = sum(i.low <= 0 <= i.high for i in found) / 200
    assert 0.88 <= share <= 0.99


def test_seeded() -> None:
    values = normal(20, 0)
    once, again = (mean_interval(values, torch.Generator().manual_seed(1)) for _ in range(2))
    assert once == again
    assert Interval(2.0, 1.0, 4.0, 0.9).scaled(0.5) == Interval(1.0, 0.5, 2.0, 0.9)


def test_centred_interval_lies_around_a_biased_statistic() -> None:
    """The number of distinct items shrinks to 1 - 1/e on every resample; the centred interval still holds the value."""
    rng = torch.Generator().manual_seed(0)

    def distinct(index: torch.Tensor) -> float:
        return float(len(index.unique()))

    plain = bootstrap(100, distinct, rng, num_resamples=300)
    centred = bootstrap(100, distinct, rng, num_resamples=300, centred=True)
    assert plain.value == 100
    assert plain.high < 80
    assert plain.low > 100 * (1 - 1 / math.e) - 15
    assert centred.low < 100 < centred.high


@pytest.mark.parametrize("wrong", [{"count": 0}, {"num_resamples": 0}, {"level": 1.0}])
def test_refuses_nonsense(wrong: dict[str, float]) -> None:
    arguments = {"count": 3, "num_resamples": 10, "level": 0.9} | wrong
    with pytest.raises(ValueError, match="bootstrap needs"):
        bootstrap(statistic=lambda index: 0.0, rng=torch.Generator(), **arguments)  # type: ignore[arg-type]
