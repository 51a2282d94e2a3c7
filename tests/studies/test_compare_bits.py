"""Bits per dimension of models whose likelihood is known on paper: uniform, constant, perfect."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from sfumato.conditioners.none import Unconditional
from sfumato.diffusion.bounds import every_step
from sfumato.diffusion.schedule import Schedule
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.first_stages.vq import VQConfig, VQFirstStage
from sfumato.latent import Codes, Grid
from sfumato.metrics.dequantization import dequantize
from sfumato.model import LatentModel
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.coupling import CouplingConfig
from sfumato.networks.gpt import GPTConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.autoregressive import AutoregressiveConfig, AutoregressivePrior
from sfumato.priors.diffusion import DiffusionConfig, DiffusionPrior
from sfumato.priors.flow import FlowConfig, FlowPrior
from sfumato.priors.normal import NormalConfig, NormalPrior
from sfumato.studies.bits import NO_DECODER_DENSITY, NO_LATENT_BITS, NO_LIKELIHOOD, Bits, BitsSettings, bits_of

CPU = torch.device("cpu")
SIDE = 8


def pictures(count: int = 12, seed: int = 0, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, channels, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def silent(module: nn.Module) -> nn.Module:
    """All weights 0: every answer is the same."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module


def model(first: nn.Module, prior: nn.Module) -> LatentModel:
    return LatentModel(first, prior, Unconditional(), (SIDE, SIDE)).eval()  # type: ignore[arg-type]


def measure(own: LatentModel, pixels: Tensor, gaussian: bool = True, **settings: int) -> Bits:
    how = BitsSettings(**settings)  # type: ignore[arg-type]
    return bits_of(own, pixels, pixels, how, gaussian, CPU)


def autoencoder(double: bool) -> AutoencoderConfig:
    return AutoencoderConfig(
        channels=8, multipliers=(1, 2), num_res_blocks=1, mid_attention=False, latent_channels=4, norm_groups=4,
        double_moments=double,
    )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_a_uniform_autoregressive_model_needs_eight_bits(channels: int) -> None:
    network = GPTConfig(256, SIDE, SIDE, channels=channels, dim=16, depth=1, heads=2)
    prior = silent(AutoregressivePrior(AutoregressiveConfig(network), Codes((1,), 256, channels)))
    found = measure(model(IdentityFirstStage(IdentityConfig(channels)), prior), pictures(channels=channels), batch_size=5)
    assert found.kind == "exact"
    assert found.values is not None
    torch.testing.assert_close(found.values, torch.full((12,), 8.0, dtype=torch.float64), rtol=0, atol=1e-5)  # summed in fp32


def test_the_codes_of_a_picture_are_its_own_values() -> None:
    """A model that gives all its mass to value 7 is right about a picture of sevens alone."""
    prior = AutoregressivePrior(
        AutoregressiveConfig(GPTConfig(256, SIDE, SIDE, channels=3, dim=16, depth=1, heads=2)), Codes((1,), 256, 3)
    )

    def log_prob(codes: Tensor, cond: object) -> Tensor:
        return torch.where(codes == 7, 0.0, -100.0).flatten(1).sum(1)

    prior.log_prob = log_prob  # type: ignore[method-assign, assignment]
    own = model(IdentityFirstStage(IdentityConfig(3)), prior)
    sevens, others = torch.full((2, 3, SIDE, SIDE), 7, dtype=torch.uint8), torch.full((2, 3, SIDE, SIDE), 9, dtype=torch.uint8)
    assert measure(own, sevens).values.tolist() == [0, 0]  # type: ignore[union-attr]
    assert measure(own, others).values.tolist() == pytest.approx([100 / math.log(2)] * 2)  # type: ignore[union-attr]


def test_an_autoencoder_that_says_nothing_is_a_gaussian() -> None:
    """q = prior and the decoder is constant: the bound is log N(x; 0, variance), whose variance is fitted."""
    own = model(silent(KLFirstStage(KLConfig(autoencoder(True)))), NormalPrior(NormalConfig(), Grid(4, 2)))
    pixels = pictures(40)
    found = measure(own, pixels, draws=3)
    assert found.kind == "bound"
    variance = dequantize(pixels.float() / 127.5 - 1).double().square().mean().item()
    # the mean over the pictures that fitted the variance is the entropy of that Gaussian, on 7 bits for the width of a level
    assert found.values.mean().item() == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * variance) + 7, abs=2e-3)  # type: ignore[union-attr]


def test_codes_cost_their_bits_beside_the_gaussian() -> None:
    """Uniform codes, K = 8, on a 4 x 4 grid: 16 * 3 bits a picture, and a constant decoder."""
    first = silent(VQFirstStage(VQConfig(autoencoder(False), codebook_size=8)))
    prior = silent(AutoregressivePrior(AutoregressiveConfig(GPTConfig(8, 4, 4, dim=16, depth=1, heads=2)), Codes((2,), 8)))
    pixels = pictures(40)
    found = measure(model(first, prior), pixels)
    variance = dequantize(pixels.float() / 127.5 - 1).double().square().mean().item()
    gaussian = 0.5 * math.log2(2 * math.pi * math.e * variance) + 7
    assert found.kind == "bound"
    assert found.values.mean().item() == pytest.approx(gaussian + 16 * 3 / (3 * SIDE * SIDE), abs=2e-3)  # type: ignore[union-attr]


@dataclass
class Answer:
    x_0: Tensor


class Oracle(nn.Module):
    """Knows the one picture that there is."""

    def __init__(self, schedule: Schedule, picture: Tensor):
        super().__init__()
        self.schedule, self.picture = schedule, picture

    def forward(self, x_t: Tensor, t: Tensor, cond: object) -> Answer:
        return Answer(self.picture.expand_as(x_t))


def test_a_perfect_denoiser_pays_for_the_ends_of_the_chain_alone() -> None:
    """L_{t-1} = 0; L_T by its formula; L_0 = -log of a Gaussian's mass on one level around its mean."""
    prior = DiffusionPrior(
        DiffusionConfig(UNetConfig(3, 3, channels=32, multipliers=(1,), num_res_blocks=1, attention_factors=())), Grid(3, 1)
    )
    schedule = prior.denoiser.schedule
    x = torch.full((1, 3, SIDE, SIDE), 90, dtype=torch.uint8)
    unit = 90 / 127.5 - 1
    prior.denoiser = Oracle(schedule, torch.full((1, 3, SIDE, SIDE), unit))  # type: ignore[assignment]
    found = measure(model(IdentityFirstStage(IdentityConfig(3)), prior), x)
    plan = every_step(schedule)
    alpha, sigma = (float(v) for v in schedule(plan[0]))
    end = 0.5 * (alpha**2 * unit**2 + sigma**2 - 1 - math.log(sigma**2))
    # the decoder's variance is the posterior's of the step before: sigma_s^2 / sigma_t^2 (sigma_t^2 - (a_t / a_s)^2 sigma_s^2)
    (at, st), (as_, ss) = ((float(v) for v in schedule(plan[i])) for i in (-3, -2))
    variance = ss**2 / st**2 * (st**2 - (at / as_) ** 2 * ss**2)
    level = -math.log(1 - 2 * norm.cdf(-(1 / 255) / math.sqrt(variance)))
    assert found.kind == "bound"
    assert found.values.item() == pytest.approx((end + level) / math.log(2), rel=1e-3)  # type: ignore[union-attr]


def test_a_flow_is_asked_itself() -> None:
    prior = FlowPrior(FlowConfig(CouplingConfig(3, num_scales=1, num_steps=1, width=8), dequantize=True), Grid(3, 1))
    own = model(IdentityFirstStage(IdentityConfig(3)), prior)
    prior.initialise(pictures().float() / 127.5 - 1, Unconditional()(torch.zeros(12)))
    found = measure(own, pictures(), batch_size=12)
    expected = prior.bits_per_dimension(
        pictures().float() / 127.5 - 1, Unconditional()(torch.zeros(12)), torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(found.values, expected.detach().double())
    assert found.kind == "bound"


def test_where_there_are_none_it_says_why() -> None:
    unet = DiffusionConfig(UNetConfig(4, 4, channels=32, multipliers=(1,), num_res_blocks=1, attention_factors=()))
    latent = model(KLFirstStage(KLConfig(autoencoder(True))), DiffusionPrior(unet, Grid(4, 2)))
    assert measure(latent, pictures()) == Bits(None, NO_LATENT_BITS)
    sharp = model(KLFirstStage(KLConfig(autoencoder(True))), NormalPrior(NormalConfig(), Grid(4, 2)))
    assert measure(sharp, pictures(), gaussian=False) == Bits(None, NO_DECODER_DENSITY)
    generator = model(nn.Identity(), NormalPrior(NormalConfig(), Grid(4, 2)))
    assert measure(generator, pictures()) == Bits(None, NO_LIKELIHOOD)
