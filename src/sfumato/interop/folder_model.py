"""A diffusers folder as the parts of one of our models: a card, and tensors under our names.

    unet, vae                       the maps of `diffusers.py`, by their own config.json
    text_encoder, text_encoder_2    CLIP's towers in transformers' names; Stable Diffusion 2's holds 23 of 24 layers
    image_encoder, image_normalizer unCLIP's tower, and mean and deviation of its embeddings

The card says what a folder does not: the task, the conditioner, the authors' sampling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from sfumato.build import ConditionerConfig
from sfumato.conditioners import keys
from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.class_embedder import ClassEmbedderConfig
from sfumato.conditioners.clip_text import ClipTextsConfig, with_layers
from sfumato.conditioners.compose import CompositeConfig
from sfumato.conditioners.compose import Part as Named
from sfumato.conditioners.image_embedding import ImageEmbeddingConfig
from sfumato.conditioners.layout import LayoutConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.errors import InputError
from sfumato.interop import compvis, diffusers, diffusers_config
from sfumato.interop.cards import Card
from sfumato.interop.checkpoint import Checkpoint
from sfumato.interop.choose import choose_card, stated
from sfumato.interop.folders import Component, Part
from sfumato.interop.index import Loadable, loadables
from sfumato.interop.recognise import Kind, Recognised, cards_of
from sfumato.interop.shapes import normal
from sfumato.networks.clip import ClipTextConfig


def read_folder_model(checkpoint: Checkpoint, card: Card | str | None) -> tuple[Card, dict[str, Loadable]]:
    """The card, with the networks and conditioner that the folder has, and all tensors but our statistics.

    Raises `InputError` for a part that is missing or that none of our networks can express.
    """
    unet, stage = _one(checkpoint, Part.denoiser), _one(checkpoint, Part.first_stage)
    network = diffusers_config.unet_config(unet.config)
    first_stage = diffusers_config.first_stage_config(stage.config)
    cards, relative = cards_of(network, first_stage)
    found = Recognised(Kind.checkpoint, network, first_stage, cards, relative, (), False, "", "", ())
    chosen = choose_card(found, checkpoint, card)
    if normal(network) != normal(chosen.unet):  # other heads than the card's: the folder's own count
        chosen = replace(chosen, prior=replace(chosen.prior, network=network))
    factor = stated(checkpoint).scale_factor
    chosen = replace(chosen, scale_factor=chosen.scale_factor if factor is None else factor)
    text_time = diffusers_config.is_text_time(unet.config)
    own = diffusers.unet_keys(chosen.unet, text_time=text_time).to_ours(_read(unet), f"{unet.directory}")
    tensors = _behind(compvis.OUR_UNET, own)
    own = diffusers.first_stage_keys(first_stage).to_ours(_read(stage), f"{stage.directory}")
    tensors |= _behind(compvis.OUR_FIRST_STAGE, own)
    conditioner, state = _conditioner(chosen.conditioner, checkpoint)
    tensors |= _behind("conditioner.", state)
    return replace(chosen, conditioner=conditioner), loadables(checkpoint.index, tensors)


def _one(checkpoint: Checkpoint, part: Part) -> Component:
    found = _all(checkpoint, part)
    if len(found) != 1:
        raise InputError(f"{checkpoint.path} has {len(found)} parts of the kind {part.value}; expected one.")
    return found[0]


def _all(checkpoint: Checkpoint, part: Part) -> list[Component]:
    return sorted((c for c in checkpoint.components.values() if c.part is part), key=lambda c: c.name)


def _read(component: Component) -> dict[str, Tensor]:
    """Its tensors in their own type, views of the mapped files, under today's names."""
    assert component.index is not None
    return diffusers.today(component.index.read())


def _behind(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _conditioner(config: ConditionerConfig, checkpoint: Checkpoint) -> tuple[ConditionerConfig, dict[str, Tensor]]:
    """The conditioner as the folder has it, and its state."""
    match config:
        case CompositeConfig():
            parts: list[Named] = []
            state: dict[str, Tensor] = {}
            for part in config.parts:
                own, values = _conditioner(part.conditioner, checkpoint)
                parts.append(replace(part, conditioner=own))  # type: ignore[arg-type]  # a part's stays a part's
                state |= {f"parts.{part.name}.{name}": value for name, value in values.items()}
            return replace(config, parts=tuple(parts)), state
        case ClipTextsConfig():
            return _texts(config, checkpoint)
        case ImageEmbeddingConfig():
            return config, _image_embedding(checkpoint)
        case ClassEmbedderConfig() | BertConfig() | LayoutConfig() | SegmentationConfig():
            raise InputError(
                f"{checkpoint.path}: a conditioner of the kind {config.kind} is not read from folders; take the authors' file."
            )
        case _:
            return config, {}


def _texts(config: ClipTextsConfig, checkpoint: Checkpoint) -> tuple[ClipTextsConfig, dict[str, Tensor]]:
    encoders = _all(checkpoint, Part.text_encoder)
    if len(encoders) != len(config.towers):
        raise InputError(f"{checkpoint.path} has {len(encoders)} text encoders; this model has {len(config.towers)}.")
    towers: list[ClipTextConfig] = []
    state: dict[str, Tensor] = {}
    for number, (tower, encoder) in enumerate(zip(config.towers, encoders, strict=True)):
        own = keys.from_transformers(_read(encoder))
        is_pooled = (config.vector or config.context == "pooled") and number == len(encoders) - 1
        towers.append(_as_held(tower, own, is_pooled))
        state |= {f"towers.{number}.{name}": value for name, value in own.items()}
    return replace(config, towers=tuple(towers)), state


def _as_held(tower: ClipTextConfig, state: Mapping[str, Tensor], is_pooled: bool) -> ClipTextConfig:
    """The tower with as many layers as the folder holds, and without a projection that it lacks and nothing uses."""
    numbers = {int(match[1]) for match in map(re.compile(r"body\.encoder\.layers\.(\d+)\..+").fullmatch, state) if match}
    layers = len(numbers)
    if tower.layers - tower.skip <= layers < tower.layers:
        tower = with_layers(tower, layers)
    if not is_pooled:
        width = state["projection.weight"].shape[0] if "projection.weight" in state else None
        tower = replace(tower, projection=width)
    return tower


def _image_embedding(checkpoint: Checkpoint) -> dict[str, Tensor]:
    encoder, normalizer = _one(checkpoint, Part.image_encoder), _one(checkpoint, Part.noise_augmentation)
    tower = keys.from_transformers(_read(encoder))
    state = {f"tower.{name}": value for name, value in tower.items()}
    return state | {name: value.flatten() for name, value in _read(normalizer).items()}
