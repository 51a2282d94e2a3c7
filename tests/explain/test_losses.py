"""Losses and shares of the bound against Gaussian data, where both are known on paper."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from PIL import ImageFont
from torch import Tensor, nn

from oracles import GaussianData
from sfumato.conditioning import Conditioning
from sfumato.diffusion.bounds import bound
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import Schedule, ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.explain.losses import Losses, figure, losses
from sfumato.noise import PictureNoise

DATA = GaussianData(0.0, 1.0)
LINEAR = make_schedule(ScheduleConfig(ScheduleName.linear, 1e-4, 0.02))
FLOW = make_schedule(ScheduleConfig(ScheduleName.rectified))


class Exact(nn.Module):
    """The best network for Gaussian data, in any output space."""

    def __init__(self, schedule: Schedule, prediction: Prediction, data: GaussianData = DATA):
        super().__init__()
        self.schedule, self.prediction, self.data = schedule, prediction, data
        self.calls = 0

    def forward(self, x_t: Tensor, k: Tensor, cond: Conditioning) -> Tensor:
        self.calls += 1
        t = (k.double() + self.schedule.discrete) / self.schedule.num_steps
        x_t = x_t.double()
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in self.schedule(t))
        x_0 = self.data.denoiser(self.schedule)(x_t, t)
        eps = (x_t - alpha * x_0) / sigma
        said = {"eps": eps, "x0": x_0, "v": alpha * eps - sigma * x_0, "velocity": eps - x_0}[self.prediction.value]
        return said.float()


def unit_latents(count: int = 8) -> Tensor:
    return torch.randn(count, 4, 48, 48, generator=torch.Generator().manual_seed(1234))  # no picture's own seed


def empty(part: slice) -> Conditioning:
    return Conditioning()


@pytest.mark.parametrize(
    ("schedule", "prediction"), [(LINEAR, Prediction.eps), (LINEAR, Prediction.v), (FLOW, Prediction.velocity)]
)
def test_loss_and_bound_of_gaussian_data(schedule, prediction):
    """Var[x_0 | x_t] = 1 / (1 + SNR); the loss is it over the slope squared, the bound's part the sum of 1/2 dSNR times it."""
    values = 4 * 48 * 48
    found = losses(Denoiser(Exact(schedule, prediction), schedule, prediction), empty, unit_latents(), values, num_parts=10)
    rows = torch.arange(1, schedule.num_steps + 1, dtype=torch.float64) / schedule.num_steps
    snr, (alpha, sigma) = schedule.log_snr(rows).exp(), schedule(rows)
    missed = 1 / (1 + snr)
    slope = {"eps": sigma / alpha, "v": sigma, "velocity": sigma / (alpha + sigma)}[prediction.value]
    loss, bits = missed / slope.square(), torch.zeros_like(rows)
    bits[1:] = 0.5 * (snr[:-1] - snr[1:]) * missed[1:] / math.log(2)
    for part in range(10):
        inside = slice(max(1, 100 * part), 100 * part + 100)
        assert float(found.loss[part]) == pytest.approx(float(loss[inside].mean()), rel=0.03)
        assert float(found.bits[part]) == pytest.approx(float(bits[100 * part : 100 * part + 100].sum()), rel=0.03)
    assert found.total == pytest.approx(float(bits.sum()), rel=0.02)
    assert found.decoder is None
    assert float(found.shares.sum()) + found.prior / found.total == pytest.approx(1)
    torch.testing.assert_close(found.edges, torch.arange(11, dtype=torch.float64) / 10)


def test_pixels_have_a_decoder_and_the_bound_of_bounds():
    """The estimate of the whole bound agrees with the one that walks every step."""
    data = GaussianData(0.1, 0.2)
    x = data.mean + data.std * torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(4321))
    x = ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
    schedule = make_schedule(ScheduleConfig(ScheduleName.linear, 1e-3, 0.2, num_steps=100))
    network = Exact(schedule, Prediction.eps, data)
    denoiser = Denoiser(network, schedule, Prediction.eps)
    found = losses(denoiser, empty, x, 3 * 16 * 16, num_parts=20, in_pixels=True)
    assert network.calls == 21
    every = bound(lambda x_t, t: denoiser(x_t, t, Conditioning()).x_0.clamp(-1, 1), schedule, x, PictureNoise(range(50, 66)))
    assert found.total == pytest.approx(float(every.bits_per_dimension.mean()), rel=0.05)
    assert found.decoder == pytest.approx(float(every.decoder.mean()) / (768 * math.log(2)), rel=0.05)
    assert found.prior == pytest.approx(float(every.prior.mean()) / (768 * math.log(2)), rel=1e-6)


def test_nothing_depends_on_the_batch_size():
    denoiser = Denoiser(Exact(LINEAR, Prediction.eps), LINEAR, Prediction.eps)
    one, three = (losses(denoiser, empty, unit_latents(4), 1024, num_parts=4, batch_size=n) for n in (1, 3))
    torch.testing.assert_close(one.loss, three.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(one.bits, three.bits, rtol=1e-5, atol=0)


def test_one_picture_has_no_deviation_and_a_figure():
    denoiser = Denoiser(Exact(LINEAR, Prediction.eps), LINEAR, Prediction.eps)
    found = losses(denoiser, empty, unit_latents(1), 1024, num_parts=2)
    torch.testing.assert_close(found.deviation, torch.zeros(2, dtype=torch.float64))
    assert "without L_0" in figure(found, "title").svg()


@pytest.mark.parametrize("bits", [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
def test_the_running_share_crosses_none_of_the_figure_s_words(bits):
    """Wherever the bound lies: no point of a line, walked in small steps, is within the box of a text."""
    ones = torch.ones(4, dtype=torch.float64)
    drawn = figure(Losses(torch.linspace(0, 1, 5), ones, ones / 9, torch.tensor(bits).double(), 0.0, None, 8), "title")
    walked = [
        (a[0] + (b[0] - a[0]) * step / 200, a[1] + (b[1] - a[1]) * step / 200)
        for line in drawn.lines
        for a, b in itertools.pairwise(line.points)
        for step in range(201)
    ]
    for words in (one for one in drawn.texts if not one.turned):
        width = ImageFont.load_default(words.size).getlength(words.words)
        left = words.x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[words.anchor]
        top, floor = words.y - 0.75 * words.size, words.y + 0.2 * words.size
        assert not any(left < x < left + width and top < y < floor for x, y in walked), words


def test_what_cannot_be_measured_is_refused():
    denoiser = Denoiser(Exact(LINEAR, Prediction.eps), LINEAR, Prediction.eps)
    with pytest.raises(InputError, match="at least one"):
        losses(denoiser, empty, unit_latents(1)[:0], 1024)
    with pytest.raises(InputError, match="from 2 to 500"):
        losses(denoiser, empty, unit_latents(1), 1024, num_parts=501)
