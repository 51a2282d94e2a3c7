"""Tiny models whose conditioners take the input of a task: a mask, a small picture, a map, a layout, a class."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from sfumato.build import ConditionerConfig, ModelConfig
from sfumato.conditioners.compose import CompositeConfig, Part, PartConfig
from sfumato.conditioners.label import LabelConfig
from sfumato.conditioners.layout import LayoutConfig
from sfumato.conditioners.low_resolution import LowResolutionConfig, NoisedLowResolutionConfig
from sfumato.conditioners.masked import MaskedImageConfig
from sfumato.conditioners.picture_latent import PictureLatentConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.conditioners.text import TextConfig
from sfumato.first_stages.kl import KLConfig
from sfumato.generation.membrane import close_seam
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig
from tiny_models import rgba_config, text_config

Bytes = npt.NDArray[np.uint8]
NAMES = ("sky", "grass", "apple", "zebra")
CONTEXT = 32


def with_conditioner(
    conditioner: ConditionerConfig, *, concat: int = 0, context: bool = False, rgba: bool = False, factor: int = 2
) -> ModelConfig:
    """A tiny model of that conditioner: KL of `factor`, U-Net of factor 2 with `concat` channels beside the latent."""
    base = rgba_config() if rgba else text_config()
    stage = base.first_stage
    assert isinstance(stage, KLConfig)
    multipliers = {2: (1, 1), 4: (1, 1, 1)}[factor]
    stage = dataclasses.replace(stage, network=dataclasses.replace(stage.network, multipliers=multipliers))
    unet = UNetConfig(
        4,
        4,
        channels=32,
        multipliers=(1, 1),
        num_res_blocks=1,
        attention_factors=(2,) if context else (),
        context_dim=CONTEXT if context else None,
        concat_channels=concat,
    )
    return ModelConfig(stage, DiffusionConfig(unet), conditioner, (16, 16))


def with_text(name: str, part: PartConfig) -> CompositeConfig:
    """Two parts: text, and `part` under a name."""
    text = TextConfig(dim=CONTEXT, depth=1, heads=2, length=12, vocabulary=300, head_channels=16)
    return CompositeConfig((Part("text", text), Part(name, part)))


def mask_config(channels: int = 3) -> ModelConfig:
    """A mask alone."""
    return with_conditioner(MaskedImageConfig("paper", channels), concat=5, rgba=channels == 4)


def mask_text_config() -> ModelConfig:
    """Text and a mask, whose part has a name of its own."""
    return with_conditioner(with_text("hole", MaskedImageConfig()), concat=5, context=True)


def small_config(factor: int = 2, channels: int = 3, fold: int = 1, stage: int = 2) -> ModelConfig:
    """A small picture."""
    part = LowResolutionConfig(channels=channels, factor=factor, fold=fold)
    return with_conditioner(part, concat=channels * fold**2, rgba=channels == 4, factor=stage)


def noised_config() -> ModelConfig:
    """Text and a small picture with noise and its level, as the x4 upscaler has."""
    config = with_conditioner(with_text("small", NoisedLowResolutionConfig()), concat=3, context=True, factor=4)
    assert isinstance(config.prior.network, UNetConfig)
    network = dataclasses.replace(config.prior.network, num_classes=1000)
    return dataclasses.replace(config, prior=dataclasses.replace(config.prior, network=network))


def map_config() -> ModelConfig:
    """A map of four classes."""
    return with_conditioner(SegmentationConfig(len(NAMES), channels=3, halvings=1, names=NAMES), concat=3)


def layout_config(names: tuple[str, ...] = NAMES, text: bool = False) -> ModelConfig:
    """A layout of four classes, or of four numbers."""
    layout = LayoutConfig(CONTEXT, 1, 64, num_objects=3, num_classes=4, heads=2, head_channels=16, names=names)
    return with_conditioner(with_text("boxes", layout) if text else layout, context=True)


def label_config(text: bool = False) -> ModelConfig:
    """A class."""
    label = LabelConfig(NAMES, CONTEXT)
    return with_conditioner(with_text("label", label) if text else label, context=True)


def picture_config() -> ModelConfig:
    """Text and a picture, as InstructPix2Pix has."""
    return with_conditioner(with_text("picture", PictureLatentConfig()), concat=4, context=True)


def led_over(drawn: Bytes, picture: Bytes, mask: Bytes, factor: int = 2) -> Bytes:
    """(H, W, C) that a model drew -> what `inpaint` shows of it where `mask` (H, W) is white: tones led over at its edge."""
    pixels = [torch.from_numpy(array.transpose(2, 0, 1).copy())[None] for array in (drawn, picture)]
    closed = close_seam(*pixels, torch.from_numpy(mask > 127).float()[None, None], factor)
    return closed[0].permute(1, 2, 0).numpy()
