import math

import pytest
import torch

from sfumato.diffusion.prediction import Prediction, to_x0
from sfumato.diffusion.schedule import Discrete, ScheduleConfig, ScheduleName, make_schedule, scaled_linear_betas
from sfumato.diffusion.weighting import TimeSampling, Weighting, sample_times, weight
from sfumato.errors import InputError

CONFIGS = [ScheduleConfig(), ScheduleConfig(ScheduleName.rectified), ScheduleConfig(zero_terminal_snr=True)]
every = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.name.value}-{c.zero_terminal_snr}")
times = torch.arange(1, 1001, dtype=torch.float64) / 1000


@every
@pytest.mark.parametrize("kind", [Weighting.min_snr, Weighting.variational])
def test_the_loss_does_not_depend_on_the_prediction(config, kind):
    """The same wrong x_0 costs the same whether it was said as x0, v or velocity (or eps, where that is defined)."""
    schedule = make_schedule(config)
    t = times[9:950:47]
    alpha, sigma = schedule(t)
    x_t = torch.randn(len(t), 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = []
    for prediction in Prediction:
        error = torch.full_like(x_t, 0.1)
        moved = to_x0(prediction, error, x_t, alpha, sigma) - to_x0(prediction, 0 * error, x_t, alpha, sigma)
        in_output = weight(kind, schedule, prediction, t) * error.square().mean(1)
        losses.append(in_output / moved.square().mean(1))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-8, atol=1e-12)


def test_min_snr_is_as_published():
    schedule = make_schedule(ScheduleConfig())
    snr = torch.exp(schedule.log_snr(times))
    capped = snr.clamp(max=5)
    published = {Prediction.x0: capped, Prediction.eps: capped / snr, Prediction.v: capped / (snr + 1)}
    for prediction, expected in published.items():
        torch.testing.assert_close(weight(Weighting.min_snr, schedule, prediction, times), expected, rtol=1e-8, atol=0)


@every
@pytest.mark.parametrize("kind", list(Weighting))
@pytest.mark.parametrize("prediction", [Prediction.x0, Prediction.v, Prediction.velocity])
def test_weights_are_finite_and_positive_to_the_end(config, kind, prediction):
    schedule = make_schedule(config)
    result = weight(kind, schedule, prediction, times.float())
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    assert (result >= 0).all()
    assert (result[:-1] > 0).all()


def test_simple_is_one():
    schedule = make_schedule(ScheduleConfig())
    assert torch.equal(weight(Weighting.simple, schedule, Prediction.eps, times), torch.ones_like(times))


def test_the_variational_weight_is_the_kl_between_reverse_steps():
    """T times KL(q(x_s | x_t, x_0) || q(x_s | x_t, x_hat)) of one row, from the posterior of Ho et al. 2020, eq. 6-7."""
    betas = scaled_linear_betas(0.0015, 0.0195, 1000)
    schedule, alpha_bar = Discrete(betas), torch.cumprod(1 - betas, 0)
    for k in (1, 2, 100, 500, 999):
        beta, now, before = (float(v) for v in (betas[k], alpha_bar[k], alpha_bar[k - 1]))
        mean_slope = math.sqrt(before) * beta / (1 - now)
        variance = (1 - before) / (1 - now) * beta
        expected = 1000 * mean_slope**2 / (2 * variance)
        got = weight(Weighting.variational, schedule, Prediction.x0, torch.tensor([(k + 1) / 1000], dtype=torch.float64))
        assert got.item() == pytest.approx(expected, rel=1e-6)


def test_the_first_row_weighs_as_the_second():
    schedule = make_schedule(ScheduleConfig())
    first, second = weight(Weighting.variational, schedule, Prediction.x0, times[:2])
    assert first == second


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_silly_gammas_are_refused(gamma):
    with pytest.raises(InputError, match="gamma"):
        weight(Weighting.min_snr, make_schedule(ScheduleConfig()), Prediction.v, times, gamma)


@pytest.mark.parametrize("kind", list(TimeSampling))
@every
def test_times_are_valid_and_repeatable(kind, config):
    schedule = make_schedule(config)
    t, again = (sample_times(kind, 512, schedule, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(t, again)
    assert t.shape == (512,)
    assert t.dtype == torch.float32
    assert (t > 0).all()
    assert (t <= 1).all()
    if schedule.discrete:
        k = schedule.network_time(t)
        assert torch.equal(k, k.round())
        assert (k >= 0).all()
        assert (k <= 999).all()


def test_uniform_times_visit_every_row_alike():
    schedule = Discrete(scaled_linear_betas(0.0015, 0.0195, 10))
    t = sample_times(TimeSampling.uniform, 100_000, schedule, torch.Generator().manual_seed(6))
    counts = torch.bincount(schedule.network_time(t).long(), minlength=10)
    assert (counts - 10_000).abs().max() < 5 * math.sqrt(9_000)  # 5 standard deviations of a binomial count


def test_stratified_times_put_one_draw_in_every_part():
    schedule = Discrete(scaled_linear_betas(0.0015, 0.0195, 1000))
    t = sample_times(TimeSampling.stratified, 1000, schedule, torch.Generator().manual_seed(7))
    rows = schedule.network_time(t)
    assert torch.equal(rows.sort().values, torch.arange(1000.0))
    assert not torch.equal(rows, rows.sort().values)
    flow = sample_times(TimeSampling.stratified, 16, make_schedule(ScheduleConfig(ScheduleName.rectified)))
    assert torch.equal((flow.double() * 16 - 1e-6).floor().sort().values, torch.arange(16.0).double())


def test_logit_normal_times_have_the_quartiles_of_the_logistic_of_a_normal():
    t = sample_times(
        TimeSampling.logit_normal,
        100_000,
        make_schedule(ScheduleConfig(ScheduleName.rectified)),
        torch.Generator().manual_seed(8),
    )
    quartiles = torch.quantile(t, torch.tensor([0.25, 0.5, 0.75]))
    expected = torch.sigmoid(torch.tensor([-0.67449, 0.0, 0.67449]))
    torch.testing.assert_close(quartiles, expected, rtol=0, atol=0.005)
