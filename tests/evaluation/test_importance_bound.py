"""The importance-weighted bound on a linear-Gaussian autoencoder, where everything is known on paper.

x = W z + s eps, W with orthogonal columns of squared length c:  p(x) = N(0, W W^T + s^2 I),
p(z | x) = N(W^T x / (c + s^2), s^2 / (c + s^2)), diagonal.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.evaluation.importance import importance_bound
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.latent import Grid
from sfumato.losses.likelihood import GaussianLikelihood, LaplaceLikelihood
from sfumato.posterior import DiagonalGaussian
from sfumato.priors.normal import NormalConfig, NormalPrior

STD, SQUARE = 0.5, 2.0
NONE = Conditioning()


class Linear(FirstStage):
    """z (B, 2, 1, 1) -> x (B, 4, 1, 1). The posterior is the exact one, moved by `shift` and widened by `factor`."""

    def __init__(self, shift: float = 0.0, factor: float = 1.0):
        super().__init__()
        self.latent, self.channels, self.preview = Grid(2, 1), 4, None
        self.shift, self.factor = shift, factor
        rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0]
        self.w = rotation[:, :2] * math.sqrt(SQUARE)

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        mean = (x.flatten(1) @ self.w / (SQUARE + STD**2))[:, :, None, None]
        variance = torch.full_like(mean, self.factor * STD**2 / (SQUARE + STD**2))
        return DiagonalGaussian(mean + self.shift, variance.log())

    def decode(self, z: Tensor) -> Tensor:
        return (z.flatten(1) @ self.w.T)[:, :, None, None]

    @property
    def last_layer(self) -> None:
        return None


def pictures(num: int) -> tuple[Tensor, Tensor]:
    """x of the model and its log p(x)."""
    w = Linear().w
    marginal = torch.distributions.MultivariateNormal(torch.zeros(4), w @ w.T + STD**2 * torch.eye(4))
    z, eps = torch.randn(num, 6, generator=torch.Generator().manual_seed(1)).split([2, 4], dim=1)
    x = z @ w.T + STD * eps
    return x[:, :, None, None], marginal.log_prob(x)


LIKELIHOOD, PRIOR = GaussianLikelihood(2 * math.log(STD)), NormalPrior(NormalConfig(), Grid(2, 1))


@pytest.mark.parametrize("num_samples", [1, 5])
def test_the_exact_posterior_gives_log_p_by_every_draw(num_samples: int) -> None:
    x, log_p = pictures(16)
    found = importance_bound(Linear(), PRIOR, x, NONE, LIKELIHOOD, num_samples, torch.Generator().manual_seed(2))
    assert found.bound.float().sub(log_p).abs().max() < 1e-4
    assert found.elbo.float().sub(log_p).abs().max() < 1e-4
    assert found.effective.sub(num_samples).abs().max() < 1e-3


def test_the_bound_grows_from_the_elbo_towards_log_p() -> None:
    """The gap of one draw is KL(q || p(z | x)) = 1/2 sum (f + d^2 / v - 1 - log f), v the exact variance."""
    shift, factor, variance = 0.3, 1.5, STD**2 / (SQUARE + STD**2)
    gap = 0.5 * 2 * (factor + shift**2 / variance - 1 - math.log(factor))
    x, log_p = pictures(1)
    x, log_p = x.expand(2048, -1, -1, -1), log_p.expand(2048)
    gaps = []
    for num_samples in (1, 4, 32):
        found = importance_bound(
            Linear(shift, factor), PRIOR, x, NONE, LIKELIHOOD, num_samples, torch.Generator().manual_seed(3)
        )
        gaps.append(float((log_p - found.bound).mean()))
        assert float((log_p - found.elbo).mean()) == pytest.approx(gap, abs=0.1)
        assert float(found.effective.min()) >= 1 - 1e-6
        assert float(found.effective.max()) <= num_samples + 1e-6
    assert gaps[0] == pytest.approx(gap, abs=0.1)
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > -0.02
    assert abs(gaps[2]) < 0.05


def test_a_deterministic_first_stage_and_no_draws_are_refused() -> None:
    x = torch.zeros(1, 3, 2, 2)
    with pytest.raises(InputError, match="deterministic"):
        importance_bound(IdentityFirstStage(IdentityConfig()), PRIOR, x, NONE, LIKELIHOOD, 1)
    with pytest.raises(InputError, match="0 samples"):
        importance_bound(Linear(), PRIOR, x, NONE, LIKELIHOOD, 0)


def test_likelihoods_are_those_of_torch() -> None:
    x, x_hat = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(4))
    normal, laplace = torch.distributions.Normal(x_hat, 0.7), torch.distributions.Laplace(x_hat, 0.7)
    gaussian = GaussianLikelihood(2 * math.log(0.7))(x, x_hat)
    torch.testing.assert_close(gaussian, normal.log_prob(x).flatten(1).sum(1))
    torch.testing.assert_close(LaplaceLikelihood(math.log(0.7))(x, x_hat), laplace.log_prob(x).flatten(1).sum(1))
