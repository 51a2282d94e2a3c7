"""Inpainting without training, on normal data whose conditional is known on paper.

(u, k) normal with variances 1 and correlation r: given k, u has the mean mu_u + r (k - mu_k) and the variance 1 - r^2. The best
denoiser is linear, so that a sample is an affine function of the noises drawn: its moments are found exactly, from the
responses to unit noises.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from oracles import CorrelatedData
from sfumato.diffusion.grids import times
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.noise import PictureNoise
from sfumato.samplers import DDPM, SAMPLERS, DPMSolverPP2M, run
from sfumato.samplers.known import Known, renoised

GIVEN = 1.5
MASK = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
Z_0 = torch.tensor([9.0, GIVEN], dtype=torch.float64).view(1, 2, 1, 1)  # 9 is hidden by the mask and must not matter
PAPER = ScheduleConfig()
every = pytest.mark.parametrize("name", list(SAMPLERS))


def data(correlation: float) -> CorrelatedData:
    return CorrelatedData((0.3, -0.2), ((1.0, correlation), (correlation, 1.0)))


class Responses:
    """Row 0 of a batch draws zeros, and every further row a single 1 in one channel of one draw."""

    def __init__(self, channels: int) -> None:
        self.channels, self.row = channels, 1

    def __call__(self, like: Tensor) -> Tensor:
        drawn = torch.zeros_like(like)
        for channel in range(self.channels):
            drawn[self.row, channel] = 1  # an IndexError says that there are too few rows
            self.row += 1
        return drawn


def moments(sampler, known: Known, num_steps: int, correlation: float, config=PAPER) -> tuple[Tensor, Tensor]:
    """Mean (2,) and covariance (2, 2) of the samples, exact."""
    schedule, noise = make_schedule(config), Responses(2)
    plan = times(sampler.spacing, schedule, num_steps)
    rows = 1 + 2 * (1 + 4 * known.resampling * (num_steps + 1))  # at most four draws a step
    x = noise(torch.zeros(rows, 2, 1, 1, dtype=torch.float64))
    found = run(known.around(sampler), schedule, plan, x, noise, data(correlation).denoiser(schedule)).flatten(1)
    responses = found[1:] - found[0]
    return found[0], responses.T @ responses


@every
@pytest.mark.parametrize("resampling", [1, 3])
def test_known_cells_come_back_exactly_and_the_hidden_value_does_not_matter(name, resampling):
    schedule, sampler = make_schedule(ScheduleConfig()), SAMPLERS[name]
    plan, seeds = times(sampler.spacing, schedule, 6), [3, 4]

    def sample(hidden: float) -> Tensor:
        z_0 = Z_0.clone()
        z_0[0, 0] = hidden
        noise = PictureNoise(seeds)
        known = Known(z_0, MASK, resampling, jump=2)
        x = noise(torch.empty(2, 2, 1, 1, dtype=torch.float64))
        return run(known.around(sampler), schedule, plan, x, noise, data(0.8).denoiser(schedule))

    found = sample(9.0)
    assert torch.equal(found[:, 1], torch.full_like(found[:, 1], GIVEN))
    assert torch.equal(found, sample(-5.0))
    assert not torch.equal(found[0, 0], found[1, 0])


@every
@pytest.mark.parametrize("schedule", [ScheduleName.scaled_linear, ScheduleName.rectified])
def test_of_independent_parts_the_unknown_one_is_as_without_anything_known(name, schedule):
    """The same sampler on u alone: replacing k changes nothing."""
    config, sampler = ScheduleConfig(schedule), SAMPLERS[name]
    everything = Known(torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1))
    mean, cov = moments(sampler, Known(Z_0, MASK), 10, 0.0, config)
    free_mean, free_cov = moments(sampler, everything, 10, 0.0, config)
    assert float(mean[0]) == pytest.approx(float(free_mean[0]), abs=1e-12)
    assert float(cov[0, 0]) == pytest.approx(float(free_cov[0, 0]), rel=1e-12)
    assert float(cov[1, 1]) == 0


@every
def test_resampling_takes_the_bias_away(name):
    """Without it the mean is short of the truth, since early steps saw too little of k; with it, less and less."""
    correlation = 0.8
    truth, prior = 0.3 + correlation * (GIVEN + 0.2), 0.3
    errors = []
    for resampling in (1, 2, 5, 10):
        mean, _ = moments(SAMPLERS[name], Known(Z_0, MASK, resampling), 20, correlation)
        errors.append(truth - float(mean[0]))
    assert 0 < errors[0] < truth - prior  # between the truth and knowing nothing
    assert errors == sorted(errors, reverse=True)
    assert abs(errors[-1]) < 0.12 * (truth - prior)


@pytest.mark.parametrize("sampler", [DDPM(), DPMSolverPP2M(stochastic=True)], ids=repr)
def test_much_resampling_samples_the_conditional(sampler):
    """Each stretch is then a Gibbs-like chain that forgets where it began: mean and deviation of the truth."""
    correlation = 0.8
    mean, cov = moments(sampler, Known(Z_0, MASK, resampling=15, jump=5), 60, correlation)
    assert float(mean[0]) == pytest.approx(0.3 + correlation * (GIVEN + 0.2), abs=0.12)  # 9 % of the way from 0.3
    assert math.sqrt(float(cov[0, 0])) == pytest.approx(math.sqrt(1 - correlation**2), rel=0.1)


@every
@pytest.mark.parametrize(("resampling", "jump", "num_steps"), [(1, 1, 7), (2, 3, 7), (3, 1, 5), (2, 10, 4)])
def test_the_number_of_calls_is_known_beforehand(name, resampling, jump, num_steps):
    schedule, known = make_schedule(ScheduleConfig()), Known(Z_0, MASK, resampling, jump)
    sampler, calls = known.around(SAMPLERS[name]), 0

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return 0.5 * x_t

    plan = times(sampler.spacing, schedule, num_steps)
    run(sampler, schedule, plan, torch.ones(1, 2, 1, 1), PictureNoise([0]), denoise)
    assert calls == sampler.num_calls(num_steps)


@pytest.mark.parametrize("name", [ScheduleName.scaled_linear, ScheduleName.cosine, ScheduleName.rectified])
def test_noising_again_has_the_moments_of_the_noisier_time(name):
    """x_s = alpha_s x_0 + sigma_s eps becomes alpha_t x_0 + sigma_t eps in distribution."""
    schedule = make_schedule(ScheduleConfig(name))
    (alpha_s, sigma_s), (alpha_t, sigma_t) = (
        tuple(float(v) for v in schedule(torch.tensor(t, dtype=torch.float64))) for t in (0.3, 0.8)
    )
    impulses = iter([1.0])
    mean = renoised(torch.tensor(alpha_s), (alpha_s, sigma_s), (alpha_t, sigma_t), torch.zeros_like)
    spread = renoised(torch.tensor(0.0), (alpha_s, sigma_s), (alpha_t, sigma_t), lambda x: x + next(impulses))
    assert float(mean) == pytest.approx(alpha_t)
    assert float(spread) ** 2 + (alpha_t / alpha_s * sigma_s) ** 2 == pytest.approx(sigma_t**2)


def test_what_the_denoiser_sees_is_the_noised_latent():
    """alpha_t z_0 + sigma_t eps where it is known, with eps of the picture's own seed, drawn after the first noise."""
    schedule, seen = make_schedule(ScheduleConfig(ScheduleName.rectified)), []
    z_0 = torch.full((1, 1, 2, 2), 0.7)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    noise = PictureNoise([5])
    x = noise(z_0)
    plan = torch.tensor([0.8, 0.4, 0.0], dtype=torch.float64)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(x_t)
        return torch.zeros_like(x_t)

    found = run(Known(z_0, mask).around(SAMPLERS["ddim"]), schedule, plan, x, noise, denoise)
    again = PictureNoise([5])
    first, eps = again(z_0), [again(z_0), again(z_0)]
    torch.testing.assert_close(seen[0], torch.where(mask > 0, first, 0.2 * z_0 + 0.8 * eps[0]))
    torch.testing.assert_close(seen[1], torch.where(mask > 0, 0.5 * first, 0.6 * z_0 + 0.4 * eps[1]))  # x_s = (0.4 / 0.8) x_t
    assert torch.equal(found, torch.where(mask > 0, torch.zeros_like(z_0), z_0))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mask": torch.ones(1, 1, 2, 2)}, "mask of shape"),
        ({"mask": torch.ones(1, 3, 1, 1)}, "mask of shape"),
        ({"mask": torch.full((1, 1, 1, 1), 0.5)}, "nothing between"),
        ({"mask": torch.full((1, 1, 1, 1), float("nan"))}, "nothing between"),
        ({"resampling": 0}, "resampling"),
        ({"resampling": True}, "resampling"),
        ({"jump": 1.5}, "jump"),
    ],
)
def test_what_does_not_fit_is_refused(changes, named):
    with pytest.raises(InputError, match=named):
        Known(**{"z_0": Z_0, "mask": MASK} | changes)
