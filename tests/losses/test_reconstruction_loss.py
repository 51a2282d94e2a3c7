"""The learned-variance nll against the densities it stands for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sfumato.errors import InputError
from sfumato.losses.reconstruction import PixelError, ReconstructionLoss


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, 8, 8, generator=rng), torch.randn(3, 3, 8, 8, generator=rng)


def test_l1_is_the_laplace_density(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """e / b + log b with b = exp(s) is -log Laplace(x; x_hat, b) up to log 2 a dimension."""
    x_hat, x = pair
    density = torch.distributions.Laplace(x_hat, math.exp(0.3))
    wanted = (-density.log_prob(x) - math.log(2)).sum((1, 2, 3)).mean()
    torch.testing.assert_close(ReconstructionLoss(log_variance=0.3)(x_hat, x).nll, wanted)


def test_l2_is_a_gaussian_density(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """e / v + log v with v = exp(s): twice -log N(x; x_hat, sqrt(v / ... )), without the constant."""
    x_hat, x = pair
    variance = math.exp(0.3)
    density = torch.distributions.Normal(x_hat, math.sqrt(variance))
    wanted = (-2 * density.log_prob(x) - math.log(2 * math.pi)).sum((1, 2, 3)).mean()
    torch.testing.assert_close(ReconstructionLoss(PixelError.L2, log_variance=0.3)(x_hat, x).nll, wanted)


def test_best_log_variance_is_the_log_of_the_mean_error(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """d nll / d s = 0 at exp(s) = mean error."""
    x_hat, x = pair
    best = (x_hat - x).abs().mean().log().item()
    loss = ReconstructionLoss(log_variance=best)
    loss(x_hat, x).nll.backward()
    assert loss.log_variance.grad is not None
    assert abs(loss.log_variance.grad.item()) < 1e-3 * x[0].numel()


def test_perceptual_joins_every_dimension(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    class Known(nn.Module):
        def forward(self, x_hat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 2.0, 3.0])

    x_hat, x = pair
    with_it = ReconstructionLoss(perceptual=Known(), perceptual_weight=0.5)(x_hat, x)
    without = ReconstructionLoss()(x_hat, x)
    torch.testing.assert_close(with_it.nll - without.nll, torch.tensor(0.5 * 2.0 * x[0].numel()), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(with_it.perceptual, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(without.error, (x_hat - x).abs().mean((1, 2, 3)))
    assert ReconstructionLoss(perceptual=Known(), perceptual_weight=0.0).perceptual is None


def test_log_variance_is_the_only_parameter_and_can_be_kept() -> None:
    assert [n for n, p in ReconstructionLoss().named_parameters() if p.requires_grad] == ["log_variance"]
    assert not any(p.requires_grad for p in ReconstructionLoss(learn=False).parameters())


def test_negative_weight_is_refused() -> None:
    with pytest.raises(InputError, match="-1"):
        ReconstructionLoss(perceptual_weight=-1)
