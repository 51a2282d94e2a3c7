"""The published architectures, shrunken: the same random weights in diffusers give the same numbers.

Weights travel through the key map and the classes are made from our settings, so both are tested by the numbers. Tolerance:
1e-4 of the output's scale (its standard deviation), fp32: sums in another order, about 1e-6 a layer, through some thirty.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import shrunken
import torch
from torch import Tensor, nn

from sfumato.build import build_first_stage
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop import diffusers as names
from sfumato.interop.cards import CARDS, FIRST_STAGES
from sfumato.interop.diffusers_config import (
    SDXL_TIME_CHANNELS,
    first_stage_config,
    first_stage_settings,
    is_text_time,
    unet_class,
    unet_config,
    unet_settings,
)
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNet, UNetConfig
from sfumato.nn.layers import timestep_embedding

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-4
POOLED = 1280
"""Of the pooled text embedding in SDXL's vector; numbers of `SDXL_TIME_CHANNELS` come after it."""


def expressible() -> dict[str, UNetConfig]:
    """The published U-Nets that diffusers has a class for, narrowed; one of each shape."""
    found: dict[str, UNetConfig] = {}
    for card in CARDS:
        config = shrunken.unet(card.name)
        try:
            names.check_unet(config)
        except InputError:
            continue
        if config not in found.values():
            found[card.name] = config
    return found


UNETS = expressible() | {
    "heads of 64 channels": dataclasses.replace(
        shrunken.unet("sd2-base"), channels=64, head_channels=64, multipliers=(1, 2), attention_factors=(2, 1)
    ),
    "classes without context": UNetConfig(3, 3, 32, (1, 2), 1, attention_factors=(2,), head_channels=16, num_classes=400),
    "new attention order": UNetConfig(3, 3, 32, (1, 2), 1, (1, 2), head_channels=16, use_new_attention_order=True),
}
STAGES: dict[str, KLConfig | VQConfig] = {card.name: shrunken.first_stage(card.name) for card in FIRST_STAGES} | {
    "norms of 8 groups": KLConfig(AutoencoderConfig(channels=24, multipliers=(1, 2), num_res_blocks=1, norm_groups=8)),
    "codes of other channels": VQConfig(
        AutoencoderConfig(channels=32, multipliers=(1, 2), latent_channels=4, double_moments=False), 60, embed_channels=6
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


def told(config: UNetConfig, sdxl: bool, cond: Conditioning) -> tuple[Conditioning, dict[str, Any]]:
    """The condition, and how diffusers is told it. SDXL's vector is put together there, from a pooled text and numbers."""
    if not sdxl:
        return cond, {"class_labels": cond.vector}
    count = ((config.vector_dim or 0) - POOLED) // SDXL_TIME_CHANNELS
    numbers = torch.tensor([[1024, 768, 0, 16, 512, 512], [512, 512, 8, 0, 640, 1024]])[:, :count]
    pooled = torch.randn(2, POOLED, generator=rng(5))
    vector = torch.cat([pooled, timestep_embedding(numbers.flatten(), SDXL_TIME_CHANNELS).view(2, -1)], 1)
    return dataclasses.replace(cond, vector=vector), {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": numbers}}


@torch.no_grad()
@pytest.mark.parametrize("name", UNETS)
def test_unet(name: str) -> None:
    config, sdxl = UNETS[name], name.startswith("sdxl")
    theirs = randomise(getattr(diffusers, unet_class(config))(**unet_settings(config, text_time=sdxl)))
    ours = UNet(config).eval()
    ours.load_state_dict(names.unet_keys(config, text_time=sdxl).to_ours(theirs.state_dict()))
    x, time, cond = shrunken.inputs(config)
    cond, said = told(config, sdxl, cond)
    whole = x if cond.concat is None else torch.cat([x, cond.concat], 1)
    context = () if cond.context is None else (cond.context,)
    assert_alike(ours(x, time, cond), theirs(whole, time, *context, **said).sample)


@torch.no_grad()
@pytest.mark.parametrize("name", STAGES)
def test_first_stage(name: str) -> None:
    config = STAGES[name]
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
        theirs = getattr(diffusers, unet_class(config))(**settings).state_dict()
        ours = UNet(config).state_dict()
    keys = names.unet_keys(config, text_time=sdxl)
    given = keys.to_theirs(ours)
    assert set(keys.ours()) == ours.keys()
    assert {k: v.shape for k, v in given.items()} == {k: v.shape for k, v in theirs.items()}
    assert is_text_time(settings) == sdxl
    back = unet_config(settings | {"_class_name": unet_class(config)})
    with torch.device("meta"):
        again = UNet(back).state_dict()
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in ours.items()}
    assert unet_settings(back, text_time=sdxl) == settings


@pytest.mark.parametrize("name", STAGES)
def test_first_stage_names_are_complete_and_come_back(name: str) -> None:
    config = STAGES[name]
    kind = diffusers.VQModel if isinstance(config, VQConfig) else diffusers.AutoencoderKL
    with torch.device("meta"):
        theirs = kind(**first_stage_settings(config)).state_dict()
        ours = {k: v for k, v in build_first_stage(config).state_dict().items() if k not in ("shift", "scale", "preview")}
    given = names.first_stage_keys(config).to_theirs(ours)
    assert {k: v.shape for k, v in given.items()} == {k: v.shape for k, v in theirs.items()}
    assert first_stage_config(first_stage_settings(config)) == config
