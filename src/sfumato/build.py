"""Config -> objects: one visible `match` a kind. No registry, no import by string."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.label import ClassLabel, LabelConfig
from sfumato.conditioners.none import NoneConfig, Unconditional
from sfumato.conditioners.text import TextConfig, TextEncoder
from sfumato.conditioners.tokens import read_tokenizer
from sfumato.errors import InputError
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.latent import Grid
from sfumato.model import LatentModel
from sfumato.priors.diffusion import DiffusionConfig, DiffusionPrior

FirstStageConfig = KLConfig | IdentityConfig
PriorConfig = DiffusionConfig
ConditionerConfig = TextConfig | LabelConfig | NoneConfig


@dataclass(frozen=True)
class ModelConfig:
    """A whole model. `image_size`: (height, width) in pixels that it was trained at."""

    first_stage: FirstStageConfig
    prior: PriorConfig
    conditioner: ConditionerConfig
    image_size: tuple[int, int]


def build_first_stage(config: FirstStageConfig) -> FirstStage:
    """A first stage with random weights."""
    match config:
        case KLConfig():
            return KLFirstStage(config)
        case IdentityConfig():
            return IdentityFirstStage(config)


def build_prior(config: PriorConfig, first_stage: FirstStage) -> DiffusionPrior:
    """A prior with random weights over the latents of `first_stage`; their channels must agree."""
    latent = first_stage.latent
    assert isinstance(latent, Grid)
    if config.network.out_channels != latent.channels:
        raise InputError(
            f"prior.network.out_channels is {config.network.out_channels}, but the first stage has "
            f"{latent.channels} latent channels; set both alike."
        )
    return DiffusionPrior(config, latent)


def build_conditioner(config: ConditionerConfig, tokenizer: str | None = None) -> Conditioner[Any, Any]:
    """A conditioner with random weights; a text encoder needs the JSON of its tokenizer."""
    match config:
        case TextConfig():
            if tokenizer is None:
                raise InputError("a text conditioner needs its tokenizer (tokenizer.json), and none was given.")
            return TextEncoder(config, read_tokenizer(tokenizer))
        case LabelConfig():
            return ClassLabel(config)
        case NoneConfig():
            return Unconditional(config)


def build_model(config: ModelConfig, tokenizer: str | None = None) -> LatentModel:
    """A whole model with random weights."""
    first_stage = build_first_stage(config.first_stage)
    prior = build_prior(config.prior, first_stage)
    return LatentModel(first_stage, prior, build_conditioner(config.conditioner, tokenizer), config.image_size)
