"""Bias and order of convergence on data whose flow is known."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from oracles import GaussianData, MixtureData
from sfumato.diffusion.grids import times
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.noise import SharedNoise
from sfumato.samplers import DDIM, SAMPLERS, DPMSolverPP2M, Euler, Heun, UniPC, run

SCHEDULES = {
    "paper": ScheduleConfig(),
    "stable_diffusion": ScheduleConfig(beta_start=0.00085, beta_end=0.012),
    "cosine": ScheduleConfig(ScheduleName.cosine),
    "rectified": ScheduleConfig(ScheduleName.rectified),
    "zero_snr": ScheduleConfig(zero_terminal_snr=True),
}
ORDERS = {DDIM(): 1, Euler(): 1, Heun(): 2, DPMSolverPP2M(): 2, UniPC(): 2}
every_schedule = pytest.mark.parametrize("name", list(SCHEDULES))
DATA = GaussianData(0.3, 0.5)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(errors: list[float]) -> float:
    """log2 of the fall of the error from the last halving of the step."""
    return math.log2(errors[-2] / errors[-1])


@pytest.mark.parametrize("name", ["paper", "stable_diffusion", "rectified", "zero_snr"])
@pytest.mark.parametrize("sampler", list(ORDERS), ids=lambda s: type(s).__name__)
def test_order_of_convergence(sampler, name):
    """From t = 1 to t = 0.05, where the flow is still smooth in every variable."""
    schedule = make_schedule(SCHEDULES[name])
    mean, std = DATA.moments(schedule, 1.0)
    x = mean + std * noise(0, 4, 16)
    exact = DATA.flow(schedule, x, 1.0, 0.05)
    errors = []
    for num in (20, 40, 80, 160, 320):
        plan = torch.linspace(1, 0.05, num + 1, dtype=torch.float64)
        got = run(sampler, schedule, plan, x, SharedNoise(), DATA.denoiser(schedule))
        errors.append(float((got - exact).square().mean().sqrt()))
    order = ORDERS[sampler]
    # An order is an asymptotic slope: 0.2 is the distance that remains at 320 steps.
    assert slope(errors) == pytest.approx(order, abs=0.2), errors
    assert errors[-1] < (5e-3 if order == 1 else 2e-4)


@every_schedule
@pytest.mark.parametrize("sampler", list(ORDERS), ids=lambda s: type(s).__name__)
def test_flow_samplers_reach_the_data_on_their_own_grid(sampler, name):
    schedule = make_schedule(SCHEDULES[name])
    mean, std = DATA.moments(schedule, 1.0)
    x = mean + std * noise(1, 4, 16)
    got = run(sampler, schedule, times(sampler.spacing, schedule, 200), x, SharedNoise(), DATA.denoiser(schedule))
    error = float((got - DATA.flow(schedule, x, 1.0, 0.0)).square().mean().sqrt()) / DATA.std
    # The last step, from ratio r to 0, has a relative error of (r / std)^2 / 2: r = 0.09 on DDIM's grid, 0.04 on the others.
    assert error < (0.04 if ORDERS[sampler] == 1 else 0.005)


@pytest.mark.parametrize("sampler", list(ORDERS), ids=lambda s: type(s).__name__)
def test_flow_samplers_agree_with_a_general_ode_solver_on_a_mixture(sampler):
    """d(x/alpha)/d(sigma/alpha) = eps, solved by an adaptive Runge-Kutta method of order 8."""
    schedule, data = make_schedule(ScheduleConfig()), MixtureData()
    denoise, x = data.denoiser(schedule), noise(2, 1, 64)
    plan = torch.linspace(1, 0.02, 401, dtype=torch.float64)

    def eps(ratio, y):
        t = schedule.inverse_ratio(torch.tensor([ratio], dtype=torch.float64))
        alpha, sigma = schedule(t)
        x_t = alpha * torch.from_numpy(y)[None]
        return ((x_t - alpha * denoise(x_t, t)) / sigma)[0].numpy()

    first, last = (float(v) for v in schedule.sigma_ratio(plan[[0, -1]]))
    (alpha_1, _), (alpha_0, _) = schedule(plan[0]), schedule(plan[-1])
    solved = solve_ivp(eps, (first, last), (x / alpha_1)[0].numpy(), method="DOP853", rtol=1e-9, atol=1e-9)
    expected = alpha_0 * torch.from_numpy(solved.y[:, -1])[None]
    got = run(sampler, schedule, plan, x, SharedNoise(), denoise)
    assert float((got - expected).square().mean().sqrt()) < (0.02 if ORDERS[sampler] == 1 else 1e-3)


@every_schedule
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_draws_the_mixture(sampler, name):
    """Weights, mean, variance and the spread of the narrow part, of 10,000 samples in 500 calls."""
    schedule, data, count = make_schedule(SCHEDULES[name]), MixtureData(), 10_000
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(1, count, generator=rng, dtype=torch.float64)
    method = SAMPLERS[sampler]
    num_steps = 250 if sampler in ("heun", "dpmpp_sde") else 500
    got = run(method, schedule, times(method.spacing, schedule, num_steps), x, SharedNoise(rng), data.denoiser(schedule))
    low = got[got < -0.3]
    # 4 standard errors, and 0.01 for the start at N(0, 1) and the bias of 500 steps.
    assert len(low) / count == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / count) + 0.01)
    assert got.mean().item() == pytest.approx(data.mean, abs=4 * math.sqrt(data.variance / count) + 0.01)
    assert got.var().item() == pytest.approx(data.variance, rel=4 * math.sqrt(2 / count) + 0.02)
    assert low.std().item() == pytest.approx(0.2, abs=4 * 0.2 / math.sqrt(2 * 0.3 * count) + 0.015)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_the_number_of_calls(sampler, num_steps):
    schedule, method = make_schedule(ScheduleConfig()), SAMPLERS[sampler]
    seen = []

    def denoise(x_t, t):
        seen.append(t)
        return 0.5 * x_t

    plan = times(method.spacing, schedule, num_steps)
    result = run(method, schedule, plan, torch.randn(3, 2), SharedNoise(), denoise)
    twice = sampler in ("heun", "dpmpp_sde")
    again = 1 if sampler == "plms" and num_steps > 1 else 0  # its first step
    assert len(seen) == method.num_calls(num_steps) == (2 * num_steps - 1 if twice else num_steps + again)
    assert result.shape == (3, 2)
    assert result.dtype == torch.float32
    assert all(t.shape == (3,) and t.dtype == torch.float32 for t in seen)
    asked = torch.stack([t[0] for t in (seen[::2] if sampler == "dpmpp_sde" else seen)])  # that one also asks in between
    assert torch.equal(asked.unique(), plan[:-1].float().unique())
