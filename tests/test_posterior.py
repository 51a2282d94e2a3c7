"""q(z | x) against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sfumato.posterior import DiagonalGaussian


@pytest.fixture
def q() -> DiagonalGaussian:
    rng = torch.Generator().manual_seed(1)
    shape = (3, 2, 4, 5)
    return DiagonalGaussian(
        torch.randn(shape, generator=rng, dtype=torch.float64), torch.randn(shape, generator=rng, dtype=torch.float64)
    )


def normal(q: DiagonalGaussian) -> Normal:
    assert q.log_variance is not None
    return Normal(q.mean, (0.5 * q.log_variance).exp())


def test_kl_and_density(q: DiagonalGaussian) -> None:
    kl = kl_divergence(normal(q), Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(q.kl(), kl)
    z = torch.randn(q.mean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(q.log_prob(z), normal(q).log_prob(z).sum((1, 2, 3)))


def test_standard_normal_has_no_divergence() -> None:
    zero = torch.zeros(2, 3, 4, 4)
    assert torch.equal(DiagonalGaussian(zero, zero).kl(), torch.zeros(2))


def test_sample_has_its_mean_and_variance(q: DiagonalGaussian) -> None:
    rng = torch.Generator().manual_seed(3)
    z = torch.stack([q.sample(rng) for _ in range(4000)])
    std = normal(q).stddev
    assert ((z.mean(0) - q.mean).abs() < 5 * std / 4000**0.5).all()
    assert ((z.std(0) / std - 1).abs() < 5 / 8000**0.5).all()
    assert torch.equal(q.sample(torch.Generator().manual_seed(4)), q.sample(torch.Generator().manual_seed(4)))
    assert torch.equal(q.mode(), q.mean)


def test_affine_is_the_law_of_the_moved_sample(q: DiagonalGaussian) -> None:
    shift, scale = torch.tensor([0.5, -2.0]).double().view(2, 1, 1), torch.tensor([0.1, 3.0]).double().view(2, 1, 1)
    moved = q.affine(shift, scale)
    torch.testing.assert_close(moved.mean, (q.mean - shift) / scale)
    torch.testing.assert_close(normal(moved).stddev, normal(q).stddev / scale)
    z = q.sample(torch.Generator().manual_seed(5))
    density = q.log_prob(z) + 20 * scale.log().sum()  # change of variables: 4 * 5 places a channel
    torch.testing.assert_close(moved.log_prob((z - shift) / scale), density)


def test_deterministic_posterior(q: DiagonalGaussian) -> None:
    point = DiagonalGaussian(q.mean)
    assert torch.equal(point.sample(torch.Generator()), q.mean)
    assert point.affine(torch.zeros(1), 2 * torch.ones(1)).log_variance is None
    for call in (point.kl, lambda: point.log_prob(q.mean)):
        with pytest.raises(ValueError, match="deterministic"):
            call()
