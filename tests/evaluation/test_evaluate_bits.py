"""Bits per dimension: sums to one, closed forms, Gaussian models whose likelihood is known, and what is undefined."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from oracles import GaussianData
from sfumato.conditioning import Conditioning
from sfumato.diffusion.bounds import bound
from sfumato.diffusion.forward import Learned
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.evaluation.decoder import LEAST_VARIANCE, DecoderLoss, EightBitGaussian, fitted_variance
from sfumato.evaluation.likelihood import (
    NO_GAUSSIAN,
    UNKNOWN_DECODER,
    BitSettings,
    Kind,
    UndefinedBits,
    kind_of,
    kinds_of,
    measure_bits,
    pixel_kind,
)
from sfumato.explain.rate_distortion import log_plan
from sfumato.first_stages.base import CodesFace, Decoder
from sfumato.first_stages.generator import GeneratorFirstStage
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.first_stages.vq import VQConfig, VQFirstStage
from sfumato.first_stages.vq2 import VQ2Config, VQ2FirstStage
from sfumato.generation.pixels import to_unit
from sfumato.latent import Codes, Grid
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.coupling import CouplingConfig
from sfumato.networks.generator import GeneratorConfig
from sfumato.networks.pixelcnn import PixelCNNConfig
from sfumato.networks.unet import UNetConfig
from sfumato.noise import PictureNoise
from sfumato.posterior import DiagonalGaussian
from sfumato.priors.autoregressive import AutoregressiveConfig, AutoregressivePrior
from sfumato.priors.diffusion import DiffusionConfig, DiffusionPrior
from sfumato.priors.flow import FlowConfig, FlowPrior
from sfumato.priors.hierarchical import HierarchicalConfig, HierarchicalPrior
from sfumato.priors.normal import NormalConfig, NormalPrior
from sfumato.priors.regression import RegressionConfig, RegressionPrior

NONE = Conditioning()
STD, SQUARE = 0.1, 0.04
SMALL = UNetConfig(1, 1, channels=32, multipliers=(1,), num_res_blocks=1, attention_factors=())
FOUR = dataclasses.replace(SMALL, in_channels=4, out_channels=4)


def nothing(part: slice) -> Conditioning:
    return NONE


def identity(channels: int = 1) -> IdentityFirstStage:
    return IdentityFirstStage(IdentityConfig(channels))


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def autoregressive(vocabulary: int, factor: int = 1, channels: int = 1, shake: float = 0.5) -> AutoregressivePrior:
    network = PixelCNNConfig(vocabulary=vocabulary, channels=channels, dim=6, depth=2, first_kernel=3)
    prior = AutoregressivePrior(AutoregressiveConfig(network), Codes((factor,), vocabulary, channels)).eval()
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in prior.parameters():
            p.copy_(shake * torch.randn(p.shape, generator=rng))
    return prior


def vq() -> VQFirstStage:
    torch.manual_seed(0)
    network = AutoencoderConfig(channels=8, multipliers=(1, 1), num_res_blocks=1, latent_channels=4, double_moments=False)
    return VQFirstStage(VQConfig(network, codebook_size=60)).eval()


def kl() -> KLFirstStage:
    return KLFirstStage(KLConfig(AutoencoderConfig(channels=8, multipliers=(1, 1), num_res_blocks=1, latent_channels=4)))


def flow(dequantize: bool, channels: int = 1) -> FlowPrior:
    torch.manual_seed(0)
    return FlowPrior(FlowConfig(CouplingConfig(channels, 1, num_steps=2, width=8), dequantize), Grid(channels, 1))


def test_probabilities_of_all_pictures_sum_to_one() -> None:
    """Pictures of one grey pixel: there are 256."""
    found = measure_bits(identity(), autoregressive(256), torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1), nothing)
    assert found.kind is Kind.pixels
    assert found.label == "bits per dimension"
    assert float((2.0**-found.values).sum()) == pytest.approx(1, abs=1e-5)
    assert found.values.std() > 0.1


def test_a_uniform_model_of_pixels_has_eight_bits_and_of_codes_the_logarithm_of_their_number() -> None:
    x = pixels(3, 3, 4, 4)
    found = measure_bits(identity(3), autoregressive(256, channels=3, shake=0.0), x, nothing, BitSettings(batch_size=2))
    torch.testing.assert_close(found.values, torch.full((3,), 8.0, dtype=torch.float64), atol=1e-5, rtol=0)
    codes = measure_bits(vq(), autoregressive(60, factor=2, shake=0.0), x, nothing)
    torch.testing.assert_close(codes.values, torch.full((3,), math.log2(60), dtype=torch.float64), atol=1e-5, rtol=0)
    assert (codes.key, codes.label) == ("bits_per_code", "bits per code")
    assert codes.how.startswith("Bits per code are exact")
    assert f"undefined: {UNKNOWN_DECODER}; --bits-gaussian" in codes.how
    network = AutoencoderConfig(channels=8, multipliers=(1, 1), num_res_blocks=1, latent_channels=4, double_moments=False)
    small = PixelCNNConfig(60, dim=6, depth=1)
    two = HierarchicalPrior(
        HierarchicalConfig(small, dataclasses.replace(small, concat_channels=2), told_depth=0), Codes((4, 2), 60)
    )
    with torch.no_grad():
        for p in two.parameters():
            p.zero_()
    levels = measure_bits(VQ2FirstStage(VQ2Config(network, 60)).eval(), two, x, nothing)
    torch.testing.assert_close(levels.values, torch.full((3,), math.log2(60), dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_normal_density_of_pixels_is_integrated_over_their_bins() -> None:
    """Over dequantizing noise the mean is -E log2 N(y) + 7, y uniform on [a, a + 1/128]; it bounds -log2 of the integral."""
    k = 40
    x = torch.full((4000, 1, 1, 1), k, dtype=torch.uint8)
    found = measure_bits(identity(), NormalPrior(NormalConfig(), Grid(1, 1)), x, nothing, BitSettings(batch_size=1000))
    a, width = k / 128 - 1, 1 / 128
    square = ((a + width) ** 3 - a**3) / (3 * width)
    wanted = (0.5 * square + 0.5 * math.log(2 * math.pi)) / math.log(2) + 7
    assert float(found.values.mean()) == pytest.approx(wanted, abs=4 * float(found.values.std()) / 4000**0.5)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    exact = -math.log2(float(normal.cdf(torch.tensor(a + width)) - normal.cdf(torch.tensor(a))))
    assert exact == pytest.approx(wanted, abs=1e-4)
    assert found.label == "bits per dimension (bound)"


def test_a_flow_of_pixels_is_its_own_bound_by_each_pictures_noise() -> None:
    prior, x = flow(dequantize=True), pixels(3, 1, 4, 4)
    prior.initialise(to_unit(x), NONE, torch.Generator().manual_seed(0))
    found = measure_bits(identity(), prior, x, nothing, BitSettings(seed=9, batch_size=2)).values
    for i in range(3):
        wanted = prior.bits_per_dimension(to_unit(x[i : i + 1]), NONE, torch.Generator().manual_seed(9 + i))
        assert float(found[i]) == pytest.approx(float(wanted.detach()), rel=1e-5)


class Exact(nn.Module):
    """The best denoiser of Gaussian data."""

    def __init__(self, data: GaussianData):
        super().__init__()
        self.data, self.schedule = data, make_schedule(ScheduleConfig(ScheduleName.linear, 1e-4, 0.02))

    def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> SimpleNamespace:
        return SimpleNamespace(x_0=self.data.denoiser(self.schedule)(x_t, t))


def test_the_chains_bound_comes_near_the_entropy_of_rounded_gaussian_data() -> None:
    data = GaussianData(0.1, 0.25)
    x = data.mean + data.std * torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    x = ((x + 1) * 127.5).round().clamp(0, 255).byte()
    prior = DiffusionPrior(DiffusionConfig(SMALL), Grid(1, 1))
    prior.denoiser = Exact(data)  # type: ignore[assignment]
    entropy = math.log2(data.std * math.sqrt(2 * math.pi * math.e)) + math.log2(127.5)
    bits = []
    for count in (50, 200):
        plan = log_plan(prior.denoiser.schedule, count)
        found = measure_bits(identity(), prior, x, nothing, BitSettings(times=plan, batch_size=4))
        bits.append(float(found.values.mean()))
    full = measure_bits(identity(), prior, x[:2], nothing)
    assert entropy < bits[1] < entropy + 0.3 < float(full.values.mean()) < bits[0]  # 7.04, 7.26, 7.83, 7.95
    assert "200 steps" in found.how
    assert "1000 steps" in full.how


def test_the_chain_is_that_of_the_network_by_each_pictures_noise() -> None:
    torch.manual_seed(0)
    prior, x = DiffusionPrior(DiffusionConfig(SMALL), Grid(1, 1)).eval(), pixels(3, 1, 8, 8)
    plan = log_plan(prior.denoiser.schedule, 5)
    found = measure_bits(identity(), prior, x, nothing, BitSettings(seed=4, times=plan, batch_size=2)).values
    with torch.no_grad():
        wanted = bound(
            lambda x_t, t: prior.denoiser(x_t, t, NONE).x_0.clamp(-1, 1),
            prior.denoiser.schedule,
            to_unit(x),
            PictureNoise([4, 5, 6]),
            times=plan,
            decoder_variance=float(prior.denoiser.schedule.sigma_ratio(plan[-2])) ** 2,
        )
    torch.testing.assert_close(found, wanted.bits_per_dimension, rtol=1e-4, atol=0)


def test_a_learned_variance_is_the_chains() -> None:
    torch.manual_seed(0)
    network = dataclasses.replace(SMALL, out_channels=2)
    prior, x = DiffusionPrior(DiffusionConfig(network, variance="learned"), Grid(1, 1)).eval(), pixels(2, 1, 8, 8)
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.05)
    plan, schedule = log_plan(prior.denoiser.schedule, 5), prior.denoiser.schedule
    found = measure_bits(identity(), prior, x, nothing, BitSettings(seed=4, times=plan))

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        said = prior.denoiser(x_t, t, NONE)
        assert said.share is not None
        return torch.cat([said.x_0.clamp(-1, 1), said.share], dim=1)

    with torch.no_grad():
        wanted = bound(
            estimate, schedule, to_unit(x), PictureNoise([4, 5]), times=plan, variance=Learned.learned,
            decoder_variance=float(schedule.sigma_ratio(plan[-2])) ** 2,
        )  # fmt: skip
    torch.testing.assert_close(found.values, wanted.bits_per_dimension, rtol=1e-4, atol=0)
    assert "learned variance" in found.how


class Linear(KLFirstStage):
    """x = W z + STD eps with its exact posterior, as in `test_importance_bound`: z (B, 2, 1, 1) -> x (B, 4, 1, 1)."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.latent, self.channels = Grid(2, 1), 4
        rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0]
        self.w = rotation[:, :2] * math.sqrt(SQUARE)

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        mean = (x.flatten(1) @ self.w / (SQUARE + STD**2))[:, :, None, None]
        return DiagonalGaussian(mean, torch.full_like(mean, STD**2 / (SQUARE + STD**2)).log())

    def decode(self, z: Tensor) -> Tensor:
        return (z.flatten(1) @ self.w.T)[:, :, None, None]


def linear_pictures(num: int) -> Tensor:
    z, eps = torch.randn(num, 6, generator=torch.Generator().manual_seed(1)).split([2, 4], dim=1)
    x = z @ Linear().w.T + STD * eps
    assert x.abs().max() < 1
    return ((x + 1) * 127.5).round().byte()[:, :, None, None]


def test_a_vae_with_the_exact_posterior_has_its_likelihood() -> None:
    """Bins of 2/255 are narrow beside STD: P(x) = p(x) (2/255)^4 but for 1e-3 of a bit."""
    stage, x = Linear(), linear_pictures(64)
    marginal = torch.distributions.MultivariateNormal(torch.zeros(4), stage.w @ stage.w.T + STD**2 * torch.eye(4))
    wanted = -marginal.log_prob(to_unit(x).flatten(1)).double() / (4 * math.log(2)) - math.log2(2 / 255)
    prior = NormalPrior(NormalConfig(), Grid(2, 1))
    found = measure_bits(stage, prior, x, nothing, BitSettings(variance=STD**2, num_samples=2))
    assert found.kind is Kind.importance
    assert (found.values - wanted).abs().max() < 5e-3
    with pytest.raises(InputError, match="fitted_variance"):
        measure_bits(stage, prior, x, nothing)


def test_the_likeliest_variance_is_the_models_own() -> None:
    stage, x = Linear(), linear_pictures(4096)
    assert fitted_variance(stage, x, batch_size=512) == pytest.approx(STD**2, rel=0.04)  # 16,384 squares: 1.1 % each sigma
    prior = NormalPrior(NormalConfig(), Grid(2, 1))

    def mean(variance: float) -> float:
        return float(measure_bits(stage, prior, x[:512], nothing, BitSettings(variance=variance, batch_size=512)).values.mean())

    assert mean(STD**2) < min(mean(2 * STD**2), mean(0.5 * STD**2))


def test_a_perfect_decoder_has_the_variance_of_rounding() -> None:
    assert fitted_variance(identity(), pixels(4, 1, 4, 4)) == LEAST_VARIANCE


UNDEFINED: list[tuple[Callable[[], tuple[Decoder, Any]], str]] = [
    (lambda: (GeneratorFirstStage(GeneratorConfig()), NormalPrior(NormalConfig(), Grid(1, 1))), "no density"),
    (lambda: (kl(), DiffusionPrior(DiffusionConfig(FOUR), Grid(4, 2))), "latents"),
    (lambda: (vq(), DiffusionPrior(DiffusionConfig(FOUR), Grid(4, 2))), "latents"),
    (lambda: (identity(), flow(dequantize=False)), "dequantize=true"),
    (lambda: (identity(), autoregressive(16)), "8-bit pixels are"),
    (lambda: (identity(), RegressionPrior(RegressionConfig(SMALL), Grid(1, 1))), "RegressionPrior over IdentityFirstStage"),
    (lambda: (kl(), autoregressive(256)), "AutoregressivePrior over KLFirstStage"),
]


@pytest.mark.parametrize(("pair", "word"), UNDEFINED)
def test_undefined_bits_say_why(pair: Callable[[], tuple[Decoder, Any]], word: str) -> None:
    first_stage, prior = pair()
    for decide in (kind_of, kinds_of, pixel_kind):
        with pytest.raises(UndefinedBits, match="undefined for this model") as error:
            decide(first_stage, prior)
        assert word in error.value.why
        assert str(error.value).endswith(f"{error.value.why}; leave --bits out.")


class Levels(CodesFace):
    """Each pixel's nearest of four greys."""

    preview = None

    def __init__(self) -> None:
        super().__init__()
        self.latent, self.channels, self.greys = Codes((1,), 4), 1, torch.tensor([-0.9, -0.2, 0.3, 1.1])

    def encode(self, x: Tensor) -> Tensor:
        return (x[:, 0, ..., None] - self.greys).abs().argmin(-1)  # (B, 1, H, W) -> (B, H, W)

    def decode(self, z: Tensor) -> Tensor:
        return self.greys[z][:, None]


class Greys(VQFirstStage):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.channels, self.face = 1, Levels()

    def codes(self) -> Levels:  # type: ignore[override]
        return self.face


def pairs_of_greys() -> Tensor:
    """All pictures of two 8-bit pixels: (65536, 1, 1, 2)."""
    return torch.cartesian_prod(torch.arange(256), torch.arange(256)).byte().view(-1, 1, 1, 2)


def test_bits_through_codes_bound_those_of_the_sum_over_all_codes() -> None:
    """Pictures of two pixels and four codes a pixel: P(x) = sum over 16 codes, and all 65,536 pictures are there."""
    stage, prior, variance, x = Greys(), autoregressive(4), 0.04, pairs_of_greys()
    settings = BitSettings(variance=variance, batch_size=8192, decoder=DecoderLoss.squared)
    found = measure_bits(stage, prior, x, nothing, settings, kind=Kind.through_codes)
    assert (found.key, found.label) == ("bits_per_dimension", "bits per dimension (bound)")
    codes = torch.cartesian_prod(torch.arange(4), torch.arange(4)).view(16, 1, 2)
    with torch.no_grad():
        of_codes = prior.log_prob(codes, NONE).double().exp().numpy()
    assert of_codes.sum() == pytest.approx(1, abs=1e-5)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    greys = stage.face.greys.double().numpy()
    given = np.diff(norm.cdf(edges, greys[:, None], math.sqrt(variance)))  # (4, 256): P(pixel | code), open at both ends
    first, second = codes[:, 0].T.numpy()
    joint = np.einsum("k,ka,kb->kab", of_codes, given[first], given[second]).reshape(16, -1)
    exact = joint.sum(0)
    assert exact.sum() == pytest.approx(1, abs=1e-5)
    bound = found.values.numpy()
    assert (2 * bound >= -np.log2(exact) - 1e-5).all()
    assert (2.0 ** (-2 * bound)).sum() < 1
    own = stage.face.encode(to_unit(x)).flatten(1).numpy() @ [4, 1]  # which of the 16
    np.testing.assert_allclose(2 * bound, -np.log2(joint[own, np.arange(65536)]), atol=1e-4)


def test_pixels_through_codes_cost_the_codes_and_what_they_leave_out() -> None:
    x, variance = pixels(3, 1, 1, 2), 0.1
    stage, prior = Greys(), autoregressive(4)
    settings = BitSettings(variance=variance, decoder=DecoderLoss.squared)
    codes, through = (measure_bits(stage, prior, x, nothing, settings, kind=k) for k in (Kind.codes, Kind.through_codes))
    rest = EightBitGaussian(variance)(to_unit(x), stage.face.decode(stage.face.encode(to_unit(x))))
    torch.testing.assert_close(through.values, codes.values - rest / (2 * math.log(2)), atol=1e-6, rtol=0)
    assert codes.how == "Bits per code are exact, of the first stage's codes. Those of pixels are beside them."
    assert "trained by squared error alone" in through.how
    with pytest.raises(InputError, match="fitted_variance"):
        measure_bits(stage, prior, x, nothing, kind=Kind.through_codes)


def test_the_variance_of_codes_is_that_of_their_decoding() -> None:
    x = pixels(64, 1, 1, 2)
    unit = x.double() / 127.5 - 1
    nearest = (unit[..., None] - Levels().greys.double()).abs().min(-1).values
    assert fitted_variance(Greys(), x, batch_size=10) == pytest.approx(float(nearest.square().mean()), rel=1e-5)


def test_the_density_of_a_decoder_sums_to_one_wherever_its_answer_is() -> None:
    """Over the 256 values of a pixel, for answers inside and far outside of [-1, 1]."""
    x = torch.arange(256).double().view(-1, 1) / 127.5 - 1
    for answer in (0.0, -1.0, 0.999, 3.0, -40.0):
        for variance in (LEAST_VARIANCE, 0.01, 4.0):
            log_prob = EightBitGaussian(variance)(x, torch.full((256, 1), answer))
            assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_the_training_of_the_decoder_decides_about_pixels() -> None:
    normal, codes = NormalPrior(NormalConfig(), Grid(4, 2)), autoregressive(60, factor=2)
    for loss in DecoderLoss:
        known = loss.gaussian
        kinds = (Kind.codes, Kind.through_codes) if known else (Kind.codes,)
        assert kinds_of(vq(), codes, loss) == kinds
        assert kinds_of(identity(), autoregressive(256), loss) == (Kind.pixels,)
        if loss is DecoderLoss.other:
            with pytest.raises(UndefinedBits, match=r"more than squared error.*--bits-gaussian"):
                kinds_of(kl(), normal, loss)
        else:
            assert kinds_of(kl(), normal, loss) == (Kind.importance,)
        if known:
            assert pixel_kind(vq(), codes, loss) is Kind.through_codes
        else:
            with pytest.raises(UndefinedBits) as error:
                pixel_kind(vq(), codes, loss)
            assert error.value.why == (NO_GAUSSIAN if loss is DecoderLoss.other else UNKNOWN_DECODER)
    assert [DecoderLoss.of(v) for v in (True, False, None)] == [DecoderLoss.squared, DecoderLoss.other, DecoderLoss.unknown]
