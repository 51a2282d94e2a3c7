"""Whole models small enough for a test: random weights, every layer awake (nothing left at its zero initial value)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from sfumato.build import ModelConfig, build_model
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioners.text import TextConfig
from sfumato.conditioners.tokens import learn_tokenizer
from sfumato.first_stages.kl import KLConfig
from sfumato.io.pretrained import LoadedModel, SamplingDefaults, save_pretrained
from sfumato.model import LatentModel
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig


def text_config() -> ModelConfig:
    """Text -> 16x16 RGB, first stage of factor 2, U-Net of factor 2."""
    return ModelConfig(
        KLConfig(AutoencoderConfig(channels=32, multipliers=(1, 1), num_res_blocks=1, mid_attention=False, latent_channels=4)),
        DiffusionConfig(
            UNetConfig(4, 4, channels=32, multipliers=(1, 1), num_res_blocks=1, attention_factors=(2,), context_dim=32)
        ),
        TextConfig(dim=32, depth=1, heads=2, length=12, vocabulary=300, head_channels=16),
        (16, 16),
    )


def unconditional_config() -> ModelConfig:
    """Nothing -> 16x16 RGB."""
    text = text_config()
    unet = UNetConfig(4, 4, channels=32, multipliers=(1, 1), num_res_blocks=1, attention_factors=())
    return ModelConfig(text.first_stage, DiffusionConfig(unet), NoneConfig(), (16, 16))


def rgba_config() -> ModelConfig:
    """Text -> 16x16 with transparency: four channels, the white picture and alpha."""
    text = text_config()
    stage = text.first_stage
    assert isinstance(stage, KLConfig)
    network = dataclasses.replace(stage.network, image_channels=4)
    return dataclasses.replace(text, first_stage=dataclasses.replace(stage, network=network))


def random_model(config: ModelConfig, seed: int = 0) -> LatentModel:
    """A model of `config` whose every parameter is random."""
    model = build_model(config, learn_tokenizer(["a red dragon", "a blue cat"], 300).to_str())
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(parameter[0].numel() if parameter.ndim > 1 else 1, 1)
            noise = torch.randn(parameter.shape, generator=rng)
            parameter.copy_(noise / fan_in**0.5 if parameter.ndim > 1 else parameter + 0.1 * noise)
    return model.eval()


def loaded(config: ModelConfig, **defaults: object) -> LoadedModel:
    """The same as if it had been read from a directory."""
    settings = SamplingDefaults(**{"steps": 3, "guidance": 3.0} | defaults)
    return LoadedModel(random_model(config), config, settings, "tiny", "0123456789", Path())


def write_model(directory: Path, config: ModelConfig, name: str = "tiny") -> Path:
    """Save a random model as a model directory."""
    defaults = SamplingDefaults(steps=3, guidance=3.0)
    save_pretrained(directory, random_model(config), config, defaults=defaults, name=name, card="# A tiny model\n")
    return directory
