"""PLMS, LMS and UniPC: weights and orders of convergence known from theory."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from oracles import GaussianData
from sfumato.diffusion.grids import Spacing, times
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.noise import SharedNoise
from sfumato.samplers import BH, LMS, PLMS, DPMSolverPP2M, Euler, PLMSStart, UniPC, run
from sfumato.samplers.plms import ADAMS_BASHFORTH, lagrange_weights
from sfumato.samplers.unipc import phi, solve, step_orders

SCHEDULES = {
    "paper": ScheduleConfig(),
    "stable_diffusion": ScheduleConfig(beta_start=0.00085, beta_end=0.012),
    "rectified": ScheduleConfig(ScheduleName.rectified),
    "zero_snr": ScheduleConfig(zero_terminal_snr=True),
}
every_schedule = pytest.mark.parametrize("name", list(SCHEDULES))
DATA = GaussianData(0.3, 0.5)


def errors(sampler, name: str) -> list[float]:
    """Of 20, 40, ... 320 steps from t = 1 to 0.05, where the flow is smooth in every variable."""
    schedule = make_schedule(SCHEDULES[name])
    mean, std = DATA.moments(schedule, 1.0)
    x = mean + std * torch.randn(4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = DATA.flow(schedule, x, 1.0, 0.05)
    result = []
    for num in (20, 40, 80, 160, 320):
        plan = torch.linspace(1, 0.05, num + 1, dtype=torch.float64)
        got = run(sampler, schedule, plan, x, SharedNoise(), DATA.denoiser(schedule))
        result.append(float((got - exact).square().mean().sqrt()))
    return result


def orders(found: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in pairwise(found)]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_on_equal_steps_the_weights_are_those_of_adams_and_bashforth(order):
    positions = [7.0 - 0.5 * i for i in range(order + 1)]
    assert lagrange_weights(positions) == pytest.approx(ADAMS_BASHFORTH[order - 1], rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("positions", [[84.0, 40.0, 13.0, 5.0, 1.0], [0.9, 0.5, 0.4, 0.1, 0.0]])
def test_polynomials_below_the_order_are_integrated_exactly(order, positions):
    positions = positions[-order - 1 :]
    start, end = positions[-2:]
    for degree in range(order):
        value = sum(w * p**degree for w, p in zip(lagrange_weights(positions), reversed(positions[:-1]), strict=True))
        mean = (end ** (degree + 1) - start ** (degree + 1)) / (degree + 1) / (end - start)
        assert value == pytest.approx(mean, rel=1e-9)


@every_schedule
def test_lms_has_its_order_until_the_start_shows(name):
    """The first step is Euler's, one error of order 2: order 2 is exact, higher ones are better on average."""
    assert orders(errors(LMS(1), name))[-1] == pytest.approx(1, abs=0.1)
    assert orders(errors(LMS(2), name))[-1] == pytest.approx(2, abs=0.1)
    best = errors(LMS(4), name)
    assert best[-1] < errors(LMS(2), name)[-1] / 10
    assert np.mean(orders(best)) > 1.75


def test_lms_of_order_one_is_euler():
    schedule = make_schedule(ScheduleConfig())
    plan, x = times(Spacing.linspace, schedule, 12), torch.randn(2, 5, dtype=torch.float64)
    first, second = (run(s, schedule, plan, x, SharedNoise(), DATA.denoiser(schedule)) for s in (LMS(1), Euler()))
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


@every_schedule
@pytest.mark.parametrize("start", list(PLMSStart))
def test_plms_is_of_order_two(start, name):
    """Its weights belong to equal steps in p and it takes equal steps in t: the product of both slopes is missed."""
    found = errors(PLMS(start), name)
    assert np.mean(orders(found)) > 1.9
    assert found[-1] < 1e-5


def test_plms_is_of_order_four_where_p_is_t():
    """The rectified schedule has p = sigma / (alpha + sigma) = t, so that equal steps in t are equal in p."""
    found = errors(PLMS(PLMSStart.runge_kutta), "rectified")
    assert orders(found)[-2:] == pytest.approx([4, 4], abs=0.25)


@every_schedule
@pytest.mark.parametrize("variant", list(BH))
def test_the_corrector_of_unipc_adds_an_order(variant, name):
    """UniP-p has order p, UniPC-p order p + 1 (theorem 3.1 and corollary 3.2), when the last steps keep their order."""
    for order in (1, 2):
        assert orders(errors(UniPC(order, variant, lower_order_final=False), name))[-1] == pytest.approx(order + 1, abs=0.25)
        plain = errors(UniPC(order, variant, corrector=False, lower_order_final=False), name)
        assert orders(plain)[-1] == pytest.approx(order, abs=0.25)
    third = errors(UniPC(3, variant, lower_order_final=False), name)
    assert np.mean(orders(third)) > 2.9  # the first step is of order 1, corrected: one error of order 3
    assert third[-1] < errors(UniPC(2, variant, lower_order_final=False), name)[-1]


def test_unipc_without_corrector_of_order_two_is_dpm_solver():
    """UniP-2 with B2 and a = 1/2 is DPM-Solver++(2M), but for the last step of finite length, lowered in both."""
    schedule = make_schedule(ScheduleConfig())
    plan, x = times(Spacing.karras, schedule, 12), torch.randn(2, 5, dtype=torch.float64)
    first, second = (
        run(s, schedule, plan, x, SharedNoise(), DATA.denoiser(schedule)) for s in (UniPC(corrector=False), DPMSolverPP2M())
    )
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("z", [-30.0, -1.5, -1.0, -0.99, -0.1, -1e-6])
def test_phi_is_an_integral(z):
    """phi_k(z) = integral over u in [0, 1] of e^((1 - u) z) u^(k-1) / (k-1)! (Hochbruck & Ostermann 2010)."""
    u, w = np.polynomial.legendre.leggauss(60)
    u, w = (u + 1) / 2, w / 2
    for k in (1, 2, 3, 4):
        assert phi(k, z) == pytest.approx(
            float(np.sum(w * np.exp((1 - u) * z) * u ** (k - 1))) / math.factorial(k - 1), rel=1e-9
        )


def test_the_conditions_of_unipc_are_solved():
    ratios, z = (-0.7, -1.6, 1.0), -0.4
    a = solve(ratios, z, z)
    for n in (1, 2, 3):
        assert sum(a_i * r ** (n - 1) for a_i, r in zip(a, ratios, strict=True)) == pytest.approx(
            math.factorial(n) * z * phi(n + 1, z) / z
        )
    assert solve((1.0,), z, z) == [0.5]


def test_orders_rise_from_the_start_and_fall_to_the_end():
    finite = [(0.1, 0.99), (0.3, 0.9), (0.5, 0.8), (0.7, 0.7), (0.8, 0.6), (0.9, 0.5), (0.95, 0.3)]
    assert step_orders(finite, 3, True) == [1, 2, 3, 3, 2, 1]
    assert step_orders(finite, 3, False) == [1, 2, 3, 3, 3, 3]
    infinite = [(0.0, 1.0), *finite[1:-1], (1.0, 0.0)]
    assert step_orders(infinite, 3, False) == [1, 1, 2, 3, 3, 1]


@pytest.mark.parametrize("make", [LMS, UniPC])
@pytest.mark.parametrize("order", [0, 5, -1])
def test_orders_that_do_not_exist_are_refused(make, order):
    with pytest.raises(InputError, match=f"order {order}"):
        make(order=order)


@pytest.mark.parametrize(
    ("start", "num_steps", "calls"),
    [
        (PLMSStart.improved_euler, 1, 1),
        (PLMSStart.improved_euler, 2, 3),
        (PLMSStart.improved_euler, 20, 21),
        (PLMSStart.runge_kutta, 1, 1),
        (PLMSStart.runge_kutta, 2, 5),
        (PLMSStart.runge_kutta, 4, 13),
        (PLMSStart.runge_kutta, 20, 29),
    ],
)
def test_the_calls_of_plms(start, num_steps, calls):
    schedule, count = make_schedule(ScheduleConfig()), []

    def denoise(x_t, t):
        count.append(t)
        return 0.5 * x_t

    sampler = PLMS(start)
    run(sampler, schedule, times(Spacing.leading, schedule, num_steps), torch.randn(1, 2), SharedNoise(), denoise)
    assert len(count) == sampler.num_calls(num_steps) == calls
