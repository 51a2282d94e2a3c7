"""Step by step against diffusers: the same betas, the same network function, the same noise.

Both sides walk in float64, but diffusers keeps its tables and its sigmas in fp32: alphabar_T comes out of a product of
1,000 fp32 factors, each with relative error 6e-8, so that rows agree to about 1e-5, and so do states of order 1 after a few
dozen contracting steps. TOLERANCE is ten times that.
"""

import inspect

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.grids import Spacing, times
from sfumato.diffusion.prediction import Prediction, to_x0
from sfumato.diffusion.schedule import Schedule, ScheduleConfig, ScheduleName, make_schedule
from sfumato.noise import NoiseSource, SharedNoise
from sfumato.samplers import DDIM, DDPM, DPMSolverPP2M, Euler, EulerAncestral, Heun, Sampler, Variance

diffusers = pytest.importorskip("diffusers")

TOLERANCE = 1e-4
PAPER = {"num_train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}
ZERO_SNR = PAPER | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
both = pytest.mark.parametrize("prediction", [Prediction.eps, Prediction.v], ids=lambda p: p.value)


def network(x: Tensor, k: Tensor) -> Tensor:
    """A made-up network: smooth, nonlinear, different at every time."""
    k = k.to(x.dtype)
    return 0.6 * x + 0.3 * torch.sin(2 * x + 0.01 * k) - 0.1 * torch.cos(0.003 * k)


def start() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def ours(
    sampler: Sampler, schedule: Schedule, plan: Tensor, prediction: Prediction, noise: NoiseSource | None = None
) -> tuple[list[Tensor], list[float]]:
    """Every state that the network saw, then the sample; and the network's times."""
    stepper = sampler.steps(schedule, plan, start(), noise or SharedNoise(torch.Generator().manual_seed(1)))
    states, ks = [], []
    try:
        x_t, t = next(stepper)
        while True:
            states.append(x_t)
            k = schedule.network_time(t)
            ks.append(float(k[0]))
            x_t, t = stepper.send(to_x0(prediction, network(x_t, k[0]), x_t, *schedule(t)))
    except StopIteration as stop:
        return [*states, stop.value], ks


def theirs(scheduler, num_steps: int, scale: float = 1.0, **options) -> tuple[list[Tensor], list[float]]:
    """The same of a diffusers scheduler; `scale` takes our first state to its own."""
    scheduler.set_timesteps(num_steps)
    x = start() * scale
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(1)
    states, ks = [], []
    for k in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, k) if hasattr(scheduler, "scale_model_input") else x
        states.append(seen)
        ks.append(float(k))
        x = scheduler.step(network(seen, k), k, x, **options).prev_sample
    return [*states, x], ks


def compare(mine: tuple[list[Tensor], list[float]], other: tuple[list[Tensor], list[float]], tolerance: float = TOLERANCE):
    assert mine[1] == pytest.approx(other[1], abs=1e-4)
    assert len(mine[0]) == len(other[0])
    for i, (a, b) in enumerate(zip(mine[0], other[0], strict=True)):
        torch.testing.assert_close(
            a, b.to(a.dtype), rtol=tolerance, atol=tolerance, msg=lambda m, i=i: f"state {i} of {len(mine[0])}: {m}"
        )


class FP32Noise:
    """diffusers draws the noise of this sampler in fp32."""

    def __init__(self) -> None:
        self.rng = torch.Generator().manual_seed(1)

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.rng).to(like)


def kind(prediction: Prediction) -> dict[str, str]:
    return {"prediction_type": "epsilon" if prediction is Prediction.eps else "v_prediction"}


def paper() -> Schedule:
    return make_schedule(ScheduleConfig())


def ve_scale(schedule: Schedule) -> float:
    """From x_t to x_t / alpha_t at t = 1, where diffusers' sigma samplers live."""
    return 1 / float(schedule(torch.ones(1, dtype=torch.float64))[0])


@both
@pytest.mark.parametrize("variance", list(Variance))
@pytest.mark.parametrize("num_steps", [20, 1000])
def test_ddpm(prediction, variance, num_steps):
    other = diffusers.DDPMScheduler(
        **PAPER, **kind(prediction), clip_sample=False, variance_type=f"fixed_{variance.value}", timestep_spacing="trailing"
    )
    plan = times(Spacing.trailing, paper(), num_steps)
    mine, them = ours(DDPM(variance), paper(), plan, prediction), theirs(other, num_steps)
    if variance is Variance.large and num_steps == 20:
        # diffusers leaves the noise of the last step out only if that step is at row 0; here it is at row 49.
        mine[0].pop(), them[0].pop()
    # 1,000 steps add up 1,000 roundings of the fp32 tables.
    compare(mine, them, TOLERANCE if num_steps == 20 else 1e-3)


@both
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_trailing(prediction, eta):
    other = diffusers.DDIMScheduler(**PAPER, **kind(prediction), clip_sample=False, timestep_spacing="trailing")
    plan = times(
        Spacing.trailing, paper(), 25
    )  # 25 divides 1,000: otherwise diffusers steps to t - 1000 // N, off its own grid
    compare(ours(DDIM(eta), paper(), plan, prediction), theirs(other, 25, eta=eta))


@both
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_on_the_grid_of_the_papers_code(prediction, eta):
    other = diffusers.DDIMScheduler(
        **PAPER, **kind(prediction), clip_sample=False, timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False
    )
    plan = times(Spacing.leading, paper(), 50)
    compare(ours(DDIM(eta), paper(), plan, prediction), theirs(other, 50, eta=eta))


@both
@pytest.mark.parametrize(
    "num_steps", [10, 28]
)  # 999 / (N - 1) is whole: on fractions diffusers interpolates sigma, not log sigma
def test_euler(prediction, num_steps):
    other = diffusers.EulerDiscreteScheduler(**PAPER, **kind(prediction), timestep_spacing="linspace")
    plan = times(Spacing.linspace, paper(), num_steps)
    mine = ours(Euler(), paper(), plan, prediction)
    compare(mine, theirs(other, num_steps, ve_scale(paper())))


def test_the_karras_grid():
    other = diffusers.EulerDiscreteScheduler(**PAPER, use_karras_sigmas=True, timestep_spacing="linspace")
    other.set_timesteps(25)
    plan = times(Spacing.karras, paper(), 25)
    torch.testing.assert_close(paper().sigma_ratio(plan).float(), other.sigmas, rtol=1e-4, atol=1e-6)
    k = paper().network_time(plan[:-1]).float()
    torch.testing.assert_close(k, other.timesteps.float(), rtol=0, atol=0.01)  # fp32 log sigma over table steps of 0.003


@both
def test_euler_ancestral(prediction):
    other = diffusers.EulerAncestralDiscreteScheduler(**PAPER, **kind(prediction), timestep_spacing="linspace")
    plan = times(Spacing.linspace, paper(), 28)
    compare(ours(EulerAncestral(), paper(), plan, prediction), theirs(other, 28, ve_scale(paper())))


@both
def test_heun(prediction):
    """With the betas of Stable Diffusion: under the paper's, ours steps in sigma / (alpha + sigma)."""
    schedule = make_schedule(ScheduleConfig(beta_start=0.00085, beta_end=0.012))
    betas = PAPER | {"beta_start": 0.00085, "beta_end": 0.012}
    other = diffusers.HeunDiscreteScheduler(**betas, **kind(prediction), timestep_spacing="linspace")
    mine = ours(Heun(), schedule, times(Spacing.linspace, schedule, 28), prediction)
    compare(mine, theirs(other, 28, ve_scale(schedule)))


@both
@pytest.mark.parametrize("stochastic", [False, True])
def test_dpm_solver(prediction, stochastic):
    other = diffusers.DPMSolverMultistepScheduler(
        **PAPER,
        **kind(prediction),
        algorithm_type="sde-dpmsolver++" if stochastic else "dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    plan = times(Spacing.trailing, paper(), 25)
    compare(ours(DPMSolverPP2M(stochastic), paper(), plan, prediction, FP32Noise()), theirs(other, 25))


@pytest.mark.parametrize("num_steps", [1, 4, 28])
def test_the_rectified_flow(num_steps):
    schedule = make_schedule(ScheduleConfig(ScheduleName.rectified))
    other = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    other.set_timesteps(num_steps)
    plan = other.sigmas.double()  # its own plan: from 1 down to 1/1000, then 0
    states, x = [], start()
    for k in other.timesteps:
        states.append(x)
        x = other.step(network(x, k), k, x).prev_sample.double()  # it steps in fp32
    mine = ours(Euler(), schedule, plan, Prediction.velocity)
    compare(mine, ([*states, x], other.timesteps.tolist()))


def test_the_zero_terminal_table():
    other = diffusers.DDIMScheduler(**ZERO_SNR)
    schedule = make_schedule(ScheduleConfig(zero_terminal_snr=True))
    torch.testing.assert_close(schedule.alpha_bars.float(), other.alphas_cumprod, rtol=1e-3, atol=1e-7)
    assert other.alphas_cumprod[-1] == schedule.alpha_bars[-1] == 0


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_from_pure_noise(eta):
    schedule = make_schedule(ScheduleConfig(zero_terminal_snr=True))
    other = diffusers.DDIMScheduler(**ZERO_SNR, clip_sample=False, timestep_spacing="trailing")
    compare(ours(DDIM(eta), schedule, times(Spacing.trailing, schedule, 25), Prediction.v), theirs(other, 25, eta=eta))


def test_ddpm_from_pure_noise():
    schedule = make_schedule(ScheduleConfig(zero_terminal_snr=True))
    other = diffusers.DDPMScheduler(**ZERO_SNR, clip_sample=False, timestep_spacing="trailing")
    compare(ours(DDPM(), schedule, times(Spacing.trailing, schedule, 25), Prediction.v), theirs(other, 25))


def test_euler_from_pure_noise():
    """diffusers puts alpha_1 = 2^-12 for 0 here, and the states differ by as much.

    Its ancestral Euler is not compared: with that alpha it keeps 5 % of the first noise, which at alpha = 0 is none.
    """
    schedule = make_schedule(ScheduleConfig(zero_terminal_snr=True))
    other = diffusers.EulerDiscreteScheduler(**ZERO_SNR, timestep_spacing="linspace")
    mine = ours(Euler(), schedule, times(Spacing.linspace, schedule, 28), Prediction.v)
    compare(mine, theirs(other, 28, 2.0**12), 1e-3)
