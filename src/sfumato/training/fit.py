"""Configs that fit the data: how many classes there are, what they are called, how wide the slots of the network must be."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sfumato.build import FirstStageConfig, TrainedConditionerConfig, TrainedPartConfig
from sfumato.conditioners.compose import CompositeConfig, Part
from sfumato.conditioners.frozen_text import FrozenTextConfig
from sfumato.conditioners.label import LabelConfig
from sfumato.conditioners.layout import LayoutConfig
from sfumato.conditioners.low_resolution import LowResolutionConfig
from sfumato.conditioners.masked import MaskedImageConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioners.picture_latent import PictureLatentConfig
from sfumato.conditioners.retrieved import RetrievedConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.conditioners.text import TextConfig, TextEncoder
from sfumato.data.dataset import ImageDataset
from sfumato.errors import InputError
from sfumato.features.mobilenet import BLOCKS
from sfumato.first_stages.identity import IdentityConfig
from sfumato.first_stages.vq2 import VQ2Config
from sfumato.networks.frozen_text import encoder_facts
from sfumato.networks.frozen_vision import vision_facts
from sfumato.networks.generator import GeneratorConfig
from sfumato.training.beside import Beside

FEATURE_STRIDE, FEATURE_WIDTH = 16, BLOCKS[-1].width
"""Of the feature maps that retrieved neighbours are told by."""


@dataclass(frozen=True)
class Slots:
    """Sizes of what a conditioner gives: width of context tokens, channels beside the latent, width of the vector."""

    context: int | None = None
    concat: int = 0
    vector: int | None = None


@dataclass(frozen=True)
class Facts:
    """What a conditioner's config must fit: the training pictures, what stands beside them, the first stage."""

    data: ImageDataset
    beside: Beside
    channels: int
    size: int
    factor: int
    latent_channels: int


def fit(config: TrainedConditionerConfig, facts: Facts) -> tuple[TrainedConditionerConfig, str | None]:
    """The config with what the data says, and the JSON of the tokenizer that its captions teach. Raises `InputError`."""
    if isinstance(config, NoneConfig):
        return config, None
    if not isinstance(config, CompositeConfig):
        return _fit_part(config, facts)
    parts, tokenizer = [], None
    for part in config.parts:
        if not isinstance(part.conditioner, TrainedPartConfig):
            kind = getattr(part.conditioner, "kind", "")
            raise InputError(f"prior.conditioner: the part {part.name} is {kind}, which this release runs but does not train.")
        fitting, learned = _fit_part(part.conditioner, facts)
        parts.append(Part(part.name, fitting))
        tokenizer = learned or tokenizer
    return CompositeConfig(tuple(parts)), tokenizer


def _fit_part(config: TrainedPartConfig, facts: Facts) -> tuple[TrainedPartConfig, str | None]:
    match config:
        case FrozenTextConfig():
            _check_captions(facts.data)
            found = encoder_facts(config.source)
            return dataclasses.replace(config, dim=found.dim, digest=found.digest), None
        case TextConfig():
            _check_captions(facts.data)
            captions = (caption for i in range(len(facts.data)) for caption in facts.data.captions(i))
            learned = TextEncoder.learn_tokenizer(captions, config.vocabulary)
            return dataclasses.replace(config, vocabulary=learned.get_vocab_size()), learned.to_str()
        case LabelConfig():
            return dataclasses.replace(config, names=_classes(facts.data)), None
        case LayoutConfig():
            names = facts.beside.box_names()
            return dataclasses.replace(config, names=names, num_classes=len(names)), None
        case SegmentationConfig():
            classes = facts.beside.map_classes(facts.data)
            halvings = facts.factor.bit_length() - 1
            return dataclasses.replace(config, names=classes.names, num_classes=classes.num, halvings=halvings), None
        case LowResolutionConfig():
            if facts.size % config.factor:
                raise InputError(
                    f"data.size is {facts.size}: expected a multiple of prior.conditioner.factor, {config.factor}, by which "
                    "small pictures are smaller."
                )
            fold = max(1, facts.factor // config.factor)
            return dataclasses.replace(config, channels=facts.channels, fold=fold), None
        case MaskedImageConfig() | PictureLatentConfig():
            return dataclasses.replace(config, channels=facts.channels), None
        case RetrievedConfig() if config.encoder:
            tower = vision_facts(config.encoder)
            return dataclasses.replace(config, tokens=1, dim=tower.dim, digest=tower.digest), None
        case RetrievedConfig():
            side = -(-facts.size // FEATURE_STRIDE)
            views = 1 if facts.channels in (1, 3, 4) else facts.channels
            return dataclasses.replace(config, tokens=side * side, dim=FEATURE_WIDTH * views), None


def _check_captions(data: ImageDataset) -> None:
    if not any(caption for i in range(len(data)) for caption in data.captions(i)):
        raise InputError(
            "a text conditioner needs captions, and no picture has one; put NAME.txt beside NAME.jpg or a "
            "metadata.jsonl, or take a recipe without text, such as inpaint-pictures."
        )


def _classes(data: ImageDataset) -> tuple[str, ...]:
    if len(data.classes) < 2:
        raise InputError(
            f"a class conditioner needs two or more classes, and the data has {len(data.classes)}; put pictures into one "
            "folder a class, or name the metadata field with data.label."
        )
    return data.classes


def latent_channels(first_stage: FirstStageConfig) -> int:
    """Channels of a first stage's latents; of a generator's noise its numbers."""
    if isinstance(first_stage, IdentityConfig):
        return first_stage.image_channels
    if isinstance(first_stage, GeneratorConfig):
        return first_stage.dim
    own = first_stage.embed_channels or first_stage.network.latent_channels
    return 2 * own if isinstance(first_stage, VQ2Config) else own


def latent_factor(first_stage: FirstStageConfig) -> int:
    """How many times smaller latents are than pictures; 1 for a generator's, which have no size."""
    return 1 if isinstance(first_stage, IdentityConfig | GeneratorConfig) else first_stage.network.factor


def slots(config: TrainedConditionerConfig, latent: int) -> Slots:
    """What a conditioner fills, beside latents of `latent` channels. Raises `InputError` for parts that disagree."""
    if not isinstance(config, CompositeConfig):
        return _part_slots(config, latent)
    each = {part.name: _part_slots(part.conditioner, latent) for part in config.parts}
    widths = {name: slot.context for name, slot in each.items() if slot.context is not None}
    if len(set(widths.values())) > 1:
        raise InputError(f"prior.conditioner: context tokens of {widths} channels stand in one row; set all widths alike.")
    vectors = [slot.vector for slot in each.values() if slot.vector is not None]
    return Slots(next(iter(widths.values()), None), sum(slot.concat for slot in each.values()), sum(vectors) or None)


def _part_slots(config: object, latent: int) -> Slots:
    match config:
        case TextConfig() | FrozenTextConfig():
            return Slots(context=config.dim, vector=config.vector_dim)
        case LabelConfig():
            return Slots(context=config.dim) if config.as_context else Slots(vector=config.dim)
        case LayoutConfig():
            return Slots(context=config.dim)
        case RetrievedConfig():
            return Slots(context=config.width)
        case SegmentationConfig():
            return Slots(concat=config.channels)
        case LowResolutionConfig():
            return Slots(concat=config.channels * config.fold**2)
        case MaskedImageConfig():
            return Slots(concat=latent + 1)
        case PictureLatentConfig():
            return Slots(concat=latent)
        case NoneConfig():
            return Slots()
    raise AssertionError(config)
