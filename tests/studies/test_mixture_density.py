"""The known density, the rule of modes, and the loop that trains on it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sfumato.diffusion.schedule import ScheduleConfig, make_schedule
from sfumato.errors import InputError
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.fit import Budget, Diverged, descend, fit, learning_rate, optimizer
from sfumato.studies.mixture.modes import NEAR_OF_DATA, judge

MIXTURE = Mixture()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plane(extent: float, count: int) -> tuple[Tensor, float]:
    """Midpoints (count^2, 2) of the cells of a square, and a cell's area."""
    side = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 * extent - extent
    return torch.cartesian_prod(side, side), (2 * extent / count) ** 2


def test_the_density_is_that_of_torch_and_integrates_to_one():
    modes = torch.distributions.MultivariateNormal(MIXTURE.centres().double(), 0.1**2 * torch.eye(2, dtype=torch.float64))
    oracle = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(8)), modes)
    x, area = plane(3.0, 300)
    torch.testing.assert_close(MIXTURE.log_prob(x), oracle.log_prob(x), atol=1e-4, rtol=1e-6)  # centres are fp32
    log_prob = MIXTURE.log_prob(x)
    assert float(log_prob.exp().sum() * area) == pytest.approx(1, abs=1e-6)
    assert -float((log_prob * log_prob.exp()).sum() * area) == pytest.approx(MIXTURE.entropy, abs=1e-6)


def test_samples_have_the_moments_and_the_entropy():
    x = MIXTURE.sample(40_000, rng())
    variance = MIXTURE.radius**2 / 2 + MIXTURE.sigma**2  # of each coordinate
    torch.testing.assert_close(x.T.cov(), variance * torch.eye(2), atol=0.03, rtol=0)
    each = -MIXTURE.log_prob(x)
    assert float(each.mean()) == pytest.approx(MIXTURE.entropy, abs=4 * float(each.std()) / 200)


def test_the_best_denoiser_is_the_slope_of_the_noised_density():
    """Tweedie: E[x_0 | x_t] = (x_t + sigma_t^2 grad log p(x_t)) / alpha_t."""
    schedule = make_schedule(ScheduleConfig())
    for time in (0.05, 0.4, 0.9):
        t = torch.full((16,), time, dtype=torch.float64)
        alpha, sigma = (float(v[0]) for v in schedule(t))
        x_t = (2 * torch.randn(16, 2, generator=rng(), dtype=torch.float64)).requires_grad_(True)
        modes = torch.distributions.MultivariateNormal(
            alpha * MIXTURE.centres().double(), (alpha**2 * 0.01 + sigma**2) * torch.eye(2, dtype=torch.float64)
        )
        noised = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(8)), modes)
        (slope,) = torch.autograd.grad(noised.log_prob(x_t).sum(), x_t)
        expected = (x_t + sigma**2 * slope) / alpha
        torch.testing.assert_close(MIXTURE.denoised(schedule, x_t, t).detach(), expected.detach(), atol=1e-5, rtol=1e-5)


def test_modes_of_the_data_are_all_found():
    modes = judge(MIXTURE.sample(8000, rng()), MIXTURE)
    assert modes.found == 8
    assert modes.near == pytest.approx(NEAR_OF_DATA, abs=4 * math.sqrt(NEAR_OF_DATA * (1 - NEAR_OF_DATA) / 8000))
    assert modes.imbalance < 0.005
    assert sum(modes.shares) == pytest.approx(modes.near)


def test_a_mode_with_less_than_a_quarter_of_its_share_is_not_found():
    def shared(counts: list[int]) -> Tensor:
        return MIXTURE.centres().repeat_interleave(torch.tensor(counts), 0)

    assert judge(shared([125] * 7 + [125]), MIXTURE).found == 8
    assert judge(shared([139] * 6 + [135, 31]), MIXTURE).found == 7  # 31 of 1000 is below 1 / 32
    assert judge(shared([138] * 7 + [34]), MIXTURE).found == 8
    one = judge(shared([1000] + [0] * 7), MIXTURE)
    assert (one.found, one.near) == (1, 1.0)
    assert one.imbalance == pytest.approx(math.log(8))
    none = judge(torch.zeros(1000, 2), MIXTURE)
    assert (none.found, none.near, none.imbalance) == (0, 0.0, math.inf)


def test_wrong_numbers_are_refused():
    with pytest.raises(InputError, match="800 or more"):
        judge(torch.zeros(799, 2), MIXTURE)
    with pytest.raises(InputError, match="sigma apart"):
        Mixture(sigma=0.5)
    with pytest.raises(InputError, match="2 or more"):
        Mixture(num_modes=1)
    with pytest.raises(InputError, match="budget"):
        Budget(10, seconds=0)


def test_a_budget_is_walked_from_zero_to_its_end():
    assert list(Budget(4).walk()) == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    assert Budget(100, 8.0).part(0.25) == Budget(25, 2.0)
    walked = list(Budget(1, seconds=0.02).walk())
    shares = [share for _, share in walked]
    assert shares == sorted(shares)
    assert 0 <= shares[-1] < 1
    assert learning_rate(2.0, 0.5) == pytest.approx(1.0)
    assert 0 < learning_rate(2.0, 0.0) < 0.2


def test_fast_parameters_have_ten_times_the_rate():
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    adam = optimizer([slow, fast], fast=[fast])
    (slow + fast).sum().backward()
    descend(adam, 0.01, 0.5)
    assert float(fast.detach()) / float(slow.detach()) == pytest.approx(10, rel=1e-4)


def test_a_loss_that_is_no_number_ends_training_with_its_curve():
    weight = nn.Parameter(torch.ones(()))

    def loss(step: int) -> Tensor:
        return weight * (math.nan if step == 5 else 1.0)

    with pytest.raises(Diverged) as caught:
        fit(loss, [weight], Budget(20), 0.01)
    assert caught.value.step == 6
    assert [step for step, _ in caught.value.curve.points] == [1, 2, 3, 4, 5, 6]
    assert math.isfinite(float(weight.detach()))
