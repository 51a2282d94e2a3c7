"""The contract of every first stage: shapes, units, gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from sfumato.build import FirstStageConfig, build_first_stage
from sfumato.errors import InputError
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.identity import IdentityConfig
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.first_stages.vq import VQConfig, VQFirstStage
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from tiny_runs import awaken


def kl(factor: int, channels: int = 3, latent: int = 4, embed: int = 0) -> KLConfig:
    levels = factor.bit_length()
    network = AutoencoderConfig(
        image_channels=channels, channels=8, multipliers=(1,) * levels, num_res_blocks=1, latent_channels=latent
    )
    return KLConfig(network, embed)


def vq(factor: int, channels: int = 3, latent: int = 4, embed: int = 0) -> VQConfig:
    network = dataclasses.replace(kl(factor, channels, latent).network, double_moments=False)
    return VQConfig(network, codebook_size=50, embed_channels=embed)


CASES = {f"kl f{f}": (kl(f), f) for f in (1, 2, 4, 8, 16, 32)}
CASES |= {f"kl f4 of {c} channels": (kl(4, c), 4) for c in (1, 4, 5)}
CASES |= {"kl with quantisation to 3": (kl(4, latent=6, embed=3), 4)}
CASES |= {f"identity of {c} channels": (IdentityConfig(c), 1) for c in (1, 3, 4, 5)}
CASES |= {f"vq f{f}": (vq(f), f) for f in (1, 4, 8)}
CASES |= {"vq f4 of 4 channels": (vq(4, 4), 4), "vq with codes of 3 channels": (vq(4, latent=6, embed=3), 4)}
CASES |= {"finite scalars": (dataclasses.replace(vq(4, latent=3), codebook_size=60, levels=(4, 3, 5)), 4)}
CASES_KL = {name: case for name, case in CASES.items() if isinstance(case[0], KLConfig)}
CASES_WITH_DECODER = {name: case for name, case in CASES.items() if isinstance(case[0], KLConfig | VQConfig)}


def make(config: FirstStageConfig) -> FirstStage:
    torch.manual_seed(0)
    return awaken(build_first_stage(config))  # type: ignore[return-value]


def image(stage: FirstStage, height: int, width: int, count: int = 2) -> Tensor:
    return torch.rand(count, stage.channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("name", CASES)
def test_shapes(name: str) -> None:
    config, factor = CASES[name]
    stage = make(config)
    x = image(stage, 2 * factor, 3 * factor)
    with torch.no_grad():
        posterior = stage.posterior(x)
        assert posterior.mean.shape[1:] == stage.latent.shape(2 * factor, 3 * factor)
        assert posterior.mean.shape == (2, stage.latent.channels, 2, 3)
        assert posterior.mean.dtype == torch.float32
        if posterior.log_variance is not None:
            assert posterior.log_variance.shape == posterior.mean.shape
        assert stage.decode(posterior.sample(torch.Generator())).shape == x.shape
    assert stage.latent.factor == factor
    with pytest.raises(InputError, match="multiple"):
        stage.latent.shape(2 * factor + 1, 0)


@pytest.mark.parametrize("name", CASES_WITH_DECODER)
def test_last_layer_is_the_decoders_last_weight(name: str) -> None:
    stage = make(CASES_WITH_DECODER[name][0])
    assert isinstance(stage, KLFirstStage | VQFirstStage)
    assert stage.last_layer is stage.decoder.conv_out.weight
    assert stage.last_layer.shape[0] == stage.channels
    z = torch.randn(1, stage.latent.channels, 2, 2, generator=torch.Generator().manual_seed(1))
    before = stage.decode(z).detach()
    with torch.no_grad():
        stage.last_layer.mul_(2)
        bias = stage.decoder.conv_out.bias.view(-1, 1, 1)
        torch.testing.assert_close(stage.decode(z) - bias, 2 * (before - bias), rtol=1e-4, atol=1e-4)


def test_identity_has_no_last_layer_and_no_spread() -> None:
    stage = make(IdentityConfig(3))
    x = image(stage, 4, 4)
    assert stage.last_layer is None
    assert torch.equal(stage.posterior(x).sample(), x)
    assert torch.equal(stage.decode(x), x)
    assert list(stage.parameters()) == []


@pytest.mark.parametrize("name", CASES_KL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    config, factor = CASES_KL[name]
    stage = make(config)
    posterior = stage.posterior(image(stage, 2 * factor, 2 * factor))
    x_hat = stage.decode(posterior.sample(torch.Generator().manual_seed(2)))
    (x_hat.square().sum() + posterior.kl().sum()).backward()
    asleep = [n for n, p in stage.named_parameters() if p.grad is None or not p.grad.any()]
    assert asleep == []


@pytest.mark.parametrize("name", CASES_WITH_DECODER)
def test_unit_scale(name: str) -> None:
    config, factor = CASES_WITH_DECODER[name]
    stage = make(config)
    assert isinstance(stage, KLFirstStage | VQFirstStage)
    x = image(stage, 2 * factor, 2 * factor)
    channels = stage.latent.channels
    with torch.no_grad():
        raw, x_hat = stage.posterior(x), stage.decode(stage.posterior(x).mean)
        mean, std = torch.linspace(-2, 3, channels), torch.linspace(0.2, 5, channels)
        preview = torch.rand(channels + 1, 3 if stage.channels == 4 else stage.channels)  # transparency is shown on white
        stage.set_statistics(mean, std, preview)
        unit = stage.posterior(x)
        shape = (-1, 1, 1)
        torch.testing.assert_close(unit.mean, (raw.mean - mean.view(shape)) / std.view(shape))
        if raw.log_variance is not None:
            torch.testing.assert_close(unit.log_variance, raw.log_variance - 2 * std.log().view(shape))
        torch.testing.assert_close(stage.decode(unit.mean), x_hat, rtol=1e-3, atol=1e-4)  # decode takes unit scale back
    assert torch.equal(stage.preview, preview)
    kept = {"shift", "scale", "preview"} & stage.state_dict().keys()
    assert kept == {"shift", "scale", "preview"}
    assert not any(n in ("shift", "scale", "preview") for n, _ in stage.named_parameters())


def test_log_variance_is_bounded() -> None:
    stage = make(kl(2))
    with torch.no_grad():
        stage.quant_conv.bias[4:] = 1e6
        assert stage.posterior(image(stage, 4, 4)).log_variance.max() == 20
        stage.quant_conv.bias[4:] = -1e6
        assert stage.posterior(image(stage, 4, 4)).log_variance.max() == -30


def test_a_new_first_stage_is_the_same_for_the_same_seed() -> None:
    stages = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        stages.append(build_first_stage(kl(4)).state_dict())
    assert all(torch.equal(v, stages[1][k]) for k, v in stages[0].items())
    assert not torch.equal(stages[0]["encoder.conv_in.weight"], stages[2]["encoder.conv_in.weight"])
