"""A prior's network fits the first stage's latents and the conditioner's slots."""

from __future__ import annotations

import dataclasses
import math

from sfumato.build import FirstStageConfig, PriorConfig
from sfumato.errors import InputError
from sfumato.first_stages.identity import LEVELS, IdentityConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.networks.gpt import GPTConfig
from sfumato.priors.autoregressive import AutoregressiveConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.priors.flow import FlowConfig
from sfumato.priors.normal import NormalConfig
from sfumato.priors.regression import RegressionConfig
from sfumato.training.fit import Slots, latent_channels, latent_factor


def network_factor(prior: PriorConfig) -> int:
    """By how much more a prior's network shrinks latents; 1 where it does not."""
    return prior.network.factor if isinstance(prior, DiffusionConfig | RegressionConfig | FlowConfig) else 1


def fit_prior(prior: PriorConfig, slot: Slots, first_stage: FirstStageConfig, size: int) -> PriorConfig:
    """`prior` with the channels, vocabulary and conditions that it will see. Raises `InputError` where it cannot have them."""
    channels = latent_channels(first_stage)
    match prior:
        case DiffusionConfig() | RegressionConfig():
            network = dataclasses.replace(
                prior.network,
                in_channels=channels,
                out_channels=channels,
                context_dim=slot.context,
                vector_dim=slot.vector,
                concat_channels=slot.concat,
            )
            return dataclasses.replace(prior, network=network)
        case NormalConfig():
            _only_vector(prior.kind, slot)
            return dataclasses.replace(prior, vector_dim=slot.vector)
        case FlowConfig():
            _only_vector(prior.kind, slot)
            flow = dataclasses.replace(prior.network, in_channels=channels, vector_dim=slot.vector, num_classes=None)
            return dataclasses.replace(prior, network=flow, dequantize=isinstance(first_stage, IdentityConfig))
        case AutoregressiveConfig():
            return _over_codes(prior, slot, first_stage, size)


def _only_vector(kind: str, slot: Slots) -> None:
    if slot.context is not None or slot.concat:
        raise InputError(
            f"a {kind} prior is told a vector and nothing else; take no condition (prior.condition=none), or classes with "
            "prior.conditioner.as_context=false."
        )


def _over_codes(prior: AutoregressiveConfig, slot: Slots, first_stage: FirstStageConfig, size: int) -> AutoregressiveConfig:
    """The network over the codes of a VQ first stage, or over the 8-bit pixels of the identity."""
    match first_stage:
        case VQConfig():
            vocabulary, channels = first_stage.codebook_size, 1
        case IdentityConfig():
            vocabulary, channels = LEVELS, first_stage.image_channels
        case _:
            raise InputError(f"an autoregressive prior needs codes, and a {first_stage.kind} first stage has none; take vq.")
    if slot.concat:
        raise InputError("an autoregressive prior is told no maps; take text, classes or nothing.")
    network, side = prior.network, size // latent_factor(first_stage)
    if isinstance(network, GPTConfig):
        fitting: GPTConfig = dataclasses.replace(
            network, vocabulary=vocabulary, channels=channels, height=side, width=side,
            context_dim=slot.context, vector_dim=slot.vector, num_classes=None,
        )  # fmt: skip
        return dataclasses.replace(prior, network=fitting)
    if slot.context is not None:
        raise InputError("a PixelCNN reads no context tokens; take a gpt network, or classes with as_context=false.")
    dim = math.ceil(network.dim / channels) * channels
    return dataclasses.replace(
        prior,
        network=dataclasses.replace(
            network, vocabulary=vocabulary, channels=channels, dim=dim, vector_dim=slot.vector, num_classes=None
        ),
    )
