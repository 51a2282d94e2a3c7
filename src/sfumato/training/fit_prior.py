"""A prior's network fits the first stage's latents and the conditioner's slots."""

from __future__ import annotations

import dataclasses
import math

import torch

from sfumato.build import FirstStageConfig, PriorConfig, build_first_stage
from sfumato.errors import InputError
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.identity import IdentityConfig
from sfumato.latent import Codes
from sfumato.networks.gpt import GPTConfig
from sfumato.networks.pixelcnn import PixelCNNConfig
from sfumato.networks.pixelcnn_pp import PixelCNNPPConfig
from sfumato.priors.autoregressive import AutoregressiveConfig, CodeNetworkConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.priors.flow import FlowConfig
from sfumato.priors.hierarchical import HierarchicalConfig
from sfumato.priors.normal import NormalConfig
from sfumato.priors.regression import RegressionConfig
from sfumato.training.fit import Slots, latent_channels


def network_factor(prior: PriorConfig) -> int:
    """By how much more a prior's network shrinks latents; 1 where it does not."""
    if isinstance(prior, AutoregressiveConfig):
        return prior.network.factor if isinstance(prior.network, PixelCNNPPConfig) else 1
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
        case AutoregressiveConfig() | HierarchicalConfig():
            return _over_codes(prior, slot, first_stage, size)


def _only_vector(kind: str, slot: Slots) -> None:
    if slot.context is not None or slot.concat:
        raise InputError(
            f"a {kind} prior is told a vector and nothing else; take no condition (prior.condition=none), or classes with "
            "prior.conditioner.as_context=false."
        )


def _over_codes(
    prior: AutoregressiveConfig | HierarchicalConfig, slot: Slots, first_stage: FirstStageConfig, size: int
) -> AutoregressiveConfig | HierarchicalConfig:
    """The networks over the codes of a VQ first stage, or over the 8-bit pixels of the identity."""
    if slot.concat:
        raise InputError("an autoregressive prior is told no maps; take text, classes or nothing.")
    with torch.device("meta"):
        built = build_first_stage(first_stage)
    if not isinstance(built, FirstStage):
        raise InputError(f"an autoregressive prior needs codes, and a {first_stage.kind} first stage has none; take vq.")
    latent = built.codes().latent
    if isinstance(prior, AutoregressiveConfig):
        return dataclasses.replace(prior, network=_code_network(prior.network, latent, latent.factors[0], slot, size))
    _only_vector(prior.kind, slot)
    top = _code_network(prior.top, latent, latent.factors[0], slot, size)
    bottom = _code_network(prior.bottom, latent, latent.factors[-1], slot, size)
    assert isinstance(bottom, PixelCNNConfig)
    return dataclasses.replace(prior, top=top, bottom=bottom)


def _code_network(network: CodeNetworkConfig, latent: Codes, factor: int, slot: Slots, size: int) -> CodeNetworkConfig:
    codes, channels, vector = latent.vocabulary, latent.channels, slot.vector
    if isinstance(network, GPTConfig):
        side = max(1, size // factor)
        network = dataclasses.replace(network, height=side, width=side, context_dim=slot.context)
    elif slot.context is not None:
        raise InputError("a PixelCNN reads no context tokens; take a gpt network, or classes with as_context=false.")
    elif isinstance(network, PixelCNNConfig):
        network = dataclasses.replace(network, dim=math.ceil(network.dim / channels) * channels)
    return dataclasses.replace(network, vocabulary=codes, channels=channels, vector_dim=vector, num_classes=None)
