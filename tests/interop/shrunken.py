"""Published models with a fraction of their channels, weights that depend on names alone, and inputs: what goldens share."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.interop.cards import FIRST_STAGES, find_card
from sfumato.networks.unet import UNetConfig

CHANNELS = 32
UNETS = (
    "celeba256", "lsun_churches256", "cin256-v2", "bsr_sr", "inpainting_big", "semantic_synthesis256",
    "layout2img-openimages256", "rdm768", "sd2-x4-upscaler", "sdxl-refiner",
)  # fmt: skip
FIRST_STAGE_NAMES = ("kl-f4", "kl-f16", "kl-f32", "vq-f4-noattn", "vq-f8")
KEPT = 48
"""Numbers of each output that are kept, evenly spaced over it."""


def unet(name: str) -> UNetConfig:
    config = find_card(name).unet
    return replace(config, channels=CHANNELS, head_channels=config.head_channels and min(config.head_channels, CHANNELS))


def first_stage(name: str) -> Any:
    config = next(card.config for card in FIRST_STAGES if card.name == name)
    return replace(config, network=replace(config.network, channels=CHANNELS))


def authors_unet(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the authors' parameters."""
    changed = dict(params) | {"model_channels": CHANNELS}
    if params.get("num_head_channels", -1) > 0:
        changed["num_head_channels"] = min(params["num_head_channels"], CHANNELS)
    return changed


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random weights, about 1 / sqrt(fan-in), and norms about 1; each seeded by the authors' name of it."""
    made = {}
    for name, shape in shapes.items():
        rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        value = torch.randn(shape, generator=rng)
        spread = value[0].numel() ** -0.5 if len(shape) > 1 else 0.1
        made[name] = value * spread + (len(shape) == 1 and name.endswith("weight"))
    return made


def inputs(config: UNetConfig) -> tuple[Tensor, Tensor, Conditioning]:
    """x_t, steps, condition."""
    rng = torch.Generator().manual_seed(7)
    side = 2 * config.factor
    x = torch.randn(2, config.in_channels, side, side, generator=rng)
    concat = torch.randn(2, config.concat_channels, side, side, generator=rng) if config.concat_channels else None
    context = torch.randn(2, 5, config.context_dim, generator=rng) if config.context_dim else None
    vector = torch.randn(2, config.vector_dim, generator=rng) if config.vector_dim else None
    if config.num_classes:
        vector = torch.tensor([20, 333])
    return x, torch.tensor([3, 901]), Conditioning(context=context, concat=concat, vector=vector)


def pixels(factor: int) -> Tensor:
    return torch.rand(1, 3, 2 * factor, 2 * factor, generator=torch.Generator().manual_seed(8)) * 2 - 1


def latent(channels: int) -> Tensor:
    return torch.randn(1, channels, 2, 2, generator=torch.Generator().manual_seed(9))


def summary(output: Tensor) -> dict[str, Any]:
    """What a golden keeps of an output."""
    flat = output.flatten()
    kept = flat[torch.linspace(0, len(flat) - 1, KEPT).long()]
    return {
        "shape": list(output.shape),
        "std": float(f"{float(output.std()):.7g}"),
        "values": [float(f"{v:.7g}") for v in kept.tolist()],
    }
