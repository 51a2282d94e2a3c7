"""Bits per dimension of models whose likelihood is known on paper: uniform, constant, perfect."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from sfumato.conditioners.none import Unconditional
from sfumato.diffusion.bounds import every_step
from sfumato.diffusion.schedule import Schedule
from sfumato.evaluation.decoder import LEAST_VARIANCE, DecoderLoss
from sfumato.evaluation.likelihood import GENERATOR, LATENT_DIFFUSION, NO_GAUSSIAN, UNKNOWN_DECODER, Bits, UndefinedBits
from sfumato.first_stages.generator import GeneratorFirstStage
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.first_stages.vq import VQConfig, VQFirstStage
from sfumato.first_stages.vq2 import VQ2Config, VQ2FirstStage
from sfumato.latent import Codes, Grid
from sfumato.model import LatentModel
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.coupling import CouplingConfig
from sfumato.networks.generator import GeneratorConfig
from sfumato.networks.gpt import GPTConfig
from sfumato.networks.pixelcnn import PixelCNNConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.autoregressive import AutoregressiveConfig, AutoregressivePrior
from sfumato.priors.diffusion import DiffusionConfig, DiffusionPrior
from sfumato.priors.flow import FlowConfig, FlowPrior
from sfumato.priors.hierarchical import HierarchicalConfig, HierarchicalPrior
from sfumato.priors.normal import NormalConfig, NormalPrior
from sfumato.recipes.families import FAMILIES
from sfumato.studies.bits import held_out_bits

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


def measure(own: LatentModel, pixels: Tensor, decoder: DecoderLoss = DecoderLoss.squared, **settings: int) -> Bits:
    return held_out_bits(own, pixels, pixels, decoder, **settings)  # type: ignore[arg-type]


def around_nothing(pixels: Tensor) -> float:
    """Bits a dimension of a discretised Gaussian around 0, open at both ends, of the pixels' own mean square: SciPy's."""
    x = pixels.double().numpy() / 127.5 - 1
    std = math.sqrt(max(LEAST_VARIANCE, float((x**2).mean())))
    low = np.where(pixels.numpy() == 0, -np.inf, x - 1 / 255)
    high = np.where(pixels.numpy() == 255, np.inf, x + 1 / 255)
    return float(-np.log2(norm.cdf(high, 0, std) - norm.cdf(low, 0, std)).mean())


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
    assert found.exact
    torch.testing.assert_close(found.values, torch.full((12,), 8.0, dtype=torch.float64), rtol=0, atol=1e-5)  # summed in fp32


def test_the_codes_of_a_picture_are_its_own_values() -> None:
    """A model that gives all its mass to value 7 is right about a picture of sevens alone."""
    prior = AutoregressivePrior(
        AutoregressiveConfig(GPTConfig(256, SIDE, SIDE, channels=3, dim=16, depth=1, heads=2)), Codes((1,), 256, 3)
    )

    def log_prob(codes: Tensor, cond: object) -> Tensor:
        return torch.where(codes == 7, 0.0, -100.0).flatten(1).sum(1)  # (B, C, H, W) -> (B,)

    prior.log_prob = log_prob  # type: ignore[method-assign, assignment]
    own = model(IdentityFirstStage(IdentityConfig(3)), prior)
    sevens, others = torch.full((2, 3, SIDE, SIDE), 7, dtype=torch.uint8), torch.full((2, 3, SIDE, SIDE), 9, dtype=torch.uint8)
    assert measure(own, sevens).values.tolist() == [0, 0]
    assert measure(own, others).values.tolist() == pytest.approx([100 / math.log(2)] * 2)


def test_an_autoencoder_that_says_nothing_is_a_gaussian() -> None:
    """q = prior and the decoder is constant: the bound is -log P(x) of one Gaussian, whose variance is fitted."""
    own = model(silent(KLFirstStage(KLConfig(autoencoder(True)))), NormalPrior(NormalConfig(), Grid(4, 2)))
    pixels = pictures(40)
    found = measure(own, pixels)
    assert not found.exact
    assert found.values.mean().item() == pytest.approx(around_nothing(pixels), abs=1e-4)
    assert "64 draws" in found.how


def test_codes_cost_their_bits_beside_the_gaussian() -> None:
    """Uniform codes, K = 8, on a 4 x 4 grid: 16 * 3 bits a picture, and a constant decoder."""
    first = silent(VQFirstStage(VQConfig(autoencoder(False), codebook_size=8)))
    prior = silent(AutoregressivePrior(AutoregressiveConfig(GPTConfig(8, 4, 4, dim=16, depth=1, heads=2)), Codes((2,), 8)))
    pixels = pictures(40)
    found = measure(model(first, prior), pixels)
    assert not found.exact
    assert found.values.mean().item() == pytest.approx(around_nothing(pixels) + 16 * 3 / (3 * SIDE * SIDE), abs=1e-4)
    for loss, why in ((DecoderLoss.other, NO_GAUSSIAN), (DecoderLoss.unknown, UNKNOWN_DECODER)):
        with pytest.raises(UndefinedBits) as error:
            measure(model(first, prior), pixels, loss)
        assert error.value.why == why


@pytest.mark.parametrize("embed", [0, 4])
def test_codes_of_two_levels_cost_both(embed: int) -> None:
    """Uniform codes, K = 8, on 2 x 2 and 4 x 4 places: 20 * 3 bits a picture."""
    first = silent(VQ2FirstStage(VQ2Config(autoencoder(False), codebook_size=8, embed_channels=embed)))
    net = PixelCNNConfig(8, dim=6, depth=1)
    prior = silent(HierarchicalPrior(HierarchicalConfig(net, replace(net, concat_channels=2), told_depth=0), Codes((4, 2), 8)))
    pixels = pictures(40)
    found = measure(model(first, prior), pixels)
    assert not found.exact
    assert found.values.mean().item() == pytest.approx(around_nothing(pixels) + 20 * 3 / (3 * SIDE * SIDE), abs=1e-4)


def test_a_perfect_decoder_leaves_the_rounding_to_pay_for() -> None:
    """Grey pictures, and a decoder whose bias is that grey: a bin holds all but 8 % of a Gaussian of rounding's variance."""
    first = silent(VQFirstStage(VQConfig(autoencoder(False), codebook_size=8)))
    with torch.no_grad():
        list(first.decoder.parameters())[-1].fill_(100 / 127.5 - 1)
    prior = silent(AutoregressivePrior(AutoregressiveConfig(GPTConfig(8, 4, 4, dim=16, depth=1, heads=2)), Codes((2,), 8)))
    grey = torch.full((2, 3, SIDE, SIDE), 100, dtype=torch.uint8)
    inside = 1 - 2 * norm.cdf(-math.sqrt(3))  # half a bin is sqrt(3) deviations of a uniform variable on it
    wanted = -math.log2(inside) + 16 * 3 / (3 * SIDE * SIDE)
    assert measure(model(first, prior), grey).values.tolist() == pytest.approx([wanted] * 2, abs=1e-4)


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
    assert not found.exact
    assert found.values.item() == pytest.approx((end + level) / math.log(2), rel=1e-3)


def test_a_flow_is_asked_itself() -> None:
    """By each picture's own noise, whatever the batches."""
    prior = FlowPrior(FlowConfig(CouplingConfig(3, num_scales=1, num_steps=1, width=8), dequantize=True), Grid(3, 1))
    own, unit = model(IdentityFirstStage(IdentityConfig(3)), prior), pictures(3).float() / 127.5 - 1
    prior.initialise(pictures().float() / 127.5 - 1, Unconditional()(torch.zeros(12)))
    found = measure(own, pictures(3), batch_size=2)
    for i in range(3):
        noise = torch.Generator().manual_seed(i)
        expected = prior.bits_per_dimension(unit[i : i + 1], Unconditional()(torch.zeros(1)), noise)
        assert found.values[i].item() == pytest.approx(expected.item(), rel=1e-5)
    assert not found.exact


def test_where_there_are_none_it_says_why() -> None:
    unet = DiffusionConfig(UNetConfig(4, 4, channels=32, multipliers=(1,), num_res_blocks=1, attention_factors=()))
    normal = NormalPrior(NormalConfig(), Grid(4, 2))
    latent = model(KLFirstStage(KLConfig(autoencoder(True))), DiffusionPrior(unet, Grid(4, 2)))
    sharp = model(KLFirstStage(KLConfig(autoencoder(True))), normal)
    generator = model(GeneratorFirstStage(GeneratorConfig(dim=4, widths=(8,), mapping_width=8)), normal)
    for own, why in ((latent, LATENT_DIFFUSION), (sharp, NO_GAUSSIAN), (generator, GENERATOR)):
        with pytest.raises(UndefinedBits) as error:
            measure(own, pictures(), DecoderLoss.other)
        assert error.value.why == why


def test_what_the_families_runs_say_of_their_decoders() -> None:
    """Squared error in the papers of the VAE and of both VQ-VAEs; everybody else has a perceptual distance or no decoder."""
    said = {name: recipe().first_stage.squared_error_alone for name, recipe in FAMILIES.items()}
    assert {name for name, alone in said.items() if alone} == {"vae", "vqvae", "vqvae2"}
    assert said["vqgan"] is said["ldm"] is False
    plain = FAMILIES["vae"]().first_stage
    for change, alone in (
        ({"pixel": "l1"}, False),
        ({"perceptual": "embedded"}, False),
        ({"perceptual": "embedded", "perceptual_weight": 0.0}, True),
        ({"gan_start": 100}, False),
        ({"gan_start": 100, "gan_weight": 0.0}, True),
        ({"kl_weight": 1e-6}, True),
    ):
        loss = replace(plain.loss, **change)  # type: ignore[arg-type]
        assert replace(plain, loss=loss).squared_error_alone is alone, change
    assert replace(plain, frozen="runs/other").squared_error_alone is None
