"""Density and coverage: against plain loops, and against what theory says of equal distributions."""

from __future__ import annotations

import pytest
import torch

from sfumato.metrics import density_coverage as module
from sfumato.metrics.density_coverage import density_coverage, expected_coverage


def normal(n: int, seed: int, shift: float = 0.0, dim: int = 4) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + shift


def by_loops(real: list[list[float]], fake: list[list[float]], k: int) -> tuple[list[float], list[bool]]:
    def far(a: list[float], b: list[float]) -> float:
        return sum((x - y) ** 2 for x, y in zip(a, b)) ** 0.5

    reach = [sorted(far(x, other) for j, other in enumerate(real) if j != i)[k - 1] for i, x in enumerate(real)]
    density = [sum(far(y, x) <= r for x, r in zip(real, reach)) / k for y in fake]
    covered = [any(far(y, x) <= r for y in fake) for x, r in zip(real, reach)]
    return density, covered


@pytest.mark.parametrize("k", [1, 3])
def test_agrees_with_loops(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    real, fake = normal(30, 0), normal(20, 1, 0.7)
    density, covered = density_coverage(real, fake, k)
    wanted = by_loops(real.double().tolist(), fake.double().tolist(), k)
    assert density.tolist() == pytest.approx(wanted[0])
    assert covered.tolist() == wanted[1]
    assert 0 < density.mean() < 1.5
    assert 0 < covered.double().mean() < 1


def test_equal_distributions_have_density_one_and_the_lemmas_coverage() -> None:
    """Exact in expectation: over 400 draws the means lie within four standard errors."""
    found = []
    for seed in range(400):
        density, covered = density_coverage(normal(12, 2 * seed), normal(8, 2 * seed + 1), 3)
        found.append([density.mean(), covered.double().mean()])
    values = torch.tensor(found)
    error = values.std(0) / len(found) ** 0.5
    assert abs(values[:, 0].mean() - 1) < 4 * error[0]
    assert abs(values[:, 1].mean() - expected_coverage(12, 8, 3)) < 4 * error[1]


def test_expected_coverage_by_hand() -> None:
    assert expected_coverage(3, 2, 1) == pytest.approx(1 - 2 / 4)  # the nearest of 4 others is one of 2 real ones
    assert expected_coverage(3, 2, 2) == pytest.approx(1 - (2 * 1) / (4 * 3))
    assert expected_coverage(10**6, 10**6, 5) == pytest.approx(1 - 2**-5, abs=1e-5)
    with pytest.raises(ValueError, match="more than 5"):
        expected_coverage(5, 9)


def test_an_outlier_does_not_vouch_for_everything() -> None:
    """The paper's argument: one far real feature has a ball that holds all far fakes; precision is fooled, density is not."""
    from sfumato.metrics.precision_recall import precision_recall

    real = torch.cat([normal(100, 0), torch.full((1, 4), 60.0)])
    fake = normal(100, 1, 8.0)
    precise, _ = precision_recall(real, fake, 5)
    density, _ = density_coverage(real, fake, 5)
    assert precise.double().mean() == 1
    assert density.mean() == pytest.approx(1 / 5)


def test_a_collapsed_model_covers_little() -> None:
    real = normal(60, 0)
    density, covered = density_coverage(real, real[:1] + 1e-3 * normal(60, 1))
    assert density.mean() > 1
    assert covered.double().mean() < 0.3


def test_needs_more_features_than_neighbours() -> None:
    with pytest.raises(ValueError, match="more than 5"):
        density_coverage(normal(5, 0), normal(9, 1))
