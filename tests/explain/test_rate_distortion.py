"""The curve and the points against what is known on paper: Gaussian data, linear encoders, uniform codes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from oracles import GaussianData
from sfumato.diffusion.bounds import bound
from sfumato.diffusion.forward import Learned, Variance
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.explain.rate_distortion import curve, first_stage_point, log_plan
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.first_stages.vq import Level, VQConfig, VQFirstStage
from sfumato.first_stages.vq2 import VQ2Config, VQ2FirstStage
from sfumato.generation.pixels import to_unit
from sfumato.latent import Grid
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.noise import PictureNoise
from sfumato.posterior import DiagonalGaussian

DATA = GaussianData(mean=0.1, std=0.2)
SCHEDULE = make_schedule(ScheduleConfig(ScheduleName.linear, 1e-4, 0.02))
TIMES = torch.cat([torch.arange(1000, 0, -10, dtype=torch.float64) / 1000, torch.tensor([0.001, 0.0], dtype=torch.float64)])
IDENTITY = IdentityFirstStage(IdentityConfig())


def pictures(count: int = 4) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    x = DATA.mean + DATA.std * torch.randn(count, 3, 32, 32, generator=rng)
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class Half(FirstStage):
    """z = x / std0 kept with noise of its own: a linear KL stage."""

    def __init__(self, spread: float):
        super().__init__()
        self.spread, self.channels, self.latent, self.preview = spread, 3, Grid(3, 1), None

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian((x - DATA.mean) / DATA.std, torch.full_like(x, 2 * math.log(self.spread)))

    def decode(self, z: Tensor) -> Tensor:
        return z * DATA.std + DATA.mean

    @property
    def last_layer(self) -> nn.Parameter | None:
        return None


def test_the_curve_of_gaussian_pixels():
    """Begins at (almost) no rate with the data's deviation, falls as it costs more; at every time both are as on paper:
    rate = sum of 1/2 (SNR_s - SNR_t) Var[x_0 | x_t], distortion = 127.5 sqrt(Var[x_0 | x_t])."""
    found = curve(IDENTITY, SCHEDULE, lambda part: DATA.denoiser(SCHEDULE), pictures(), times=TIMES)
    ratios = SCHEDULE.log_snr(TIMES[:-1]).exp()
    missed = DATA.std**2 / (1 + ratios * DATA.std**2)
    torch.testing.assert_close(found.rmse, 127.5 * missed.sqrt(), rtol=0.03, atol=0)
    steps = 0.5 * (ratios[1:] - ratios[:-1]) * missed[:-1] / math.log(2)
    torch.testing.assert_close(found.rate[1:] - found.rate[0], steps.cumsum(0), rtol=0.03, atol=1e-4)
    assert found.rate[0] < 1e-4
    assert float(found.rmse[0]) == pytest.approx(127.5 * DATA.std, rel=0.02)
    assert bool((found.rate.diff() > 0).all())
    assert found.rmse[-1] < found.rmse[0] / 10
    assert float(found.rmse.diff().max()) < 0.1  # of 25.5 levels: on paper it falls, at first by less than a draw's chance


def test_no_loss_costs_at_least_the_entropy():
    """The whole bound of 8-bit Gaussian values is above log2(std sqrt(2 pi e) / bin) bits."""
    found = curve(IDENTITY, SCHEDULE, lambda part: DATA.denoiser(SCHEDULE), pictures(), times=TIMES)
    assert found.lossless is not None
    assert found.lossless > found.rate[-1]
    assert found.lossless > math.log2(DATA.std * math.sqrt(2 * math.pi * math.e) / (2 / 255)) - 0.02


def test_a_curve_does_not_depend_on_the_batch_size():
    data, times = GaussianData(0.0, 1.0), torch.tensor([1.0, 0.5, 0.1, 0.0])
    one, three = (
        curve(Half(0.1), SCHEDULE, lambda part: data.denoiser(SCHEDULE), pictures(4), times=times, batch_size=n) for n in (1, 3)
    )
    torch.testing.assert_close(one.rate, three.rate, rtol=1e-6, atol=0)
    torch.testing.assert_close(one.rmse, three.rmse, rtol=1e-5, atol=0)


def test_latents_stop_before_the_last_term_and_count_per_value_of_the_picture():
    """A linear latent of the same pixels in unit scale has the curve of unit Gaussian data, and the distortion of pixels."""
    found = curve(Half(0.01), SCHEDULE, lambda part: GaussianData(0.0, 1.0).denoiser(SCHEDULE), pictures(), times=TIMES)
    assert found.lossless is None
    assert len(found.rate) == len(TIMES) - 1
    ratios = SCHEDULE.log_snr(TIMES[:-1]).exp()
    steps = 0.5 * (ratios[1:] - ratios[:-1]) / (1 + ratios[:-1]) / math.log(2)
    torch.testing.assert_close(found.rate[1:] - found.rate[0], steps.cumsum(0), rtol=0.03, atol=1e-3)
    coarse = slice(0, 90)  # later the stage's own noise counts
    torch.testing.assert_close(found.rmse[coarse], 127.5 * DATA.std / (1 + ratios[coarse]).sqrt(), rtol=0.05, atol=0)


def test_a_kl_stage_under_a_fitted_gaussian():
    """z of variance 1 + spread^2 over the data: KL = 1/2 log((1 + spread^2) / spread^2), here also by torch.distributions."""
    pixels, spread = pictures(), 0.3
    found = first_stage_point(Half(spread), pixels)
    q = Half(spread).posterior(pixels.double() / 127.5 - 1)
    means = q.mean.transpose(0, 1).flatten(1)  # (C, N ...)
    fitted = Normal(means.mean(1, keepdim=True), (means.var(1, unbiased=False, keepdim=True) + spread**2).sqrt())
    there = float(kl_divergence(Normal(means, spread), fitted).mean()) / math.log(2)
    assert found.rate == pytest.approx(there, rel=1e-5)
    assert found.rate == pytest.approx(0.5 * math.log2(1 + spread**-2), rel=0.02)
    assert found.rmse == pytest.approx(127.5 * DATA.std * spread, rel=0.03)


def with_share(share: float):
    """The Gaussian's denoiser, and everywhere this v."""
    exact = DATA.denoiser(SCHEDULE)

    def ask(x_t: Tensor, t: Tensor) -> Tensor:
        x_0 = exact(x_t, t)
        return torch.cat([x_0, torch.full_like(x_0, share)], dim=1)

    return lambda part: ask


@pytest.mark.parametrize(("share", "variance"), [(0.0, Variance.small), (1.0, Variance.large)])
def test_the_ends_of_a_learned_variance_are_the_fixed_ones(share, variance):
    """v = 0 is the small variance, v = 1 the large one (arXiv 2102.09672, eq. 15), and the rates of the two differ."""
    plan = TIMES[::10]
    plan = torch.cat([plan, plan.new_zeros(1)]) if plan[-1] else plan
    learned = curve(IDENTITY, SCHEDULE, with_share(share), pictures(2), times=plan, variance=Learned.learned)
    fixed = curve(IDENTITY, SCHEDULE, lambda part: DATA.denoiser(SCHEDULE), pictures(2), times=plan, variance=variance)
    other = curve(IDENTITY, SCHEDULE, with_share(1 - share), pictures(2), times=plan, variance=Learned.learned)
    torch.testing.assert_close(learned.rate, fixed.rate, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(learned.rmse, fixed.rmse)
    assert abs(float(other.rate[-1]) / float(fixed.rate[-1]) - 1) > 0.02


def test_clipping_leaves_the_learned_variance_as_it_is():
    plan, pixels = torch.tensor([1.0, 0.6, 0.3, 0.1, 0.0], dtype=torch.float64), pictures(2)
    found = curve(IDENTITY, SCHEDULE, with_share(1.5), pixels, times=plan, variance=Learned.learned)
    here = bound(
        with_share(1.5)(slice(0, 2)), SCHEDULE, to_unit(pixels), PictureNoise([0, 1]), times=plan, variance=Learned.learned
    )
    assert float(found.rate[-1]) == pytest.approx(float(here.rate.sum()) / (pixels.numel() * math.log(2)), rel=1e-5)


def test_a_vq_stage_has_the_entropy_of_its_codes():
    net = AutoencoderConfig(
        channels=32, multipliers=(1, 1), num_res_blocks=1, mid_attention=False, latent_channels=3, double_moments=False
    )
    stage = VQFirstStage(VQConfig(net, codebook_size=4)).eval()
    with torch.no_grad():
        stage.quant_conv.weight.zero_()
        stage.quant_conv.bias.zero_()  # every latent is 0, every index the same code
    pixels = pictures(2)
    assert first_stage_point(stage, pixels).rate == pytest.approx(0, abs=1e-12)

    def four(z: Tensor) -> Tensor:
        return (torch.arange(z.shape[2] * z.shape[3]) % 4).view(1, *z.shape[2:]).expand(len(z), -1, -1)

    stage.quantize.indices = four
    assert first_stage_point(stage, pixels).rate == pytest.approx(2 * 16 * 16 / (3 * 32 * 32))


def cycling(count: int):
    """Indices 0, 1, ... count - 1 in turn, all equally often."""
    return lambda z: (torch.arange(z.shape[2] * z.shape[3]) % count).view(1, *z.shape[2:]).expand(len(z), -1, -1)


def test_two_levels_have_the_entropies_of_both():
    """16 places of 2 codes (1 bit) and 64 places of 4 codes (2 bits): 144 bits a picture of 3 x 16 x 16 values."""
    net = AutoencoderConfig(
        channels=32, multipliers=(1, 1), num_res_blocks=1, mid_attention=False, latent_channels=3, double_moments=False
    )
    stage = VQ2FirstStage(VQ2Config(net, codebook_size=4, embed_channels=2)).eval()
    stage.top_quantize.indices, stage.quantize.indices = cycling(2), cycling(4)
    found = first_stage_point(stage, pictures(2)[:, :, :16, :16])
    assert found.rate == pytest.approx((4 * 4 * 1 + 8 * 8 * 2) / (3 * 16 * 16))
    assert found.name == "VQ2FirstStage"


def test_residual_codes_have_the_entropy_of_each():
    """Codes (B, 2, h, w): the first always 3, which says nothing; the second one of two: 1 bit a place, not the entropy of
    both in one histogram."""
    net = AutoencoderConfig(
        channels=32, multipliers=(1, 1), num_res_blocks=1, mid_attention=False, latent_channels=3, double_moments=False
    )
    stage = VQFirstStage(VQConfig(net, codebook_size=4)).eval()
    plain = stage.levels

    def two(z: Tensor) -> dict[str, Level]:
        level = plain(z)[""]
        codes = torch.stack([torch.full_like(level.found.codes, 3), cycling(2)(z)], dim=1)
        return {"": dataclasses.replace(level, found=dataclasses.replace(level.found, codes=codes))}

    stage.levels = two
    assert first_stage_point(stage, pictures(2)).rate == pytest.approx(16 * 16 / (3 * 32 * 32))


def test_what_has_no_rate_is_refused():
    with pytest.raises(InputError, match="IdentityFirstStage has no rate"):
        first_stage_point(IDENTITY, pictures(1))
    with pytest.raises(InputError, match=r"expected \(N, C, H, W\) uint8"):
        curve(IDENTITY, SCHEDULE, lambda part: DATA.denoiser(SCHEDULE), pictures(1).float())
    with pytest.raises(InputError, match="at least one"):
        first_stage_point(Half(0.1), pictures(1)[:0])


@pytest.mark.parametrize("schedule", [SCHEDULE, make_schedule(ScheduleConfig(ScheduleName.rectified))])
def test_the_plan_falls_from_noise_to_data(schedule):
    """From 1 to 0, the last but one at the first row; equal in log SNR between where SNR is above 0; T steps are the table."""
    plan = log_plan(schedule, 12)
    assert (len(plan), float(plan[0]), float(plan[-1])) == (13, 1.0, 0.0)
    assert float(plan[-2]) == pytest.approx(0.001)
    gaps = schedule.log_snr(plan[1:-1]).diff()
    torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps), rtol=1e-6, atol=0)
    torch.testing.assert_close(log_plan(schedule, 1000), torch.arange(1000, -1, -1).double() / 1000)
    with pytest.raises(InputError, match="2 or more"):
        log_plan(schedule, 1)
