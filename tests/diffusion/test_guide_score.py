"""Guidance by a score, on normal data: what is seen of x_0 through a linear map, and the conditional known on paper.

y = A x_0 + noise of variance s^2, x_0 ~ N(m, C):   E[x_0 | y] = m + K (y - A m),  Cov[x_0 | y] = C - K A C,
K = C A^T (A C A^T + s^2)^-1; given x_t as well, the same with E[x_0 | x_t] and Cov[x_0 | x_t] in the places of m and C.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from oracles import CorrelatedData, GaussianData
from sfumato.diffusion.grids import Spacing, times
from sfumato.diffusion.guide import Guide
from sfumato.diffusion.schedule import Schedule, ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.generation.guides import ClassScore, SmallPictureScore
from sfumato.noise import SharedNoise
from sfumato.samplers import DDIM, SAMPLERS, run

DATA = CorrelatedData((0.3, -0.2), ((1.0, 0.6), (0.6, 0.5)))
SEEN = torch.tensor([[0.5, 0.5]], dtype=torch.float64)  # A: the mean of two places, as a low-resolution picture is
Y, VARIANCE = 1.2, 0.04
CONFIGS = [ScheduleConfig(), ScheduleConfig(ScheduleName.cosine), ScheduleConfig(ScheduleName.rectified)]


def conditional(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Of x_0 ~ N(mean, covariance) given y; mean may be rows (B, 2)."""
    k = covariance @ SEEN.T / (SEEN @ covariance @ SEEN.T + VARIANCE)  # (2, 1)
    return mean + ((Y - mean @ SEEN.T) @ k.T), covariance - k @ SEEN @ covariance


def exact_score(schedule: Schedule):
    """log p(y | x_t) as a function of E[x_0 | x_t]: it is told how sure the estimate is."""

    def score(x_0: Tensor, t: Tensor) -> Tensor:
        spread = SEEN @ DATA.uncertainty(schedule, float(t[0])) @ SEEN.T + VARIANCE
        return -(Y - x_0.flatten(1) @ SEEN.T).square()[:, 0] / (2 * spread[0, 0])

    return score


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name.value)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.7])
def test_an_exact_likelihood_gives_the_conditional_estimate(config, t):
    schedule = make_schedule(config)
    x_t = torch.randn(3, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    time = torch.full((3,), t, dtype=torch.float64)
    denoise = DATA.denoiser(schedule)
    found = Guide(exact_score(schedule))(denoise, x_t, time, schedule)
    expected, _ = conditional(denoise(x_t, time).flatten(1), DATA.uncertainty(schedule, t))
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m"])
def test_the_samples_have_the_mean_and_covariance_of_the_conditional(name):
    """Deterministic samplers are affine in where they begin: three rows give the moments. 300 steps leave 2 %."""
    schedule = make_schedule(ScheduleConfig())
    denoise, guide = DATA.denoiser(schedule), Guide(exact_score(schedule))
    begin = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).view(3, 2, 1, 1)
    plan = times(Spacing.linspace if name == "heun" else SAMPLERS[name].spacing, schedule, 300)
    found = run(SAMPLERS[name], schedule, plan, begin, SharedNoise(), lambda x, t: guide(denoise, x, t, schedule)).flatten(1)
    responses = found[1:] - found[0]
    mean, covariance = conditional(torch.tensor(DATA.mean, dtype=torch.float64), torch.tensor(DATA.covariance).double())
    torch.testing.assert_close(found[0], mean, rtol=0, atol=0.02)
    torch.testing.assert_close(responses.T @ responses, covariance, rtol=0, atol=0.02)


def test_the_small_picture_score_is_exact_for_normal_data_of_its_spread():
    """Data N(0, 1), every pixel seen with deviation d: the samples are N(y / (1 + d^2), d^2 / (1 + d^2))."""
    schedule, deviation = make_schedule(ScheduleConfig()), 0.5
    small = torch.tensor([[[-1.0, 0.5], [0.0, 2.0]]], dtype=torch.float64)
    guide = Guide(SmallPictureScore(lambda z: z, small, schedule, deviation=deviation, spread=1.0))
    denoise = GaussianData(0.0, 1.0).denoiser(schedule)
    begin = torch.stack([torch.zeros_like(small), torch.ones_like(small)])
    plan = times(Spacing.trailing, schedule, 500)
    found = run(DDIM(), schedule, plan, begin, SharedNoise(), lambda x, t: guide(denoise, x, t, schedule))
    torch.testing.assert_close(found[0], small / (1 + deviation**2), rtol=0.02, atol=0.01)
    expected = torch.full_like(small, deviation / (1 + deviation**2) ** 0.5)
    torch.testing.assert_close(found[1] - found[0], expected, rtol=0.02, atol=0)


def test_the_small_picture_is_compared_at_its_own_size():
    """A picture of one colour c stays c when it is shrunk: score = -n (2 z - c)^2 / (2 v), n numbers of z, v on paper."""
    schedule = make_schedule(ScheduleConfig(ScheduleName.rectified))
    score = SmallPictureScore(lambda z: (2 * z).expand(-1, 3, -1, -1), torch.full((2, 4, 4), 0.3), schedule, 0.1, 0.5)
    z = torch.full((1, 1, 16, 16), 0.25)
    variance = 0.1**2 + 0.5**2 * 0.2**2 / (0.8**2 + 0.2**2)
    expected = -16 * 16 * (2 * 0.25 - 0.3) ** 2 / (2 * variance)
    assert float(score(z, torch.tensor([0.2]))) == pytest.approx(expected, rel=1e-4)


def test_a_class_score_is_the_log_probability_and_pulls_towards_the_class():
    logits = torch.tensor([[1.0, 2.0, -1.0]])
    score = ClassScore(lambda z: logits * z.flatten(1)[:, :1], 1)
    value = score(torch.ones(1, 1, 1, 1), torch.zeros(1))
    assert float(value) == pytest.approx(float(logits.softmax(1)[0, 1].log()))


def test_normal_classes_of_known_means_are_found_by_their_score():
    """Classes at +1 and -1 of equal width: log p(c | x_0) is linear, and the guided estimate the class's own in the limit."""
    schedule = make_schedule(ScheduleConfig())
    data = CorrelatedData((0.0,), ((1.04,),))  # the mixture by its moments, in which each class has variance 0.04

    def logits(z: Tensor) -> Tensor:
        log = [-(z.flatten(1)[:, 0] - mean).square() / (2 * 0.04) for mean in (-1.0, 1.0)]
        return torch.stack(log, dim=1)

    guide, denoise = Guide(ClassScore(logits, 1)), data.denoiser(schedule)
    x = torch.randn(64, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plan = times(Spacing.trailing, schedule, 100)
    free = run(DDIM(), schedule, plan, x, SharedNoise(), denoise)
    guided = run(DDIM(), schedule, plan, x, SharedNoise(), lambda x, t: guide(denoise, x, t, schedule))
    assert 0.3 < float((free > 0).double().mean()) < 0.7
    assert float((guided > 0).double().mean()) == 1.0


def test_the_step_is_linear_in_the_scale_and_none_at_zero():
    schedule = make_schedule(ScheduleConfig())
    denoise, score = DATA.denoiser(schedule), exact_score(schedule)
    x_t, t = torch.ones(1, 2, 1, 1, dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    plain = denoise(x_t, t)
    moves = [Guide(score, scale)(denoise, x_t, t, schedule) - plain for scale in (0.0, 1.0, 2.5)]
    assert torch.equal(moves[0], torch.zeros_like(plain))
    torch.testing.assert_close(moves[2], 2.5 * moves[1])
    assert float(moves[1].abs().min()) > 0


def test_where_nothing_is_seen_nothing_is_moved():
    """alpha = 0 at t = 1 of the rectified schedule; and a bounded step just before, whatever the Jacobian."""
    schedule = make_schedule(ScheduleConfig(ScheduleName.rectified))
    guide = Guide(lambda x_0, t: x_0.flatten(1).sum(1))
    x_t = torch.ones(1, 1, 1, 1)
    moved = [guide(lambda x, t: 2 * x, x_t, torch.tensor([t]), schedule) for t in (1.0, 0.999)]
    assert float(moved[0]) == 2
    assert 2 < float(moved[1]) <= 2 + 2 / 0.05


def test_works_in_inference_mode_and_keeps_graphs_to_itself():
    schedule = make_schedule(ScheduleConfig())
    with torch.inference_mode():
        x_t, t = torch.ones(1, 2, 1, 1, dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
        inside = Guide(exact_score(schedule))(DATA.denoiser(schedule), x_t, t, schedule)
    assert not inside.requires_grad
    outside = Guide(exact_score(schedule))(DATA.denoiser(schedule), x_t.clone(), t.clone(), schedule)
    torch.testing.assert_close(inside, outside)


@pytest.mark.parametrize(
    ("score", "named"),
    [(lambda x_0, t: x_0.sum(), "shape"), (lambda x_0, t: x_0.detach().flatten(1).sum(1), "no gradient")],
)
def test_scores_that_cannot_guide(score, named):
    schedule = make_schedule(ScheduleConfig())
    with pytest.raises(InputError, match=named):
        Guide(score)(lambda x, t: 0.5 * x, torch.ones(2, 1, 1, 1), torch.full((2,), 0.5), schedule)
    with pytest.raises(InputError, match="scale"):
        Guide(score, float("inf"))
