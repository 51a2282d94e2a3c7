"""The published architectures, shrunken: the same random weights in diffusers give the same numbers.

Weights travel through the key map and the classes are made from our settings, so both are tested by the numbers. Tolerance:
1e-4 of the output's scale (its standard deviation), fp32: sums in another order, about 1e-6 a layer, through some thirty.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.build import build_first_stage
from sfumato.conditioning import Conditioning
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop import diffusers as names
from sfumato.interop.diffusers_config import (
    SDXL_TIME_CHANNELS,
    first_stage_config,
    first_stage_settings,
    is_text_time,
    unet_config,
    unet_settings,
)
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNet, UNetConfig
from sfumato.nn.layers import timestep_embedding

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-4
POOLED = 20
"""Of the pooled text embedding in the SDXL-like vector; six numbers of `SDXL_TIME_CHANNELS` come after it."""


def small(**fields: Any) -> UNetConfig:
    """Stable Diffusion's U-Net with a tenth of its width."""
    common: dict[str, Any] = {"attention_factors": (4, 2, 1), "context_dim": 24, "head_channels": None, "num_heads": 8}
    if "head_channels" in fields:
        common["num_heads"] = None
    return UNetConfig(4, 4, **{"channels": 32, "multipliers": (1, 2, 4, 4), "num_res_blocks": 2} | common | fields)


UNETS = {
    "sd1": small(),
    "sd1-inpainting": small(concat_channels=5),
    "instruct-pix2pix": small(concat_channels=4, multipliers=(1, 2, 2), attention_factors=(2, 1)),
    "cin256-v2": small(multipliers=(1, 2, 3, 5), attention_factors=(8, 4, 2), num_heads=1),
    "sd2": small(head_channels=32, linear_projection=True),
    "sd2 of 64-channel heads": small(
        head_channels=64, channels=64, multipliers=(1, 2), attention_factors=(2, 1), linear_projection=True
    ),
    "sd2-depth": small(head_channels=32, multipliers=(1, 2), attention_factors=(1,), concat_channels=1, linear_projection=True),
    "sd2-unclip": small(head_channels=32, multipliers=(1, 2), attention_factors=(1,), vector_dim=9, linear_projection=True),
    "layout2img": small(head_channels=32, multipliers=(1, 2, 3), attention_factors=(4, 2), transformer_depth=3),
    "x4-upscaler": small(
        multipliers=(1, 2, 2, 4),
        attention_factors=(2, 4, 8),
        concat_channels=3,
        linear_projection=True,
        num_classes=30,
        disable_self_attentions=(True, True, True, False),
    ),
    "sdxl-base": small(
        multipliers=(1, 2, 4),
        attention_factors=(4, 2),
        transformer_depth=(1, 2, 5),
        head_channels=32,
        linear_projection=True,
        vector_dim=POOLED + 6 * SDXL_TIME_CHANNELS,
    ),
    "sdxl-refiner": small(
        attention_factors=(4, 2),
        transformer_depth=2,
        head_channels=32,
        linear_projection=True,
        vector_dim=POOLED + 5 * SDXL_TIME_CHANNELS,
    ),
}
FIRST_STAGES: dict[str, KLConfig | VQConfig] = {
    "kl-f4": KLConfig(AutoencoderConfig(channels=32, multipliers=(1, 2, 4), latent_channels=3)),
    "kl-f8": KLConfig(AutoencoderConfig(channels=32, multipliers=(1, 2, 4, 4))),
    "kl-f16": KLConfig(
        AutoencoderConfig(channels=32, multipliers=(1, 1, 2, 2, 4), attention_resolution_factors=(16,), latent_channels=16)
    ),
    "kl-f32": KLConfig(
        AutoencoderConfig(
            channels=32,
            multipliers=(1, 1, 1, 1, 2, 2),
            attention_resolution_factors=(16, 32),
            latent_channels=8,
            num_res_blocks=1,
        )
    ),
    "vq-f4": VQConfig(AutoencoderConfig(channels=32, multipliers=(1, 2, 4), latent_channels=3, double_moments=False), 100),
    "vq-f4-noattn": VQConfig(
        AutoencoderConfig(channels=32, multipliers=(1, 2, 4), latent_channels=3, double_moments=False, mid_attention=False), 100
    ),
    "vq-f8": VQConfig(
        AutoencoderConfig(
            channels=32, multipliers=(1, 2, 2, 4), attention_resolution_factors=(8,), latent_channels=4, double_moments=False
        ),
        60,
        embed_channels=6,
    ),
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(network: nn.Module) -> nn.Module:
    """Random weights also where a network starts from zeros or ones, about 1 / sqrt(fan-in) as usual."""
    g = rng(3)
    with torch.no_grad():
        for p in network.parameters():
            noise = torch.randn(p.shape, generator=g)
            p.copy_(noise / p[0].numel() ** 0.5 if p.ndim > 1 else p + 0.1 * noise)
    return network.eval()


def assert_alike(given: Tensor, wanted: Tensor) -> None:
    assert given.shape == wanted.shape
    error = float((given - wanted).abs().max() / wanted.std())
    assert error <= TOLERANCE, f"max abs error {error:.2e} of the output's scale"


@torch.no_grad()
@pytest.mark.parametrize("name", UNETS)
def test_unet(name: str) -> None:
    config, sdxl = UNETS[name], name.startswith("sdxl")
    theirs = randomise(diffusers.UNet2DConditionModel(**unet_settings(config, text_time=sdxl)))
    ours = UNet(config).eval()
    keys = names.unet_keys(config, text_time=sdxl)
    ours.load_state_dict(keys.to_ours(theirs.state_dict()))
    x = torch.randn(2, config.in_channels, 16, 24, generator=rng())
    time, context = torch.tensor([0, 701]), torch.randn(2, 6, 24, generator=rng(2))
    concat = torch.randn(2, config.concat_channels, 16, 24, generator=rng(1)) if config.concat_channels else None
    whole = x if concat is None else torch.cat([x, concat], 1)
    told: dict[str, Any] = {}
    vector = None
    if config.num_classes is not None:
        told["class_labels"] = vector = torch.tensor([3, 29])
    elif sdxl:
        numbers = torch.tensor([[1024, 768, 0, 16, 512, 512], [512, 512, 8, 0, 640, 1024]])[:, : 5 if "refiner" in name else 6]
        pooled = torch.randn(2, POOLED, generator=rng(5))
        told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": numbers}
        vector = torch.cat([pooled, timestep_embedding(numbers.flatten(), SDXL_TIME_CHANNELS).view(2, -1)], 1)
    elif config.vector_dim is not None:
        told["class_labels"] = vector = torch.randn(2, config.vector_dim, generator=rng(4))
    wanted = theirs(whole, time, context, **told).sample
    assert_alike(ours(x, time, Conditioning(context=context, concat=concat, vector=vector)), wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stage(name: str) -> None:
    config = FIRST_STAGES[name]
    kind = diffusers.VQModel if isinstance(config, VQConfig) else diffusers.AutoencoderKL
    theirs = randomise(kind(**first_stage_settings(config)))
    ours = build_first_stage(config).eval()
    statistics = {k: v for k, v in ours.state_dict().items() if k in ("shift", "scale", "preview")}
    ours.load_state_dict(names.first_stage_keys(config).to_ours(theirs.state_dict()) | statistics)
    factor = config.network.factor
    x = torch.rand(2, 3, 2 * factor, 3 * factor, generator=rng()) * 2 - 1
    posterior = ours.posterior(x)
    if isinstance(config, VQConfig):
        wanted = theirs.encode(x).latents
    else:
        gaussian = theirs.encode(x).latent_dist
        wanted = gaussian.mean
        assert_alike(posterior.log_variance, gaussian.logvar)
    assert_alike(posterior.mean, wanted)
    # the same codes on both sides: a latent between two codes would go either way in the last bit
    assert_alike(ours.decode(wanted), theirs.decode(wanted).sample)


@pytest.mark.parametrize("name", UNETS)
def test_unet_names_are_complete_and_come_back(name: str) -> None:
    config, sdxl = UNETS[name], name.startswith("sdxl")
    settings = unet_settings(config, text_time=sdxl)
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**settings).state_dict()
        ours = UNet(config).state_dict()
    given = names.unet_keys(config, text_time=sdxl).to_theirs(ours)
    assert {k: v.shape for k, v in given.items()} == {k: v.shape for k, v in theirs.items()}
    assert is_text_time(settings) == sdxl
    back = unet_config(settings)
    with torch.device("meta"):
        again = UNet(back).state_dict()
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in ours.items()}
    assert unet_settings(back, text_time=sdxl) == settings


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stage_names_are_complete_and_come_back(name: str) -> None:
    config = FIRST_STAGES[name]
    kind = diffusers.VQModel if isinstance(config, VQConfig) else diffusers.AutoencoderKL
    with torch.device("meta"):
        theirs = kind(**first_stage_settings(config)).state_dict()
        ours = {k: v for k, v in build_first_stage(config).state_dict().items() if k not in ("shift", "scale", "preview")}
    given = names.first_stage_keys(config).to_theirs(ours)
    assert {k: v.shape for k, v in given.items()} == {k: v.shape for k, v in theirs.items()}
    assert first_stage_config(first_stage_settings(config)) == config
