"""Samplers that are the same on paper are the same in numbers."""

from itertools import pairwise

import pytest
import torch

from oracles import GaussianData, MixtureData
from sfumato.diffusion.grids import Spacing, times
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.noise import SharedNoise
from sfumato.samplers import DDIM, DDPM, DISPLAY_NAMES, SAMPLERS, DPMSolverPP2M, Euler, EulerAncestral, Heun, run

DATA = MixtureData()
CONFIGS = [
    ScheduleConfig(),
    ScheduleConfig(ScheduleName.cosine),
    ScheduleConfig(ScheduleName.rectified),
    ScheduleConfig(zero_terminal_snr=True),
]
every = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.name.value}-{c.zero_terminal_snr}")


def start() -> torch.Tensor:
    return torch.randn(2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def sample(sampler, schedule, plan, seed=1) -> torch.Tensor:
    return run(sampler, schedule, plan, start(), SharedNoise(torch.Generator().manual_seed(seed)), DATA.denoiser(schedule))


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sampler", [DDIM(), Euler()], ids=repr)
def test_ddim_without_noise_is_euler_in_sigma_over_alpha(sampler):
    schedule = make_schedule(ScheduleConfig())
    plan, denoise = times(Spacing.linspace, schedule, 12), DATA.denoiser(schedule)
    alpha, _ = schedule(plan)
    ratio = schedule.sigma_ratio(plan)
    y = start() / alpha[0]
    for i in range(12):
        x_0 = denoise(alpha[i] * y, plan[i].expand(2))
        y = y + (ratio[i + 1] - ratio[i]) * (y - x_0) / ratio[i]
    same(sample(sampler, schedule, plan), y)


@pytest.mark.parametrize("sampler", [DDIM(), Euler()], ids=repr)
def test_the_rectified_euler_step_is_the_flow_step(sampler):
    schedule = make_schedule(ScheduleConfig(ScheduleName.rectified))
    plan, denoise, x = times(Spacing.linspace, schedule, 12), DATA.denoiser(schedule), start()
    for t, s in pairwise(plan):
        velocity = (x - denoise(x, t.expand(2))) / t  # eps - x_0 of x = (1 - t) x_0 + t eps
        x = x + (s - t) * velocity
    same(sample(sampler, schedule, plan), x)


def test_the_rectified_heun_step_is_the_trapezium_of_the_flow():
    schedule = make_schedule(ScheduleConfig(ScheduleName.rectified))
    plan, denoise, x = torch.linspace(1, 0, 6, dtype=torch.float64), DATA.denoiser(schedule), start()
    for t, s in pairwise(plan):
        slope = (x - denoise(x, t.expand(2))) / t
        guess = x + (s - t) * slope
        x = x + (s - t) * (slope if s == 0 else (slope + (guess - denoise(guess, s.expand(2))) / s) / 2)
    same(sample(Heun(), schedule, plan), x)


@every
@pytest.mark.parametrize("spacing", [Spacing.leading, Spacing.trailing, Spacing.karras])
def test_ddim_with_all_its_noise_is_ancestral_sampling_with_the_small_variance(config, spacing):
    schedule = make_schedule(config)
    plan = times(spacing, schedule, 15)
    same(sample(DDIM(eta=1.0), schedule, plan), sample(DDPM(), schedule, plan))
    same(sample(EulerAncestral(), schedule, plan), sample(DDPM(), schedule, plan))


def test_ancestral_sampling_on_the_whole_table_is_algorithm_2():
    """x_{k-1} = (x_k - beta_k / sqrt(1 - alphabar_k) eps) / sqrt(1 - beta_k) + sqrt(betatilde_k) n (Ho et al. 2020)."""
    schedule = make_schedule(ScheduleConfig(num_steps=50))
    denoise, x, rng = DATA.denoiser(schedule), start(), torch.Generator().manual_seed(1)
    for k in range(49, -1, -1):
        beta, now = schedule.betas[k], schedule.alpha_bars[k]
        before = schedule.alpha_bars[k - 1] if k else torch.ones_like(now)
        x_0 = denoise(x, torch.full((2,), (k + 1) / 50, dtype=torch.float64))
        eps = (x - now.sqrt() * x_0) / (1 - now).sqrt()
        x = (x - beta / (1 - now).sqrt() * eps) / (1 - beta).sqrt()
        if k:
            tilde = (1 - before) / (1 - now) * beta
            x = x + tilde.sqrt() * torch.randn(x.shape, generator=rng, dtype=x.dtype)
    same(sample(DDPM(), schedule, times(Spacing.trailing, schedule, 50)), x)


@every
def test_the_first_step_of_dpm_solver_is_ddim(config):
    schedule = make_schedule(config)
    plan = torch.tensor([1.0, 0.5], dtype=torch.float64)
    same(sample(DPMSolverPP2M(), schedule, plan), sample(DDIM(), schedule, plan))


@every
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_data_at_a_point_is_reached_exactly(config, name):
    """Clean ends: with x_0 known, every sampler ends there, from pure noise, in one step as in ten."""
    schedule, sampler = make_schedule(config), SAMPLERS[name]
    for num_steps in (1, 2, 10):
        plan = times(sampler.spacing, schedule, num_steps)
        denoise = GaussianData(0.7, 0.0).denoiser(schedule)
        got = run(sampler, schedule, plan, start(), SharedNoise(torch.Generator().manual_seed(2)), denoise)
        torch.testing.assert_close(got, torch.full_like(got, 0.7), rtol=0, atol=1e-9)


@every
@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("spacing", list(Spacing))
def test_every_sampler_walks_every_grid_of_every_schedule(config, name, spacing):
    schedule, sampler = make_schedule(config), SAMPLERS[name]
    largest = 8 if name == "plms" else 6  # the weights of PLMS are those of equal steps in t; the data is within 2
    for num_steps in (1, 3, 20):
        got = sample(sampler, schedule, times(spacing, schedule, num_steps)).float()
        assert got.abs().max() < largest  # NaN fails too


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_silly_etas_are_refused(eta):
    with pytest.raises(InputError, match="eta"):
        DDIM(eta=eta)


def test_every_sampler_has_a_display_name():
    assert DISPLAY_NAMES.keys() == SAMPLERS.keys()
    assert len(set(DISPLAY_NAMES.values())) == len(SAMPLERS)
