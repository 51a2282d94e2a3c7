import copy
import math
import pickle

import pytest
import torch

from sfumato.config import from_dict, to_dict
from sfumato.diffusion.schedule import (
    Discrete,
    Rectified,
    ScheduleConfig,
    ScheduleName,
    cosine_betas,
    make_schedule,
    scaled_linear_betas,
    zero_terminal_betas,
)
from sfumato.errors import InputError

CONFIGS = [
    ScheduleConfig(),
    ScheduleConfig(ScheduleName.linear, 1e-4, 0.02),
    ScheduleConfig(ScheduleName.cosine),
    ScheduleConfig(ScheduleName.rectified),
    ScheduleConfig(zero_terminal_snr=True),
    ScheduleConfig(ScheduleName.cosine, zero_terminal_snr=True),
    ScheduleConfig(num_steps=100),
]
every = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.name.value}-{c.num_steps}-{c.zero_terminal_snr}")


def fine_times() -> torch.Tensor:
    return torch.linspace(0, 1, 7919, dtype=torch.float64)


@every
def test_noise_grows_from_clean_to_noise(config):
    schedule = make_schedule(config)
    alpha, sigma = schedule(fine_times())
    assert (alpha[0], sigma[0]) == (1, 0)
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() >= 0).all()
    assert alpha.isfinite().all()
    assert sigma.isfinite().all()


@every
def test_discrete_schedules_preserve_variance_and_the_rectified_one_is_straight(config):
    schedule = make_schedule(config)
    alpha, sigma = schedule(fine_times())
    total = alpha**2 + sigma**2 if schedule.discrete else alpha + sigma
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@every
def test_the_schedule_inverts(config):
    schedule = make_schedule(config)
    t = fine_times()
    back = schedule.inverse_ratio(schedule.sigma_ratio(t))
    # Where the table is flat (the clipped end of the cosine one) t is worse conditioned than the ratio.
    torch.testing.assert_close(back, t, rtol=0, atol=1e-8)


@every
def test_ratio_and_log_snr_say_the_same_as_alpha_and_sigma(config):
    schedule = make_schedule(config)
    t = fine_times()[1:-1]
    alpha, sigma = schedule(t)
    torch.testing.assert_close(schedule.sigma_ratio(t), sigma / alpha, rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.log_snr(t), torch.log(alpha**2 / sigma**2), rtol=1e-9, atol=1e-9)
    assert schedule.log_snr(torch.zeros(1)) == math.inf


@every
def test_shapes_and_precision_follow_the_times(config):
    schedule = make_schedule(config)
    for dtype, expected in ((torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        t = torch.full((3, 2), 0.5, dtype=dtype)
        for value in (*schedule(t), schedule.sigma_ratio(t), schedule.network_time(t), schedule.log_snr(t)):
            assert value.shape == t.shape
            assert value.dtype == expected


def test_table_rows_are_the_alphabars_of_the_betas():
    low, high = math.sqrt(0.0015), math.sqrt(0.0195)
    product, expected = 1.0, []
    for k in range(1000):
        product *= 1 - (low + k / 999 * (high - low)) ** 2
        expected.append(product)
    schedule = make_schedule(ScheduleConfig())
    alpha, sigma = schedule(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    torch.testing.assert_close(alpha**2, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=0)
    torch.testing.assert_close(sigma[0] ** 2, torch.tensor(0.0015, dtype=torch.float64), rtol=1e-12, atol=0)


def test_fp32_times_hit_the_rows_of_the_table_exactly():
    schedule = make_schedule(ScheduleConfig())
    rows = torch.arange(1000)
    exact = (rows.double() + 1) / 1000
    assert torch.equal(schedule.network_time(exact.float()), rows.float())
    assert torch.equal(schedule(exact.float())[0], schedule(exact)[0].float())


def test_network_time():
    assert make_schedule(ScheduleConfig()).network_time(torch.tensor([0.0, 0.0005, 0.5])).tolist() == [0, 0, 499]
    assert Rectified().network_time(torch.tensor([0.0, 0.25, 1.0])).tolist() == [0, 250, 1000]


def test_cosine_betas_come_from_the_squared_cosine():
    betas = cosine_betas(1000)
    alpha_bar = torch.cumprod(1 - betas, 0)
    f = [math.cos((k / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(1001)]
    torch.testing.assert_close(alpha_bar[:990], torch.tensor(f[1:991], dtype=torch.float64) / f[0], rtol=1e-9, atol=0)
    assert betas[-1] == 0.999


def test_zero_terminal_snr_keeps_the_first_row_and_empties_the_last():
    plain = scaled_linear_betas(0.0015, 0.0195, 1000)
    before, after = Discrete(plain), Discrete(zero_terminal_betas(plain))
    ends = torch.tensor([0.001, 1.0])
    assert after(ends)[0].tolist() == pytest.approx([math.sqrt(1 - 0.0015), 0.0], abs=1e-7)
    assert after(ends)[1][1] == 1
    assert after.reaches_noise
    assert not before.reaches_noise
    # An affine map of sqrt(alphabar): second differences keep their proportions.
    a, b = before.alpha_bars.sqrt(), after.alpha_bars.sqrt()
    scale = (b[0] - b[500]) / (a[0] - a[500])
    torch.testing.assert_close(b - b[0], scale * (a - a[0]), rtol=0, atol=1e-12)


def test_between_rows_log_ratio_is_linear_and_below_the_first_row_it_goes_smoothly_to_clean():
    schedule = make_schedule(ScheduleConfig())
    t = torch.tensor([500.0, 500.25, 501.0], dtype=torch.float64) / 1000
    left, middle, right = torch.log(schedule.sigma_ratio(t)).tolist()
    assert middle == pytest.approx(0.75 * left + 0.25 * right, abs=1e-12)
    below = schedule.sigma_ratio(torch.tensor([0.0, 0.00025, 0.0005, 0.001], dtype=torch.float64))
    assert (below / below[-1]).tolist() == pytest.approx([0, 0.25, 0.5, 1])


def test_ratios_beyond_the_table_are_its_end():
    schedule = make_schedule(ScheduleConfig())
    assert schedule.inverse_ratio(torch.tensor([0.0, 1e6, math.inf])).tolist() == [0, 1, 1]


def test_a_chain_of_forward_steps_is_the_closed_form():
    """x_k = sqrt(1 - beta_k) x_{k-1} + sqrt(beta_k) n, step by step, has the moments alpha x_0 and sigma^2."""
    schedule = Discrete(scaled_linear_betas(0.0015, 0.0195, 100))
    rng = torch.Generator().manual_seed(0)
    x = torch.full((200_000,), 2.0, dtype=torch.float64)
    mean, variance = 2.0, 0.0
    for k, beta in enumerate(schedule.betas.tolist()):
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * torch.randn(x.shape, generator=rng, dtype=x.dtype)
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        alpha, sigma = schedule(torch.tensor((k + 1) / 100, dtype=torch.float64))
        assert float(2 * alpha) == pytest.approx(mean, rel=1e-10)
        assert float(sigma**2) == pytest.approx(variance, rel=1e-10)
    # 4 standard errors of a mean and of a variance of 200,000 draws.
    assert x.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(variance / 200_000))
    assert x.var().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / 200_000))


@pytest.mark.parametrize(
    "betas",
    [[0.1], [[0.1, 0.2]], [0.1, 0.0], [0.1, -0.1, 0.2], [0.1, 1.0, 0.2], [0.1, float("nan")], [0.1, 1.5]],
)
def test_impossible_betas_are_refused(betas):
    with pytest.raises(InputError, match="beta"):
        Discrete(torch.tensor(betas))


@pytest.mark.parametrize(
    "values",
    [
        {"beta_start": 0.0},
        {"beta_start": 0.03},
        {"beta_end": 1.0},
        {"beta_end": float("nan")},
        {"num_steps": 1},
        {"num_steps": 10**9},
    ],
)
def test_silly_configs_are_refused(values):
    with pytest.raises(InputError, match="expected"):
        ScheduleConfig(**values)


def test_configs_go_to_json_and_back():
    config = ScheduleConfig(ScheduleName.cosine, zero_terminal_snr=True)
    assert to_dict(config)["name"] == "cosine"
    assert from_dict(ScheduleConfig, to_dict(config)) == config
    with pytest.raises(InputError, match="scaled_linear"):
        from_dict(ScheduleConfig, {"name": "scaled_linera"})


def test_schedules_can_be_copied_and_pickled():
    schedule = make_schedule(ScheduleConfig())
    t = torch.rand(5)
    for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert torch.equal(twin(t)[0], schedule(t)[0])
