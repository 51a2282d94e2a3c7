"""Stochastic samplers: exact cases, moments in distribution, and noise that belongs to a picture."""

import math

import pytest
import torch

from oracles import GaussianData
from sfumato.diffusion.grids import times
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.noise import PictureNoise, SharedNoise
from sfumato.samplers import DDIM, DDPM, SAMPLERS, DPMSolverPP2M, DPMSolverPPSDE, EulerAncestral, Heun, Variance, run

STOCHASTIC = [
    DDPM(),
    DDPM(Variance.large),
    DDIM(eta=0.5),
    DDIM(eta=1.0),
    EulerAncestral(),
    DPMSolverPP2M(stochastic=True),
    DPMSolverPPSDE(),
]
every = pytest.mark.parametrize("sampler", STOCHASTIC, ids=lambda s: f"{type(s).__name__}-{STOCHASTIC.index(s)}")
CONFIGS = [ScheduleConfig(), ScheduleConfig(ScheduleName.rectified), ScheduleConfig(zero_terminal_snr=True)]
COUNT = 100_000
ERROR = 4 * math.sqrt(2 / COUNT)  # 4 standard errors, relative, of a variance


def sample(sampler, schedule, data, plan, seed=0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    mean, std = data.moments(schedule, float(plan[0]))
    x = mean + std * torch.randn(1, COUNT, generator=rng, dtype=torch.float64)
    return run(sampler, schedule, plan, x, SharedNoise(rng), data.denoiser(schedule))


class Impulses:
    """The i-th draw is the i-th unit vector, so that a linear sampler returns the weight of every draw in the sample."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return torch.nn.functional.one_hot(torch.tensor([self.count]), like.shape[1]).to(like)


def exact_std(sampler, schedule, plan, data: GaussianData) -> float:
    """Standard deviation of the sampler's output: the best denoiser of Gaussian data around 0 is linear in x_t."""
    x = torch.zeros(1, 2 * len(plan), dtype=torch.float64)
    x[0, 0] = data.moments(schedule, float(plan[0]))[1]
    return run(sampler, schedule, plan, x, Impulses(), data.denoiser(schedule)).square().sum().sqrt().item()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.name.value}-{c.zero_terminal_snr}")
@every
def test_the_variance_converges_at_the_order_of_the_method(sampler, config):
    schedule, data = make_schedule(config), GaussianData(0.0, 0.5)
    _, expected = data.moments(schedule, 0.05)
    plans = [torch.linspace(1, 0.05, num + 1, dtype=torch.float64) for num in (80, 160, 320)]
    errors = [abs(exact_std(sampler, schedule, plan, data) / expected - 1) for plan in plans]
    order = 2 if isinstance(sampler, DPMSolverPP2M | DPMSolverPPSDE) else 1
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.15), errors
    assert errors[2] < (0.01 if order == 1 else 0.001)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.name.value}-{c.zero_terminal_snr}")
@every
def test_a_thousand_steps_give_the_variance_of_the_data(sampler, config):
    schedule = make_schedule(config)
    got = exact_std(sampler, schedule, times(sampler.spacing, schedule, 1000), GaussianData(0.0, 0.5))
    assert got == pytest.approx(0.5, rel=0.02)  # the small variance keeps 1.4 % under the paper's schedule


@pytest.mark.parametrize(
    "config", [*CONFIGS, ScheduleConfig(ScheduleName.cosine)], ids=lambda c: f"{c.name.value}-{c.zero_terminal_snr}"
)
@pytest.mark.parametrize(("sampler", "num_steps"), [(Heun(), 10), (DPMSolverPP2M(), 20)], ids=["heun", "dpmpp_2m"])
def test_second_order_samplers_are_good_in_twenty_calls_on_their_own_grid(sampler, num_steps, config):
    """Within 6 % of the standard deviation, where DDIM misses 7 to 19 %: what their grids and variables were chosen for."""
    schedule, data = make_schedule(config), GaussianData(0.0, 0.5)
    got = exact_std(sampler, schedule, times(sampler.spacing, schedule, num_steps), data)
    first_order = exact_std(DDIM(), schedule, times(DDIM().spacing, schedule, 20), data)
    assert got == pytest.approx(0.5, rel=0.06)
    assert first_order < 0.5 * 0.95


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_the_large_variance_is_exact_for_normal_data_in_any_number_of_steps(num_steps):
    schedule, data = make_schedule(ScheduleConfig()), GaussianData(0.0, 1.0)
    plan = torch.linspace(1, 0.1, num_steps + 1, dtype=torch.float64)
    got = sample(DDPM(Variance.large), schedule, data, plan)
    assert got.var().item() == pytest.approx(1.0, rel=ERROR)


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(eta=1.0), DDIM(eta=0.3), DDIM(), EulerAncestral()], ids=repr)
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_the_small_variance_is_exact_for_data_at_a_point_in_any_number_of_steps(sampler, num_steps):
    schedule, data = make_schedule(ScheduleConfig(ScheduleName.cosine)), GaussianData(0.7, 0.0)
    plan = torch.linspace(1, 0.2, num_steps + 1, dtype=torch.float64)
    got = sample(sampler, schedule, data, plan)
    mean, std = data.moments(schedule, 0.2)
    assert got.var().item() == pytest.approx(std**2, rel=ERROR)
    assert got.mean().item() == pytest.approx(mean, abs=4 * std / math.sqrt(COUNT))


@every
def test_a_picture_does_not_depend_on_its_batch(sampler):
    schedule = make_schedule(ScheduleConfig())
    plan = times(sampler.spacing, schedule, 6)
    denoise = GaussianData().denoiser(schedule)

    def pictures(seeds):
        source = PictureNoise(seeds)
        return run(sampler, schedule, plan, source(torch.empty(len(seeds), 3, 4, 4)), source, denoise)

    together = pictures([7, 8, 9])
    assert torch.equal(pictures([8])[0], together[1])
    assert torch.equal(pictures([9, 7]), together[[2, 0]])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n in ("ddim", "euler", "heun", "dpmpp_2m", "plms", "lms", "unipc")])
def test_flow_samplers_draw_no_noise(name):
    def forbidden(like):
        raise AssertionError("a deterministic sampler asked for noise")

    schedule, sampler = make_schedule(ScheduleConfig()), SAMPLERS[name]
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    plan = times(sampler.spacing, schedule, 5)
    assert run(sampler, schedule, plan, x, forbidden, GaussianData().denoiser(schedule)).isfinite().all()
