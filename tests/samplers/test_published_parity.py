"""Twenty steps on the published schedules, state by state, against the reference schedulers of diffusers.

The network is a small fixed function of x_t and t, read as eps or as v. Where the reference lets us, it is given our table in
float64 (its own is fp32, see test_published_schedules): then both do the same arithmetic, up to EXACT. Some schedulers cast
the sample to fp32 in every step; there, and where the whole walk is in fp32, rounding of 6e-8 is enlarged by the sigma / alpha
<= 102 of the first step and by the network: ROUNDED.
"""

import dataclasses
import importlib
import inspect
import sys
import types

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.grids import Spacing, times
from sfumato.diffusion.prediction import Prediction, to_eps, to_x0
from sfumato.diffusion.schedule import Schedule, ScheduleConfig, make_schedule
from sfumato.samplers import (
    BH,
    DDIM,
    LMS,
    PLMS,
    DPMSolverPP2M,
    DPMSolverPPSDE,
    Euler,
    EulerAncestral,
    Heun,
    PLMSStart,
    Sampler,
    UniPC,
)

diffusers = pytest.importorskip("diffusers")

EXACT, ROUNDED = 1e-10, 5e-5
BETAS = {
    "ldm": (0.0015, 0.0195),
    "churches": (0.0015, 0.0155),
    "inpainting": (0.0015, 0.0205),
    "rdm": (0.0015, 0.015),
    "stable_diffusion": (0.00085, 0.012),
    "upscaler": (0.0001, 0.02),
}
published = pytest.mark.parametrize("name", list(BETAS))
both = pytest.mark.parametrize("prediction", [Prediction.eps, Prediction.v], ids=lambda p: p.value)
precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
STEPS = 20


def network(x: Tensor, k: Tensor) -> Tensor:
    """Smooth, nonlinear, different at every time."""
    k = k.to(x.dtype)
    return 0.6 * x + 0.3 * torch.sin(2 * x + 0.01 * k) - 0.1 * torch.cos(0.003 * k)


def start(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


class FP32Noise:
    """The same draws on both sides, whoever asks."""

    def __init__(self) -> None:
        self.rng = torch.Generator().manual_seed(1)

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.rng).to(like)


def schedule_of(name: str) -> Schedule:
    low, high = BETAS[name]
    return make_schedule(ScheduleConfig(beta_start=low, beta_end=high))


def options(name: str, prediction: Prediction) -> dict[str, object]:
    low, high = BETAS[name]
    kind = "epsilon" if prediction is Prediction.eps else "v_prediction"
    return {"beta_schedule": "scaled_linear", "beta_start": low, "beta_end": high, "prediction_type": kind}


@dataclasses.dataclass
class Walk:
    """What the network was shown, and when; the sample is the last state."""

    states: list[Tensor]
    rows: list[float]


def ours(sampler: Sampler, schedule: Schedule, plan: Tensor, prediction: Prediction, dtype=torch.float64) -> Walk:
    stepper, walk = sampler.steps(schedule, plan, start(dtype), FP32Noise()), Walk([], [])
    try:
        x_t, t = next(stepper)
        while True:
            k = schedule.network_time(t)[0]
            walk.states.append(x_t)
            walk.rows.append(float(k))
            x_t, t = stepper.send(to_x0(prediction, network(x_t, k), x_t, *schedule(t)))
    except StopIteration as stop:
        walk.states.append(stop.value)
    return walk


def theirs(scheduler, schedule: Schedule, plan: Tensor, dtype=torch.float64, exact: bool = True, **extra) -> Walk:
    """`plan` only says which sigmas belong to the scheduler's own times; its times are compared by the tests."""
    if exact:
        scheduler.alphas_cumprod = schedule.alpha_bars.clone()
        if hasattr(scheduler, "final_alpha_cumprod"):
            scheduler.final_alpha_cumprod = schedule.alpha_bars[0]
    scheduler.set_timesteps(STEPS)
    x = start(dtype)
    if hasattr(scheduler, "sigmas") and not isinstance(
        scheduler, diffusers.DPMSolverMultistepScheduler | diffusers.UniPCMultistepScheduler
    ):
        x = x / float(schedule(plan[:1])[0])  # they walk on x / alpha
    if exact and hasattr(scheduler, "sigmas"):
        assert len(scheduler.sigmas) >= len(plan)
        ratios = schedule.sigma_ratio(plan)
        if isinstance(scheduler, diffusers.HeunDiscreteScheduler):  # two entries a step but the first
            ratios = torch.cat([ratios[:1], ratios[1:-1].repeat_interleave(2), ratios[-1:]])
        torch.testing.assert_close(scheduler.sigmas, ratios.float(), rtol=1e-4, atol=1e-6)
        scheduler.sigmas = ratios
    if "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = torch.Generator().manual_seed(1)
    walk = Walk([], [])
    for k in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, k)
        walk.states.append(seen)
        walk.rows.append(float(k))
        x = scheduler.step(network(seen, k), k, x, **extra).prev_sample
    walk.states.append(x)
    return walk


def compare(mine: Walk, other: Walk, tolerance: float) -> None:
    assert mine.rows == pytest.approx(other.rows, abs=1e-4)
    assert len(mine.states) == len(other.states)
    for i, (a, b) in enumerate(zip(mine.states, other.states, strict=True)):
        torch.testing.assert_close(
            a, b.to(a.dtype), rtol=tolerance, atol=tolerance, msg=lambda m, i=i: f"state {i} of {len(mine.states)}: {m}"
        )


def tolerance(dtype: torch.dtype) -> float:
    return EXACT if dtype == torch.float64 else ROUNDED


@published
@both
@precisions
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim(name, prediction, dtype, eta):
    """The paper's grid, and its end at alphabar_0 (set_alpha_to_one=False)."""
    schedule = schedule_of(name)
    other = diffusers.DDIMScheduler(
        **options(name, prediction), clip_sample=False, timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False
    )
    plan = times(Spacing.leading, schedule, STEPS)
    noise = FP32Noise()
    draws = iter([noise(start(dtype)) for _ in range(STEPS)])
    other_step = other.step

    def step(output, k, x, eta):
        return other_step(output, k, x, eta=eta, variance_noise=next(draws) if eta else None)

    other.step = step
    compare(ours(DDIM(eta), schedule, plan, prediction, dtype), theirs(other, schedule, plan, dtype, eta=eta), tolerance(dtype))


def pndm(name: str, **extra):
    return diffusers.PNDMScheduler(
        **options(name, Prediction.eps), timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False, **extra
    )


@published
@both
@precisions
@pytest.mark.parametrize("begin", list(PLMSStart))
def test_plms(name, prediction, dtype, begin):
    """Both starts. The reference sums slopes of whatever the network says; here it is told eps, as in the paper, also for v."""
    schedule = schedule_of(name)
    other = pndm(name, skip_prk_steps=begin is PLMSStart.improved_euler)
    plan = times(Spacing.leading, schedule, STEPS)
    mine = ours(PLMS(begin), schedule, plan, prediction, dtype)
    other_step = other.step

    def step(output, k, x):
        alpha, sigma = schedule((k.double() + 1) / 1000)
        return other_step(to_eps(prediction, output, x, alpha.to(dtype), sigma.to(dtype)), k, x)

    other.step = step
    them = theirs(other, schedule, plan, dtype)
    assert len(mine.rows) == (STEPS + 1 if begin is PLMSStart.improved_euler else STEPS + 9)
    compare(mine, them, tolerance(dtype))


def test_the_start_of_plms_is_that_of_the_papers_code():
    """CompVis' first step, written from its description: Euler to t_1, then the mean of both eps from t_0 once more."""
    schedule = schedule_of("ldm")
    plan = times(Spacing.leading, schedule, 50)
    a = schedule(plan)[0] ** 2  # alphabar

    def jump(x: Tensor, eps: Tensor, i: int) -> Tensor:
        x_0 = (x - (1 - a[i]).sqrt() * eps) / a[i].sqrt()
        return a[i + 1].sqrt() * x_0 + (1 - a[i + 1]).sqrt() * eps

    rows = (plan * 1000 - 1).round()
    x, eps = start(), network(start(), rows[0])
    after = network(jump(x, eps, 0), rows[1])
    expected = jump(x, (eps + after) / 2, 0)
    mine = ours(PLMS(), schedule, plan, Prediction.eps)
    torch.testing.assert_close(mine.states[2], expected, rtol=EXACT, atol=EXACT)
    second = jump(expected, (3 * network(expected, rows[1]) - eps) / 2, 1)
    torch.testing.assert_close(mine.states[3], second, rtol=EXACT, atol=EXACT)


SIGMA_GRIDS = {
    Spacing.leading_clean: {"timestep_spacing": "leading", "steps_offset": 1},
    Spacing.trailing: {"timestep_spacing": "trailing"},
}
sigma_grids = pytest.mark.parametrize("spacing", list(SIGMA_GRIDS), ids=lambda s: s.value)


@published
@both
@precisions
@sigma_grids
def test_euler(name, prediction, dtype, spacing):
    schedule = schedule_of(name)
    other = diffusers.EulerDiscreteScheduler(**options(name, prediction), **SIGMA_GRIDS[spacing])
    plan = times(spacing, schedule, STEPS)
    compare(ours(Euler(), schedule, plan, prediction, dtype), theirs(other, schedule, plan, dtype), ROUNDED)


@published
@both
@precisions
@sigma_grids
def test_euler_ancestral(name, prediction, dtype, spacing):
    schedule = schedule_of(name)
    other = diffusers.EulerAncestralDiscreteScheduler(**options(name, prediction), **SIGMA_GRIDS[spacing])
    plan = times(spacing, schedule, STEPS)
    if dtype == torch.float64:  # it draws in the type of the output: the same numbers on both sides only in fp32
        other = with_fp32_noise(other)
    compare(ours(EulerAncestral(), schedule, plan, prediction, dtype), theirs(other, schedule, plan, dtype), ROUNDED)


def with_fp32_noise(scheduler):
    inner = scheduler.step

    def step(output, k, x, generator=None):
        return inner(output.float(), k, x, generator=generator)

    scheduler.step = step
    return scheduler


@published
@both
@precisions
@sigma_grids
def test_heun(name, prediction, dtype, spacing):
    """In sigma/alpha under every schedule, as k-diffusion."""
    schedule = schedule_of(name)
    other = diffusers.HeunDiscreteScheduler(**options(name, prediction), **SIGMA_GRIDS[spacing])
    plan = times(spacing, schedule, STEPS)
    mine = ours(Heun(largest_ratio=float("inf")), schedule, plan, prediction, dtype)
    compare(mine, theirs(other, schedule, plan, dtype), tolerance(dtype))


@published
@both
@precisions
@sigma_grids
def test_lms(name, prediction, dtype, spacing):
    """The reference integrates by quadrature to a relative error of 1e-4."""
    schedule = schedule_of(name)
    other = diffusers.LMSDiscreteScheduler(**options(name, prediction), **SIGMA_GRIDS[spacing])
    plan = times(spacing, schedule, STEPS)
    compare(ours(LMS(), schedule, plan, prediction, dtype), theirs(other, schedule, plan, dtype), ROUNDED)


@published
@both
@precisions
@pytest.mark.parametrize("stochastic", [False, True], ids=["ode", "sde"])
def test_dpm_solver_2m(name, prediction, dtype, stochastic):
    schedule = schedule_of(name)
    other = diffusers.DPMSolverMultistepScheduler(
        **options(name, prediction),
        algorithm_type="sde-dpmsolver++" if stochastic else "dpmsolver++",
        solver_order=2,
        timestep_spacing="trailing",
    )
    plan = times(Spacing.trailing, schedule, STEPS)
    mine = ours(DPMSolverPP2M(stochastic), schedule, plan, prediction, dtype)
    compare(mine, theirs(other, schedule, plan, dtype), ROUNDED)


@published
@both
@precisions
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_dpm_solver_2m_to_the_first_row(name, prediction, dtype, spacing):
    """The end of the authors' code, row 0, on each grid of rows that the reference makes; the last step of order one."""
    schedule = schedule_of(name)
    other = diffusers.DPMSolverMultistepScheduler(
        **options(name, prediction), timestep_spacing=spacing, final_sigmas_type="sigma_min", euler_at_final=True
    )
    other.set_timesteps(STEPS)
    plan = torch.cat([(other.timesteps.double() + 1) / 1000, torch.tensor([1 / 1000], dtype=torch.float64)])
    mine = ours(DPMSolverPP2M(), schedule, plan, prediction, dtype)
    compare(mine, theirs(other, schedule, plan, dtype), ROUNDED)


@published
@both
@precisions
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", list(BH))
def test_unipc(name, prediction, dtype, order, variant):
    schedule = schedule_of(name)
    other = diffusers.UniPCMultistepScheduler(
        **options(name, prediction), solver_order=order, solver_type=variant.value, timestep_spacing="trailing"
    )
    plan = times(Spacing.trailing, schedule, STEPS)
    mine, them = ours(UniPC(order, variant), schedule, plan, prediction, dtype), theirs(other, schedule, plan, dtype)
    if variant is BH.bh1:  # infinity times zero in the reference's last step, which is to x_0
        assert them.states.pop().isnan().all()
        k = torch.tensor(mine.rows[-1], dtype=torch.float64)
        x_0 = to_x0(prediction, network(them.states[-1], k), them.states[-1], *(v.to(dtype) for v in schedule((k + 1) / 1000)))
        them.states.append(x_0)
    compare(mine, them, tolerance(dtype))


@published
@both
@precisions
@pytest.mark.parametrize("lower", [True, False], ids=["lower_order_final", "full_order"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", list(BH))
def test_unipc_to_the_first_row(name, prediction, dtype, order, variant, lower):
    """Its end in the authors' code is row 0, where every order and both variants are finite."""
    schedule = schedule_of(name)
    other = diffusers.UniPCMultistepScheduler(
        **options(name, prediction),
        solver_order=order,
        solver_type=variant.value,
        timestep_spacing="trailing",
        final_sigmas_type="sigma_min",
        lower_order_final=lower,
    )
    plan = times(Spacing.trailing, schedule, STEPS)
    plan[-1] = 1 / 1000
    mine = ours(UniPC(order, variant, lower_order_final=lower), schedule, plan, prediction, dtype)
    compare(mine, theirs(other, schedule, plan, dtype), tolerance(dtype))


def sde_scheduler() -> type:
    """diffusers imports torchsde for its noise, which the test replaces; the package itself is not needed."""
    if "torchsde" not in sys.modules:
        sys.modules["torchsde"] = types.ModuleType("torchsde")
    return importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde").DPMSolverSDEScheduler


class Brownian:
    """Increments of one Brownian motion in sigma, over the half and then the whole of a step, in units of their own size."""

    def __init__(self, dtype: torch.dtype):
        self.noise, self.like, self.half = FP32Noise(), start(dtype), None

    def __call__(self, high: Tensor, low: Tensor) -> Tensor:
        high, low = float(high), float(low)
        if self.half is None:
            self.half = (high, low, self.noise(self.like))
            return self.half[2]
        top, middle, first = self.half
        assert high == top
        self.half = None
        return ((top - middle) ** 0.5 * first + (middle - low) ** 0.5 * self.noise(self.like)) / (top - low) ** 0.5


@published
@both
@precisions
def test_dpm_solver_sde(name, prediction, dtype):
    schedule = schedule_of(name)
    other = sde_scheduler()(**options(name, prediction), timestep_spacing="trailing")
    other.set_timesteps(STEPS)
    other.noise_sampler = Brownian(dtype)
    plan = times(Spacing.trailing, schedule, STEPS)
    mine = ours(DPMSolverPPSDE(), schedule, plan, prediction, dtype)
    x, states, rows = start(dtype) / float(schedule(plan[:1])[0]), [], []
    for k in other.timesteps:
        seen = other.scale_model_input(x, k)
        states.append(seen)
        rows.append(float(k))
        x = other.step(network(seen, k), k, x).prev_sample
    assert mine.rows == pytest.approx(rows, abs=0.02)  # it reads the time in the middle off an fp32 table of log sigma
    compare(dataclasses.replace(mine, rows=rows), Walk([*states, x], rows), ROUNDED)
