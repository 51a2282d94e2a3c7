"""The bound against what is known on paper: Gaussian data, whose best denoiser, information and entropy have formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from oracles import GaussianData
from sfumato.conditioning import Conditioning
from sfumato.diffusion.bounds import (
    bound,
    continuous_rate,
    eight_bit_log_prob,
    every_step,
    last_variance,
    prior_term,
    step_term,
    terms,
)
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.forward import Variance, posterior, reverse
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import Rectified, ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.noise import SharedNoise

DATA = GaussianData(mean=0.1, std=0.25)
COUNT = 4096
LINEAR = make_schedule(ScheduleConfig(ScheduleName.linear, 1e-4, 0.02))


def drawn(seed: int = 0, shape: tuple[int, ...] = (8, COUNT)) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return DATA.mean + DATA.std * torch.randn(shape, generator=rng, dtype=torch.float64)


def rounded(x: torch.Tensor) -> torch.Tensor:
    return ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def noise(seed: int = 1) -> SharedNoise:
    return SharedNoise(torch.Generator().manual_seed(seed))


def plan(schedule, end: float, count: int) -> torch.Tensor:
    """`count` steps from 1 to `end`, equal in log SNR, then 0."""
    ends = schedule.sigma_ratio(torch.tensor([1.0, end], dtype=torch.float64)).log()
    inner = schedule.inverse_ratio(torch.linspace(float(ends[0]), float(ends[1]), count + 1, dtype=torch.float64).exp())
    return torch.cat([torch.ones(1, dtype=torch.float64), inner[1:-1], torch.tensor([end, 0.0], dtype=torch.float64)])


def sure(schedule, end: float, count: int) -> torch.Tensor:
    """The same for a schedule that ends in pure noise: after t = 1, equal in log SNR from SNR 1e-3."""
    ends = schedule.sigma_ratio(torch.tensor([0.97, end], dtype=torch.float64)).log()
    inner = schedule.inverse_ratio(torch.linspace(float(ends[0]), float(ends[1]), count, dtype=torch.float64).exp())
    return torch.cat([torch.ones(1, dtype=torch.float64), inner[:-1], torch.tensor([end, 0.0], dtype=torch.float64)])


def information(snr: float) -> float:
    """I(x_0; x_t) in nats of one element."""
    return 0.5 * math.log1p(snr * DATA.std**2)


def snr(schedule, t: float) -> float:
    return float(schedule.log_snr(torch.tensor(t, dtype=torch.float64)).exp())


@pytest.mark.parametrize("variance", Variance)
@pytest.mark.parametrize(("s", "t"), [(0.001, 0.002), (0.3, 0.301), (0.2, 0.9), (0.999, 1.0)])
def test_a_step_is_the_kl_of_its_two_gaussians(variance, s, t):
    x_t, x_0, x_0_hat = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    s_, t_ = (torch.tensor([v], dtype=torch.float64) for v in (s, t))
    q, p = posterior(LINEAR, x_t, x_0, s_, t_), reverse(LINEAR, x_t, x_0_hat, s_, t_, variance)
    there = kl_divergence(*(Normal(g.mean, g.variance.sqrt().expand_as(g.mean)) for g in (q, p))).sum(1)
    torch.testing.assert_close(step_term(LINEAR, x_0, x_0_hat, s_, t_, variance), there, rtol=1e-6, atol=1e-9)


def test_the_prior_term_is_the_kl_of_the_last_marginal():
    x_0 = drawn()[:, :50].float()
    alpha, sigma = LINEAR(torch.ones((), dtype=torch.float64))
    there = kl_divergence(Normal(alpha * x_0.double(), sigma), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(prior_term(LINEAR, x_0), there, rtol=1e-6, atol=1e-12)
    assert prior_term(Rectified(), x_0).abs().max() == 0


def test_the_steps_cost_what_is_known_on_paper():
    """E L_{t-1} = D/2 (SNR_s - SNR_t) Var[x_0 | x_t] at every step of the table; 8,192 values, 6 standard errors."""
    x_0 = drawn(shape=(4, 2048))
    found = bound(DATA.denoiser(LINEAR), LINEAR, x_0, noise(), eight_bit=False)
    t = found.times[:-1]
    ratios = LINEAR.log_snr(t).exp()
    expected = 0.5 * 2048 * (ratios[1:] - ratios[:-1]) * DATA.std**2 / (1 + ratios[:-1] * DATA.std**2)
    error = (found.steps.mean(0) / expected - 1).abs()
    assert float(error.max()) < 6 * math.sqrt(2 / x_0.numel())


def test_finer_plans_cost_less_and_approach_the_information():
    """The steps' sum falls with their number to I(x_0; x_end) - I(x_0; x_1) from above, the excess as 1 / steps."""
    limit = information(snr(LINEAR, 0.001)) - information(snr(LINEAR, 1.0))
    x_0, costs = drawn(), []
    for count in (5, 20, 80, 320):
        found = bound(DATA.denoiser(LINEAR), LINEAR, x_0, noise(), times=plan(LINEAR, 0.001, count), eight_bit=False)
        costs.append(float(found.steps.sum(1).mean()) / COUNT)
    assert costs == sorted(costs, reverse=True)
    assert all(cost > limit for cost in costs)
    assert (costs[-2] - limit) / (costs[-1] - limit) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("schedule", [LINEAR, Rectified(1000)], ids=["linear", "rectified"])
def test_the_continuous_form_is_the_limit_of_the_sum(schedule):
    """Kingma et al. 2021, eq. 18: within 0.5 % of the information on paper, and of a sum over 500 steps within 2 %."""
    x_0, end = drawn(), 0.005
    denoiser = DATA.denoiser(schedule)
    limit = information(snr(schedule, end)) - information(snr(schedule, 1.0))
    found = float(continuous_rate(denoiser, schedule, x_0, noise(), end=end, num_points=200).mean()) / COUNT
    assert found == pytest.approx(limit, rel=0.005)
    times = plan(LINEAR, end, 500) if schedule is LINEAR else sure(schedule, end, 500)
    total = bound(denoiser, schedule, x_0, noise(), times=times, eight_bit=False).steps.sum(1).mean() / COUNT
    assert float(total) == pytest.approx(found, rel=0.02)


def test_the_bound_of_8_bit_gaussian_data_is_their_entropy():
    """H = log2(std sqrt(2 pi e) / bin) = 7.04 bits, where the decoder has the variance of x_0 given x_t at the last t, here
    four bins wide: above it by less than 0.05 bits at 800 steps and by more with fewer."""
    entropy = math.log2(DATA.std * math.sqrt(2 * math.pi * math.e) / (2 / 255))
    end = 0.008
    exact = DATA.std**2 / (1 + snr(LINEAR, end) * DATA.std**2)
    bits = []
    for count in (50, 200, 800):
        times = plan(LINEAR, end, count)
        found = bound(DATA.denoiser(LINEAR), LINEAR, rounded(drawn()), noise(), times=times, decoder_variance=exact)
        bits.append(float(found.bits_per_dimension.mean()))
    assert bits == sorted(bits, reverse=True)
    assert entropy - 0.005 < bits[-1] < entropy + 0.05
    assert float(found.total.mean()) == pytest.approx(bits[-1] * COUNT * math.log(2))


def test_the_decoder_has_the_variance_of_the_step_before():
    """L_0 on paper: 1/2 log(2 pi v) + E (x_0 - mean)^2 / 2v - log bin, v the posterior's variance, here four bins wide."""
    times = torch.tensor([1.0, 0.03, 0.008, 0.0], dtype=torch.float64)
    ratio = [snr(LINEAR, float(t)) for t in times[1:3]]
    _, sigma = LINEAR(times[2])
    v = float(sigma**2) * (1 - ratio[0] / ratio[1])
    missed = DATA.std**2 / (1 + ratio[1] * DATA.std**2)
    expected = 0.5 * math.log(2 * math.pi * v) + missed / (2 * v) - math.log(2 / 255)
    for variance in Variance:
        found = bound(DATA.denoiser(LINEAR), LINEAR, rounded(drawn()), noise(), times=times, variance=variance)
        assert found.decoder is not None
        assert float(found.decoder.mean()) / COUNT == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("variance", [1e-7, 1e-4, 0.01, 4.0])
@pytest.mark.parametrize("mean", [-1.0, -0.3017, 0.0, 0.97, 1.2])
def test_the_decoder_is_a_distribution_over_256_values(mean, variance):
    x_0 = (torch.arange(256, dtype=torch.float64) / 127.5 - 1)[:, None]
    found = eight_bit_log_prob(x_0, torch.full_like(x_0, mean), variance)
    assert bool(found.isfinite().all())
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_the_decoder_integrates_the_density():
    """Against the difference of distribution functions, where that has its digits."""
    x_0 = torch.tensor([[-1.0], [3 / 127.5 - 1], [200 / 127.5 - 1], [1.0]], dtype=torch.float64)
    normal = Normal(torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    half = 1 / 255
    inner = normal.cdf(x_0[1:3, 0] + half) - normal.cdf(x_0[1:3, 0] - half)
    ends = torch.stack([normal.cdf(x_0[0, 0] + half), 1 - normal.cdf(x_0[3, 0] - half)])
    there = torch.stack([ends[0], *inner, ends[1]]).log()
    torch.testing.assert_close(eight_bit_log_prob(x_0, torch.full_like(x_0, 0.2), 0.25), there, rtol=1e-9, atol=1e-10)


def test_the_large_variance_is_right_for_unit_data():
    """Ho et al., section 3.2: for x_0 ~ N(0, 1) beta_t is the reverse process's own variance, so the bound is smaller with it
    than with beta-tilde_t, and the other way round for data at a point."""
    unit, point = GaussianData(0.0, 1.0), GaussianData(0.2, 1e-3)
    times = plan(LINEAR, 0.001, 10)
    for data, best in ((unit, Variance.large), (point, Variance.small)):
        x_0 = data.mean + data.std * torch.randn(16, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        rates = {
            v: float(bound(data.denoiser(LINEAR), LINEAR, x_0, noise(), times=times, variance=v, eight_bit=False).rate.mean())
            for v in Variance
        }
        assert min(rates, key=lambda v: rates[v]) is best


class Perfect(torch.nn.Module):
    """The exact eps of Gaussian data as a network."""

    def forward(self, x_t, k, cond):
        t = (k + 1) / 1000
        alpha, sigma = (v.view(-1, 1).to(x_t) for v in LINEAR(t))
        return (x_t - alpha * DATA.denoiser(LINEAR)(x_t, t).to(x_t)) / sigma


def test_a_denoiser_has_the_bound_of_its_estimate():
    denoiser = Denoiser(Perfect(), LINEAR, Prediction.eps)
    x_0, times = rounded(drawn(shape=(4, 64))).float(), torch.cat([every_step(LINEAR)[:-1:111], torch.zeros(1)])
    found = bound(lambda x, t: denoiser(x, t, Conditioning()).x_0, LINEAR, x_0, noise(), times=times)
    there = bound(DATA.denoiser(LINEAR), LINEAR, x_0, noise(), times=times)
    torch.testing.assert_close(found.bits_per_dimension, there.bits_per_dimension, rtol=1e-3, atol=0)


def test_latents_have_a_rate_and_no_last_term():
    found = bound(DATA.denoiser(LINEAR), LINEAR, drawn(shape=(4, 8)), noise(), times=plan(LINEAR, 0.001, 5), eight_bit=False)
    assert found.decoder is None
    torch.testing.assert_close(found.rate, found.prior + found.steps.sum(1))
    with pytest.raises(InputError, match=r"L_0 is undefined.*continuous latents"):
        _ = found.bits_per_dimension


def test_what_is_not_8_bit_is_refused():
    with pytest.raises(InputError, match=r"8-bit data.*eight_bit=False"):
        bound(DATA.denoiser(LINEAR), LINEAR, drawn(shape=(1, 8)), noise())
    with pytest.raises(InputError, match="8-bit data"):
        bound(DATA.denoiser(LINEAR), LINEAR, torch.full((1, 8), torch.nan), noise())
    with pytest.raises(InputError, match="8-bit data"):
        bound(DATA.denoiser(LINEAR), LINEAR, torch.full((1, 8), 3.0), noise())


@pytest.mark.parametrize("times", [[1.0, 0.0], [0.9, 0.5, 0.0], [1.0, 0.5, 0.1], [1.0, 0.2, 0.4, 0.0]])
def test_plans_that_are_no_chain_are_refused(times):
    with pytest.raises(InputError, match="times of a bound"):
        list(terms(DATA.denoiser(LINEAR), LINEAR, rounded(drawn(shape=(1, 8))), noise(), torch.tensor(times)))


def test_the_decoder_of_the_full_chain_is_the_papers_and_of_shorter_ones_that_of_their_last_time():
    """With the variance of a short step before it, more steps would be a worse bound: 8.4, 8.9 and 10.6 bits."""
    full = every_step(LINEAR)
    c = LINEAR(full[-3:-1])  # alpha, sigma at 2/1000 and 1/1000
    (a_2, a_1), (s_2, s_1) = ((float(v[0]), float(v[1])) for v in c)
    beta = 1 - (a_2 / a_1) ** 2
    assert last_variance(LINEAR, full) == pytest.approx(s_1**2 / s_2**2 * beta, rel=1e-6)
    bits = []
    for count in (50, 100, 200):
        times = plan(LINEAR, 0.001, count)
        assert last_variance(LINEAR, times) == pytest.approx(s_1**2 / a_1**2, rel=1e-6)
        found = bound(DATA.denoiser(LINEAR), LINEAR, rounded(drawn(shape=(2, 1024))), noise(), times=times)
        bits.append(float(found.bits_per_dimension.mean()))
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < 7.4
