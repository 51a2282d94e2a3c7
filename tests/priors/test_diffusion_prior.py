"""The diffusion prior: its loss is eq. (3), its sampler the one that was asked for."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oracles import GaussianData
from sfumato.build import build_prior
from sfumato.conditioning import Conditioning
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName
from sfumato.diffusion.weighting import TimeSampling, Weighting
from sfumato.errors import InputError
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.latent import Grid
from sfumato.networks.unet import UNetConfig
from sfumato.noise import PictureNoise, SharedNoise
from sfumato.priors.base import Step
from sfumato.priors.diffusion import DiffusionConfig, DiffusionPrior, DiffusionSettings
from sfumato.samplers import SAMPLERS
from tiny_runs import awaken

NETWORK = UNetConfig(2, 2, channels=16, multipliers=(1, 1), num_res_blocks=1, attention_factors=(), head_channels=8)
NONE = Conditioning()


def prior(**changes: Any) -> DiffusionPrior:
    torch.manual_seed(0)
    return awaken(DiffusionPrior(DiffusionConfig(NETWORK, **changes), Grid(2, 2)))  # type: ignore[return-value]


class Answer(nn.Module):
    """A network that answers what it is told, and remembers what it was asked."""

    def __init__(self, answer: Any):
        super().__init__()
        self.answer, self.unused = answer, nn.Parameter(torch.zeros(1))

    def forward(self, x_t: Tensor, time: Tensor, cond: Conditioning) -> Tensor:
        return self.answer(x_t, time)


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_loss_of_eps_prediction_is_equation_3(loss: str) -> None:
    """With the network answering 0 the error is eps itself: E eps^2 = 1, E |eps| = sqrt(2 / pi)."""
    ours = prior(loss=loss)
    ours.denoiser.network = Answer(lambda x_t, time: torch.zeros_like(x_t))
    z = torch.randn(512, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    value = ours.loss(z, NONE, torch.Generator().manual_seed(2))
    expected = 1.0 if loss == "l2" else (2 / torch.pi) ** 0.5
    assert float(value.total) == pytest.approx(expected, rel=0.01)
    assert float(value.parts["loss"]) == float(value.total)
    assert not value.parts["loss"].requires_grad


@pytest.mark.parametrize(("prediction", "schedule"), [
    (Prediction.eps, ScheduleName.scaled_linear), (Prediction.x0, ScheduleName.cosine),
    (Prediction.v, ScheduleName.linear), (Prediction.velocity, ScheduleName.rectified),
])  # fmt: skip
@pytest.mark.parametrize("weighting", list(Weighting))
@pytest.mark.parametrize("sampling", list(TimeSampling))
def test_loss_is_finite_and_reaches_every_parameter(
    prediction: Prediction, schedule: ScheduleName, weighting: Weighting, sampling: TimeSampling
) -> None:
    ours = prior(prediction=prediction, schedule=ScheduleConfig(name=schedule), weighting=weighting, time_sampling=sampling)
    z = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    value = ours.loss(z, NONE, torch.Generator().manual_seed(2)).total
    assert torch.isfinite(value)
    value.backward()
    assert [n for n, p in ours.named_parameters() if p.grad is None or not p.grad.any()] == []
    again = ours.loss(z, NONE, torch.Generator().manual_seed(2)).total
    assert torch.equal(value, again)  # the generator is its only source of chance
    assert not torch.equal(value, ours.loss(z, NONE, torch.Generator().manual_seed(3)).total)


def test_the_best_loss_of_gaussian_data_is_known() -> None:
    """For x_0 ~ N(m, s^2) the best x_0 estimate leaves the error s^2 sigma^2 / (alpha^2 s^2 + sigma^2)."""
    data, ours = GaussianData(), prior(prediction=Prediction.x0, schedule=ScheduleConfig(name=ScheduleName.rectified))
    schedule = ours.denoiser.schedule
    best = data.denoiser(schedule)
    times: list[Tensor] = []

    def output(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        times.append(t)
        return best(x_t, t)

    ours.denoiser.output = output  # type: ignore[method-assign]
    z = data.mean + data.std * torch.randn(4096, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    value = float(ours.loss(z, NONE, torch.Generator().manual_seed(2)).total)
    alpha, sigma = schedule(times[0])
    expected = (data.std**2 * sigma**2 / (alpha**2 * data.std**2 + sigma**2)).mean()
    assert value == pytest.approx(float(expected), rel=0.01)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_steps(name: str) -> None:
    ours, settings = prior(), DiffusionSettings(SAMPLERS[name], 4)
    calls = []
    ours.denoiser.register_forward_pre_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        walk: list[Step] = list(ours.steps((2, 2, 4, 4), [(NONE, 1.0)], settings, PictureNoise([1, 2])))
    assert [s.index for s in walk] == list(range(walk[0].total))
    assert len(calls) == walk[0].total == settings.sampler.num_calls(4)
    assert all(s.z_t.shape == s.z_0.shape == (2, 2, 4, 4) for s in walk)
    sample = ours.sample((2, 2, 4, 4), [(NONE, 1.0)], settings, PictureNoise([1, 2]))
    assert torch.equal(sample, walk[-1].z_t)
    assert not sample.requires_grad


def test_samples_have_the_law_of_the_data() -> None:
    """Through the prior's own road, with the exact denoiser of N(0.3, 0.5^2)."""
    data, ours = GaussianData(), prior(prediction=Prediction.x0)
    best = data.denoiser(ours.denoiser.schedule)
    ours.denoiser.output = lambda x_t, t, cond: best(x_t, t)  # type: ignore[method-assign]
    settings = DiffusionSettings(SAMPLERS["dpmpp_2m"], 50)
    z = ours.sample((1, 2, 128, 128), [(NONE, 1.0)], settings, SharedNoise(torch.Generator().manual_seed(3)))
    assert float(z.mean()) == pytest.approx(data.mean, abs=0.02)
    assert float(z.std()) == pytest.approx(data.std, rel=0.03)


def test_guidance_weights_combine_estimates() -> None:
    """Twins whose weights sum to 1 over one and the same condition change nothing."""
    ours, settings = prior(), DiffusionSettings(SAMPLERS["ddim"], 3)
    once, twice = (
        ours.sample((1, 2, 4, 4), twins, settings, PictureNoise([1])) for twins in ([(NONE, 1.0)], [(NONE, 3.0), (NONE, -2.0)])
    )
    torch.testing.assert_close(once, twice, rtol=1e-3, atol=1e-3)


def test_channels_must_agree() -> None:
    with pytest.raises(InputError, match="out_channels is 2, but the first stage has 3"):
        build_prior(DiffusionConfig(NETWORK), IdentityFirstStage(IdentityConfig(3)))


def test_eps_prediction_needs_a_signal_at_the_end() -> None:
    with pytest.raises(InputError, match="eps"):
        prior(prediction=Prediction.eps, schedule=ScheduleConfig(name=ScheduleName.linear, zero_terminal_snr=True))


def test_seeds_give_different_pictures() -> None:
    ours, settings = prior(), DiffusionSettings(SAMPLERS["ddpm"], 3)
    rows = [ours.sample((1, 2, 4, 4), [(NONE, 1.0)], settings, PictureNoise([seed])) for seed in range(3)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(rows, 2))
