"""The forward chain against its closed form, the posterior against Bayes on paper, KL against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sfumato.diffusion.forward import Gaussian, Variance, chain, coefficients, marginal, posterior, reverse, transition
from sfumato.diffusion.schedule import Discrete, Rectified, ScheduleConfig, ScheduleName, make_schedule
from sfumato.noise import SharedNoise
from sfumato.samplers.ddpm import coefficients as sampler_coefficients

LINEAR = ScheduleConfig(ScheduleName.linear, 1e-4, 0.02)
SCHEDULES = {
    "linear": make_schedule(LINEAR),
    "scaled": make_schedule(ScheduleConfig()),
    "cosine": make_schedule(ScheduleConfig(ScheduleName.cosine)),
    "zero snr": make_schedule(ScheduleConfig(zero_terminal_snr=True)),
    "rectified": Rectified(1000),
}
PAIRS = [(0.001, 0.002), (0.2, 0.7), (0.499, 0.5), (0.9, 1.0)]


def at(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES.keys())
def schedule(request):
    return request.param


def test_a_step_of_the_table_is_the_papers():
    """Eq. 2: mean sqrt(1 - beta) x, variance beta; eq. 7: the posterior's weights and beta-tilde, for every row."""
    schedule = make_schedule(LINEAR)
    assert isinstance(schedule, Discrete)
    betas, bars = schedule.betas, schedule.alpha_bars
    before = torch.cat([at(1.0), bars[:-1]])
    k = torch.arange(1000, dtype=torch.float64)
    found = coefficients(schedule, k / 1000, (k + 1) / 1000)
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(found.alpha, (1 - betas).sqrt(), **close)
    torch.testing.assert_close(found.fresh, betas, **close)
    torch.testing.assert_close(found.posterior, (1 - before) / (1 - bars) * betas, **close)
    torch.testing.assert_close(found.of_x_0, before.sqrt() * betas / (1 - bars), **close)
    torch.testing.assert_close(found.of_x_t, (1 - betas).sqrt() * (1 - before) / (1 - bars), **close)


@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_the_posterior_is_bayes(schedule, s, t):
    """q(x_s | x_t, x_0) = q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0), as log-densities at points."""
    x_s, x_t, x_0 = (torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3))

    def log(g: Gaussian, x: torch.Tensor) -> torch.Tensor:
        return Normal(g.mean, g.variance.sqrt().expand_as(g.mean)).log_prob(x)

    t_, s_ = at(t), at(s)
    right = log(transition(schedule, x_s, s_, t_), x_t) + log(marginal(schedule, x_0, s_), x_s)
    right -= log(marginal(schedule, x_0, t_), x_t)
    left = log(posterior(schedule, x_t, x_0, s_, t_), x_s)
    torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-6)


def test_the_posterior_at_the_clean_end_is_the_data(schedule):
    x_t, x_0 = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (1 / 1000, 1.0):
        found = posterior(schedule, x_t, x_0, at(0.0), at(t))
        torch.testing.assert_close(found.mean, x_0)
        assert float(found.variance) == 0


@pytest.mark.parametrize("variance", Variance)
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_the_sampler_takes_the_reverse_step(schedule, s, t, variance):
    points = [tuple(float(v) for v in schedule(torch.tensor(u, dtype=torch.float64))) for u in (t, s)]
    a, b, c = sampler_coefficients(points[0], points[1], variance)
    found = reverse(
        schedule, torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64), at(s), at(t), variance
    )
    other = reverse(
        schedule, torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64), at(s), at(t), variance
    )
    assert float(found.mean) == pytest.approx(a, rel=1e-9, abs=1e-12)
    assert float(other.mean) == pytest.approx(b, rel=1e-6)
    assert float(found.variance) == pytest.approx(c**2, rel=1e-6)


def test_chained_steps_have_the_moments_of_the_closed_form():
    """On paper, whatever is drawn: mean and variance of x_t through t steps of eq. 2 equal those of eq. 4."""
    schedule = make_schedule(ScheduleConfig(num_steps=200))
    mean, variance = at(1.0), at(0.0)
    for k in range(200):
        c = coefficients(schedule, at(k / 200), at((k + 1) / 200))
        mean, variance = c.alpha * mean, c.alpha.square() * variance + c.fresh
        alpha, sigma = schedule(at((k + 1) / 200))
        torch.testing.assert_close(mean, alpha, rtol=1e-10, atol=0)
        torch.testing.assert_close(variance, sigma.square(), rtol=1e-8, atol=0)


def test_a_drawn_chain_has_the_moments_of_the_closed_form():
    """20,000 chains of 50 steps: mean within 5 standard errors, variance within 5 of its own, at every step."""
    schedule = make_schedule(ScheduleConfig(beta_start=0.01, beta_end=0.2, num_steps=50))
    assert isinstance(schedule, Discrete)
    count = 20_000
    x_0 = torch.full((count, 1), 0.8)
    seen = 0
    for t, x_t in chain(schedule, x_0, SharedNoise(torch.Generator().manual_seed(0))):
        alpha, sigma = (float(v[0]) for v in schedule(t))
        assert float(x_t.mean()) == pytest.approx(0.8 * alpha, abs=5 * sigma / count**0.5)
        assert float(x_t.var()) == pytest.approx(sigma**2, rel=5 * (2 / count) ** 0.5)
        seen += 1
    assert seen == 50


def test_kl_of_gaussians():
    rng = torch.Generator().manual_seed(0)
    means, variances = torch.randn(2, 4, 3, 5, generator=rng), torch.rand(2, 4, 1, 1, generator=rng) + 0.1
    found = Gaussian(means[0], variances[0]).kl(Gaussian(means[1], variances[1]))
    there = kl_divergence(Normal(means[0], variances[0].sqrt()), Normal(means[1], variances[1].sqrt())).flatten(1).sum(1)
    torch.testing.assert_close(found, there)
