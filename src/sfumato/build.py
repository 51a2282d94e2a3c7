"""Config -> objects: one visible `match` a kind. No registry, no import by string."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.bert import BertConfig, BertText
from sfumato.conditioners.class_embedder import ClassEmbedder, ClassEmbedderConfig
from sfumato.conditioners.clip_text import ClipTexts, ClipTextsConfig
from sfumato.conditioners.compose import Composite, CompositeConfig, PartConfig
from sfumato.conditioners.depth import Depth, DepthConfig
from sfumato.conditioners.frozen_text import FrozenText, FrozenTextConfig
from sfumato.conditioners.image_embedding import ImageEmbedding, ImageEmbeddingConfig
from sfumato.conditioners.label import ClassLabel, LabelConfig
from sfumato.conditioners.layout import LayoutBoxes, LayoutConfig
from sfumato.conditioners.low_resolution import (
    LowResolution,
    LowResolutionConfig,
    NoisedLowResolution,
    NoisedLowResolutionConfig,
)
from sfumato.conditioners.masked import MaskedImageConfig, MaskedLatents
from sfumato.conditioners.neighbours import Neighbours, NeighboursConfig
from sfumato.conditioners.none import NoneConfig, Unconditional
from sfumato.conditioners.picture_latent import PictureLatentConfig, PictureLatents
from sfumato.conditioners.pictures import Encode
from sfumato.conditioners.retrieved import Retrieved, RetrievedConfig
from sfumato.conditioners.segmentation import SegmentationConfig, SegmentationMap
from sfumato.conditioners.sizes import SizeNumbers, SizesConfig
from sfumato.conditioners.text import TextConfig, TextEncoder
from sfumato.conditioners.tokens import read_tokenizer
from sfumato.conditioners.wordpiece import bert_tokenizer, find_vocabulary, read_vocabulary
from sfumato.errors import InputError
from sfumato.first_stages.base import Decoder, FirstStage
from sfumato.first_stages.generator import GeneratorFirstStage
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.first_stages.vq import VQConfig, VQFirstStage
from sfumato.first_stages.vq2 import VQ2Config, VQ2FirstStage
from sfumato.latent import Codes, Grid, Vector
from sfumato.model import LatentModel
from sfumato.networks.generator import GeneratorConfig
from sfumato.priors.autoregressive import AutoregressiveConfig, AutoregressivePrior
from sfumato.priors.base import Prior
from sfumato.priors.diffusion import DiffusionConfig, DiffusionPrior
from sfumato.priors.flow import FlowConfig, FlowPrior
from sfumato.priors.hierarchical import HierarchicalConfig, HierarchicalPrior
from sfumato.priors.normal import NormalConfig, NormalPrior
from sfumato.priors.regression import RegressionConfig, RegressionPrior

FirstStageConfig = KLConfig | VQConfig | VQ2Config | IdentityConfig | GeneratorConfig
LearnedFirstStage = KLFirstStage | VQFirstStage | VQ2FirstStage
"""Those that are trained to encode: encoder, decoder, unit scale."""
PriorConfig = DiffusionConfig | RegressionConfig | AutoregressiveConfig | HierarchicalConfig | FlowConfig | NormalConfig
ConditionerConfig = PartConfig | NoneConfig | CompositeConfig
TrainedPartConfig = (
    TextConfig
    | FrozenTextConfig
    | LabelConfig
    | LayoutConfig
    | SegmentationConfig
    | LowResolutionConfig
    | MaskedImageConfig
    | PictureLatentConfig
    | RetrievedConfig
)
TrainedConditionerConfig = TrainedPartConfig | NoneConfig | CompositeConfig
"""Those that a training run can have; a composite of `TrainedPartConfig` only."""


@dataclass(frozen=True)
class ModelConfig:
    """A whole model. `image_size`: (height, width) in pixels that it was trained at."""

    first_stage: FirstStageConfig
    prior: PriorConfig
    conditioner: ConditionerConfig
    image_size: tuple[int, int]


def build_first_stage(config: FirstStageConfig) -> Decoder:
    """A first stage with random weights."""
    match config:
        case KLConfig():
            return KLFirstStage(config)
        case VQConfig():
            return VQFirstStage(config)
        case VQ2Config():
            return VQ2FirstStage(config)
        case IdentityConfig():
            return IdentityFirstStage(config)
        case GeneratorConfig():
            return GeneratorFirstStage(config)


def build_prior(config: PriorConfig, first_stage: Decoder) -> Prior[Any]:
    """A prior with random weights over the latents of `first_stage`, or over its codes; their channels must agree.

    Raises `InputError` for two that do not go together.
    """
    latent = first_stage.latent
    match config:
        case AutoregressiveConfig():
            return AutoregressivePrior(config, _codes(first_stage))
        case HierarchicalConfig():
            return HierarchicalPrior(config, _codes(first_stage))
        case NormalConfig() if isinstance(latent, Grid | Vector):
            return NormalPrior(config, latent)
        case FlowConfig() if isinstance(latent, Grid | Vector):
            return FlowPrior(config, latent)
        case DiffusionConfig() | RegressionConfig() if isinstance(latent, Grid):
            return _over_grid(config, latent)
        case _:
            raise InputError(f"a {config.kind} prior does not go over latents that are a {type(latent).__name__}.")


def _codes(first_stage: Decoder) -> Codes:
    if not isinstance(first_stage, FirstStage):
        raise InputError("an autoregressive prior needs codes, and a generator has none; take a VQ first stage.")
    return first_stage.codes().latent


def _over_grid(config: DiffusionConfig | RegressionConfig, latent: Grid) -> DiffusionPrior | RegressionPrior:
    learned = isinstance(config, DiffusionConfig) and config.variance == "learned"
    if config.network.out_channels != latent.channels * (1 + learned):
        raise InputError(
            f"prior.network.out_channels is {config.network.out_channels}, but the first stage has "
            f"{latent.channels} latent channels; {'expected twice as many, for the variance' if learned else 'set both alike'}."
        )
    return DiffusionPrior(config, latent) if isinstance(config, DiffusionConfig) else RegressionPrior(config, latent)


def build_conditioner(
    config: ConditionerConfig, tokenizer: str | None = None, encode: Encode | None = None
) -> Conditioner[Any, Any]:
    """A conditioner with random weights; a text encoder needs the JSON of its tokenizer, a masked picture the first stage.

    Without a JSON, BERT's vocabulary is looked for in the hub's cache; CLIP's tokenizer ships with the package.
    """
    match config:
        case CompositeConfig():
            parts = {part.name: build_conditioner(part.conditioner, tokenizer, encode) for part in config.parts}
            return Composite(parts, config.dropped)
        case TextConfig():
            if tokenizer is None:
                raise InputError("a text conditioner needs its tokenizer (tokenizer.json), and none was given.")
            return TextEncoder(config, read_tokenizer(tokenizer))
        case LabelConfig():
            return ClassLabel(config)
        case NoneConfig():
            return Unconditional(config)
        case BertConfig():
            words = None if tokenizer else read_vocabulary(find_vocabulary())
            return BertText(config, bert_tokenizer(words) if words else read_tokenizer(tokenizer or ""))
        case MaskedImageConfig():
            if encode is None:
                raise InputError("a conditioner of masked pictures needs the first stage's encoder, and none was given.")
            return MaskedLatents(config, encode)
        case PictureLatentConfig():
            if encode is None:
                raise InputError("a conditioner of a picture's latents needs the first stage's encoder, and none was given.")
            return PictureLatents(config, encode)
        case _:
            return _of_own_parts(config)


def _of_own_parts(config: PartConfig) -> Conditioner[Any, Any]:
    """The conditioners that need nothing but their config."""
    match config:
        case FrozenTextConfig():
            return FrozenText(config)
        case ClassEmbedderConfig():
            return ClassEmbedder(config)
        case LayoutConfig():
            return LayoutBoxes(config)
        case ClipTextsConfig():
            return ClipTexts(config)
        case SizesConfig():
            return SizeNumbers(config)
        case SegmentationConfig():
            return SegmentationMap(config)
        case LowResolutionConfig():
            return LowResolution(config)
        case NoisedLowResolutionConfig():
            return NoisedLowResolution(config)
        case DepthConfig():
            return Depth(config)
        case ImageEmbeddingConfig():
            return ImageEmbedding(config)
        case NeighboursConfig():
            return Neighbours(config)
        case RetrievedConfig():
            return Retrieved(config)
        case _:
            raise AssertionError(config)


def encoder_of(first_stage: Decoder) -> Encode:
    """Pixels -> the most likely latents in unit scale, as a plain function: a conditioner that holds it owns no weights."""

    def encode(x: Tensor) -> Tensor:
        if not isinstance(first_stage, FirstStage):
            raise InputError("this model has no encoder, and a conditioner of pictures needs one.")
        last = first_stage.last_layer
        return first_stage.posterior(x if last is None else x.to(last.dtype)).mode()

    return encode


def build_model(config: ModelConfig, tokenizer: str | None = None) -> LatentModel:
    """A whole model with random weights."""
    first_stage = build_first_stage(config.first_stage)
    prior = build_prior(config.prior, first_stage)
    conditioner = build_conditioner(config.conditioner, tokenizer, encoder_of(first_stage))
    return LatentModel(first_stage, prior, conditioner, config.image_size)
