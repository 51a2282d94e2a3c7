"""Points under a prior against what is known on paper: divergences of Gaussians, uniform codes, another module's bits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.evaluation.likelihood import BitSettings, measure_bits
from sfumato.explain.prior_point import has_prior_point, prior_point
from sfumato.explain.rate_distortion import first_stage_point
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.first_stages.vq import VQConfig, VQFirstStage
from sfumato.first_stages.vq2 import VQ2Config, VQ2FirstStage
from sfumato.latent import Grid
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.coupling import CouplingConfig
from sfumato.networks.gpt import GPTConfig
from sfumato.networks.pixelcnn import PixelCNNConfig
from sfumato.networks.unet import UNetConfig
from sfumato.posterior import DiagonalGaussian
from sfumato.priors.autoregressive import AutoregressiveConfig, AutoregressivePrior
from sfumato.priors.diffusion import DiffusionConfig, DiffusionPrior
from sfumato.priors.flow import FlowConfig, FlowPrior
from sfumato.priors.hierarchical import HierarchicalConfig, HierarchicalPrior
from sfumato.priors.normal import NormalConfig, NormalPrior
from sfumato.priors.regression import RegressionConfig, RegressionPrior

MEAN, STD, SPREAD = 0.1, 0.2, 0.3
NET = AutoencoderConfig(
    channels=32, multipliers=(1, 1), num_res_blocks=1, mid_attention=False, latent_channels=3, double_moments=False
)
IDENTITY = IdentityFirstStage(IdentityConfig())
GRID = Grid(3, 1)


def pictures(count: int = 4, side: int = 16) -> Tensor:
    x = MEAN + STD * torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(99))  # no picture's noise
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def nothing(part: slice) -> Conditioning:
    return Conditioning()


class Linear(FirstStage):
    """z ~ N(2 (x - mean) / std, spread^2): a KL stage whose latents are twice as wide as N(0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.latent, self.preview = 3, GRID, None

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(2 * (x - MEAN) / STD, torch.full_like(x, 2 * math.log(SPREAD)))

    def decode(self, z: Tensor) -> Tensor:
        return z * STD / 2 + MEAN

    @property
    def last_layer(self) -> nn.Parameter | None:
        return None


def uniform(prior: nn.Module) -> nn.Module:
    """All weights at 0: every code is as likely as any other."""
    for parameter in prior.parameters():
        nn.init.zeros_(parameter)
    return prior.eval()


def flow(dequantize: bool) -> FlowPrior:
    torch.manual_seed(0)
    prior = FlowPrior(FlowConfig(CouplingConfig(3, num_scales=2, num_steps=1, width=16), dequantize), GRID)
    prior.initialise(pictures().float() / 127.5 - 1, Conditioning(), torch.Generator().manual_seed(1))
    return prior.eval()


def test_a_vae_has_the_divergence_to_the_normal_prior():
    """KL(N(m, s^2) || N(0, 1)), here by torch.distributions; above the rate under the Gaussian that was fitted."""
    pixels = pictures()
    found = prior_point(Linear(), NormalPrior(NormalConfig(), GRID), nothing, pixels)
    means = Linear().posterior(pixels.double() / 127.5 - 1).mean
    there = float(kl_divergence(Normal(means, SPREAD), Normal(0.0, 1.0)).mean()) / math.log(2)
    own = first_stage_point(Linear(), pixels)
    assert found.rate == pytest.approx(there, rel=1e-6)
    assert found.rate > own.rate
    assert found.rmse == own.rmse
    assert found.under == "its normal prior"


def test_a_density_without_a_formula_agrees_with_the_divergence(monkeypatch):
    """E log q - log p by samples, with N(0, 1) in the flow's place: the same within what 3072 draws allow."""
    prior, pixels = flow(False), pictures()
    normal = NormalPrior(NormalConfig(), GRID)
    monkeypatch.setattr(prior, "log_prob", normal.log_prob)
    found, exact = (prior_point(Linear(), one, nothing, pixels) for one in (prior, normal))
    assert found.rate == pytest.approx(exact.rate, rel=0.02)
    assert found.under == "its flow"


def test_uniform_codes_cost_the_logarithm_of_their_number():
    """8 x 8 places of 4 codes, 2 bits each, over 3 x 16 x 16 values; the distortion is the first stage's own."""
    stage = VQFirstStage(VQConfig(NET, codebook_size=4)).eval()
    prior = uniform(AutoregressivePrior(AutoregressiveConfig(PixelCNNConfig(4, dim=8, depth=1)), stage.codes().latent))
    found = prior_point(stage, prior, nothing, pictures())
    assert found.rate == pytest.approx(8 * 8 * 2 / (3 * 16 * 16), rel=1e-6)
    assert found.rmse == pytest.approx(first_stage_point(stage, pictures()).rmse, rel=1e-5)


def test_two_levels_of_uniform_codes():
    """4 x 4 and 8 x 8 places of 4 codes."""
    stage = VQ2FirstStage(VQ2Config(NET, codebook_size=4, embed_channels=2)).eval()
    config = HierarchicalConfig(PixelCNNConfig(4, dim=8, depth=1), PixelCNNConfig(4, dim=8, depth=1, concat_channels=4))
    found = prior_point(stage, uniform(HierarchicalPrior(config, stage.codes().latent)), nothing, pictures())
    assert found.rate == pytest.approx((4 * 4 + 8 * 8) * 2 / (3 * 16 * 16), rel=1e-6)


def test_uniform_pixels_cost_eight_bits_and_lose_nothing():
    config = AutoregressiveConfig(GPTConfig(256, 8, 8, channels=3, dim=16, depth=1, heads=2))
    prior = uniform(AutoregressivePrior(config, IDENTITY.codes().latent))
    found = prior_point(IDENTITY, prior, nothing, pictures(2, 8))
    assert found.rate == pytest.approx(8, rel=1e-6)
    assert found.rmse == pytest.approx(0, abs=1e-3)  # of levels: fp32 on the way to codes and back


def test_a_flow_over_pixels_has_the_bits_that_evaluation_measures():
    """By the same dequantizing noise."""
    prior, pixels = flow(True), pictures()
    found = prior_point(IDENTITY, prior, nothing, pixels, seed=3, batch_size=3)
    there = measure_bits(IDENTITY, prior, pixels, nothing, BitSettings(seed=3, batch_size=4))
    assert found.rate == pytest.approx(float(there.values.mean()), rel=1e-5)
    assert found.rmse == 0


def test_a_point_does_not_depend_on_the_batch_size():
    one, three = (prior_point(Linear(), flow(False), nothing, pictures(), batch_size=n) for n in (1, 3))
    assert one.rate == pytest.approx(three.rate, rel=1e-6)
    assert one.rmse == pytest.approx(three.rmse, rel=1e-6)


def test_what_has_no_point():
    """A diffusion has a curve, a regression no distribution, and points without spread no density."""
    unet = UNetConfig(3, 3, channels=32, multipliers=(1,), num_res_blocks=1, attention_factors=())
    normal, vq = NormalPrior(NormalConfig(), GRID), VQFirstStage(VQConfig(NET, codebook_size=4))
    for stage, prior in (
        (IDENTITY, DiffusionPrior(DiffusionConfig(unet), GRID)),
        (Linear(), DiffusionPrior(DiffusionConfig(unet), GRID)),
        (Linear(), RegressionPrior(RegressionConfig(unet), GRID)),
        (IDENTITY, normal),
        (IDENTITY, flow(False)),
        (vq, normal),
    ):
        assert not has_prior_point(stage, prior)
        with pytest.raises(InputError, match="gives pictures no rate that is a point"):
            prior_point(stage, prior, nothing, pictures(1))
    assert has_prior_point(Linear(), normal)
    with pytest.raises(InputError, match="at least one"):
        prior_point(Linear(), normal, nothing, pictures(1)[:0])
