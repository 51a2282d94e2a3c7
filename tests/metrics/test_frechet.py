"""Frechet distance: closed forms, scipy's matrix square root, and rank-deficient covariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from sfumato.metrics.frechet import Moments, frechet_distance, moments


def gaussian(seed: int, dim: int = 6) -> Moments:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dim, dim))
    return Moments(torch.from_numpy(rng.normal(size=dim)), torch.from_numpy(root @ root.T), 100)


def test_moments_are_numpys() -> None:
    features = np.random.default_rng(0).normal(3.0, 2.0, size=(50, 4)).astype(np.float32)
    found = moments(torch.from_numpy(features))
    np.testing.assert_allclose(found.mean.numpy(), features.astype(np.float64).mean(0))
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(features.astype(np.float64).T))
    assert found.count == 50
    with pytest.raises(ValueError, match="at least 2"):
        moments(torch.zeros(1, 4))


def test_agrees_with_scipys_square_root() -> None:
    a, b = gaussian(0), gaussian(1)
    cross = sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    wanted = (a.mean - b.mean).square().sum().item() + np.trace(a.covariance + b.covariance - 2 * np.real(cross))
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(wanted, rel=1e-9)


def test_closed_forms() -> None:
    eye = torch.eye(5, dtype=torch.float64)
    zero = torch.zeros(5, dtype=torch.float64)
    assert frechet_distance(Moments(zero, eye, 9), Moments(zero + 2, eye, 9)) == pytest.approx(20.0)
    assert frechet_distance(Moments(zero, 9 * eye, 9), Moments(zero, 4 * eye, 9)) == pytest.approx(5.0)  # D (3 - 2)^2
    assert frechet_distance(gaussian(2), gaussian(2)) == pytest.approx(0.0, abs=1e-9)


def test_fewer_pictures_than_dimensions() -> None:
    """Two sets of 10 in 64 dimensions: singular covariances, a finite, symmetric, positive answer."""
    rng = torch.Generator().manual_seed(0)
    a, b = (moments(torch.randn(10, 64, generator=rng)) for _ in range(2))
    assert 0 < frechet_distance(a, b) < 200
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-5)


def test_bias_shrinks_with_the_number_of_pictures() -> None:
    """Equal distributions: the estimate falls about as 1 / n."""
    rng = torch.Generator().manual_seed(0)

    def estimate(n: int) -> float:
        draws = [frechet_distance(*(moments(torch.randn(n, 8, generator=rng)) for _ in range(2))) for _ in range(20)]
        return float(np.mean(draws))

    assert 2.5 < estimate(100) / estimate(400) < 6
