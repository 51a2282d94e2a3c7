"""A diffusers folder as the parts of one of our models: a card, and tensors under our names.

    unet, vae or vqvae              the maps of `diffusers.py`, by their own config.json
    text_encoder, text_encoder_2    CLIP's towers in transformers' names; Stable Diffusion 2's holds 23 of 24 layers
    image_encoder, image_normalizer unCLIP's tower, and mean and deviation of its embeddings
    image_noising_scheduler         the schedule of the noise on those embeddings
    low_res_scheduler               the same for the small pictures of the x4 upscaler
    bert, tokenizer                 LDMBertModel, and the words of its tokenizer
    depth_estimator                 not read: depth maps are given

An unconditional model of no published architecture is one's own, and its folder says all of it. Of the others the card says
what a folder does not: the task, the conditioner, the authors' sampling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, get_args

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
from sfumato.conditioners.low_resolution import NoisedLowResolutionConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName
from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop import compvis, diffusers, diffusers_config
from sfumato.interop.cards import Card, Family, Task
from sfumato.interop.checkpoint import Checkpoint
from sfumato.interop.choose import choose_card, stated
from sfumato.interop.folder_schedules import LOW_RESOLUTION, MAIN, NOISING, prediction_of, schedule_of, scheduler_of
from sfumato.interop.folders import Component, Part
from sfumato.interop.index import Loadable, loadables
from sfumato.interop.pipelines import PLAIN
from sfumato.interop.rebuild import shown
from sfumato.interop.recognise import Kind, Recognised, cards_of
from sfumato.interop.shapes import normal
from sfumato.networks.clip import Activation, ClipTextConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig

ACTIVATIONS = get_args(Activation)
LARGEST = 2**20
"""Of the whole numbers in a network's settings; published ones are below 20,000."""
T = TypeVar("T")


def read_folder_model(checkpoint: Checkpoint, card: Card | str | None) -> tuple[Card, dict[str, Loadable]]:
    """The card, with the networks and conditioner that the folder has, and all tensors but our statistics.

    Raises `InputError` for a part that is missing or that none of our networks can express.
    """
    unet, stage = _one(checkpoint, Part.denoiser), _one(checkpoint, Part.first_stage)
    network = _parsed(diffusers_config.unet_config, unet)
    first_stage = _parsed(diffusers_config.first_stage_config, stage)
    cards, relative = cards_of(network, first_stage)
    found = Recognised(Kind.checkpoint, network, first_stage, cards, relative, (), False, "", "", ())
    is_own = card is None and not cards and checkpoint.pipeline == PLAIN
    chosen = _own_card(checkpoint, network, first_stage) if is_own else choose_card(found, checkpoint, card)
    if normal(network) != normal(chosen.unet):  # other heads than the card's: the folder's own count
        chosen = replace(chosen, prior=replace(chosen.prior, network=network))
    factor = chosen.scale_factor if is_own else stated(checkpoint).scale_factor
    chosen = replace(chosen, scale_factor=chosen.scale_factor if factor is None else factor)
    text_time = diffusers_config.is_text_time(unet.config)
    own = diffusers.unet_keys(chosen.unet, text_time=text_time).to_ours(_read(unet), f"{unet.directory}")
    tensors = _behind(compvis.OUR_UNET, own)
    own = diffusers.first_stage_keys(first_stage).to_ours(_read(stage), f"{stage.directory}")
    tensors |= _behind(compvis.OUR_FIRST_STAGE, own)
    conditioner, state = _conditioner(chosen.conditioner, checkpoint)
    tensors |= _behind("conditioner.", state)
    return replace(chosen, conditioner=conditioner), loadables(checkpoint.index, tensors)


def _parsed(parse: Callable[[Mapping[str, Any]], T], component: Component) -> T:
    """A network's config out of its config.json. Raises `InputError` for settings that no network has."""
    layers, tensors = component.config.get("layers_per_block"), component.index
    assert tensors is not None
    if isinstance(layers, int) and layers > len(tensors):  # nothing is built from a number that only costs time
        raise InputError(f"{component.directory} has layers_per_block {layers}, more than it has tensors; get it again.")
    for key, value in component.config.items():
        if any(type(n) is int and abs(n) > LARGEST for n in (value if isinstance(value, list) else [value])):
            raise InputError(f"{component.directory} has a {shown(key)} beyond {LARGEST}; get its config.json again.")
    try:
        return parse(component.config)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, ArithmeticError) as error:
        why = shown(" ".join(str(error).split()))
        raise InputError(f"{component.directory} has settings that are none ({why}); get its config.json again.") from None


def _own_card(checkpoint: Checkpoint, network: UNetConfig, first_stage: KLConfig | VQConfig) -> Card:
    """Of an unconditional model of one's own, of which the folder says all. Raises `InputError` where it does not."""
    unet, stage, settings = _one(checkpoint, Part.denoiser), _one(checkpoint, Part.first_stage), scheduler_of(checkpoint)
    what = f"{checkpoint.path / MAIN}"
    side, factor = unet.config.get("sample_size"), diffusers_config.scaling_factor(stage.config)
    if type(side) is not int or side < 1:
        raise InputError(f"{unet.directory} has sample_size {shown(str(side))}; expected the latent's side.")
    if not isinstance(factor, int | float | None) or isinstance(factor, bool):
        raise InputError(f"{stage.directory} has scaling_factor {shown(str(factor))}; expected a number.")
    kl = isinstance(first_stage, KLConfig)
    return Card(
        name=checkpoint.path.name,
        family=Family.latent_diffusion,
        task=Task.unconditional,
        source=PLAIN,
        first_stage=first_stage,
        prior=DiffusionConfig(network, schedule_of(settings, ScheduleConfig(), what), prediction_of(settings, what)),
        image_size=(side * first_stage.network.factor,) * 2,
        scale_factor=(diffusers_config.VQ_DEFAULT_FACTOR if kl else 1.0) if factor is None else float(factor),
    )


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
            return _image_embedding(config, checkpoint)
        case BertConfig():
            return _bert(config, _one(checkpoint, Part.text_encoder))
        case NoisedLowResolutionConfig():
            return _noised(config, checkpoint), {}
        case ClassEmbedderConfig() | LayoutConfig() | SegmentationConfig():
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
        towers.append(_as_held(tower, encoder, own, is_pooled))
        state |= {f"towers.{number}.{name}": value for name, value in own.items()}
    return replace(config, towers=tuple(towers)), state


def _as_held(tower: ClipTextConfig, encoder: Component, state: Mapping[str, Tensor], is_pooled: bool) -> ClipTextConfig:
    """The tower with the heads and activation that the folder states, as many layers as it holds (where the context ends with
    a norm, all of them are used), and without a projection that it lacks and nothing uses."""
    tower = replace(tower, **_heads(encoder))
    numbers = {int(match[1]) for match in map(re.compile(r"body\.encoder\.layers\.(\d+)\..+").fullmatch, state) if match}
    layers = len(numbers)
    if tower.layers - tower.skip <= layers < tower.layers:
        tower = with_layers(tower, layers)
    elif tower.final_norm and layers == tower.layers:
        tower = replace(tower, skip=0)
    if not is_pooled:
        width = state["projection.weight"].shape[0] if "projection.weight" in state else None
        tower = replace(tower, projection=width)
    return tower


def _heads(encoder: Component) -> dict[str, Any]:
    """What a CLIP tower's config.json says and its weights do not. Raises `InputError` for another activation."""
    found: dict[str, Any] = {}
    heads, activation = encoder.config.get("num_attention_heads"), encoder.config.get("hidden_act")
    if type(heads) is int:
        found["heads"] = heads
    if activation is not None:
        if activation not in ACTIVATIONS:
            known = " or ".join(ACTIVATIONS)
            raise InputError(f"{encoder.directory} has hidden_act {shown(str(activation))}; expected {known}.")
        found["activation"] = activation
    return found


def _bert(config: BertConfig, encoder: Component) -> tuple[BertConfig, dict[str, Tensor]]:
    """The transformer with the heads that the folder states."""
    stated = {"heads": encoder.config.get("encoder_attention_heads"), "head_channels": encoder.config.get("head_dim")}
    config = replace(config, **{name: value for name, value in stated.items() if type(value) is int})
    state = keys.renamed(_read(encoder), keys.ldm_bert_names(config.depth))
    width = len(state["transformer.blocks.0.attn.to_q.weight"])
    if config.heads * config.head_channels != width:
        said = f"{config.heads} heads of {config.head_channels} channels"
        raise InputError(f"{encoder.directory} has {said}; expected {width} channels together.")
    return config, {f"embedder.{name}": value for name, value in state.items()}


def _noised(config: NoisedLowResolutionConfig, checkpoint: Checkpoint) -> NoisedLowResolutionConfig:
    """The noise on small pictures, as the folder states it."""
    schedule = _noise(checkpoint, LOW_RESOLUTION, config.schedule)
    largest = checkpoint.metadata.facts.get("max_noise_level")
    return replace(config, schedule=schedule, largest_level=largest if type(largest) is int else config.largest_level)


def _noise(checkpoint: Checkpoint, name: str, known: ScheduleConfig) -> ScheduleConfig:
    """A schedule beside the model's own; one whose table is the known one is that."""
    found = schedule_of(scheduler_of(checkpoint, name), known, f"{checkpoint.path / name}")
    same = found.name is ScheduleName.cosine and (known.name, known.num_steps) == (found.name, found.num_steps)
    return known if same else found


def _image_embedding(config: ImageEmbeddingConfig, checkpoint: Checkpoint) -> tuple[ImageEmbeddingConfig, dict[str, Tensor]]:
    encoder, normalizer = _one(checkpoint, Part.image_encoder), _one(checkpoint, Part.noise_augmentation)
    tower = keys.from_transformers(_read(encoder))
    state = {f"tower.{name}": value for name, value in tower.items()}
    schedule = _noise(checkpoint, NOISING, config.schedule)
    config = replace(config, tower=replace(config.tower, **_heads(encoder)), schedule=schedule)
    return config, state | {name: value.flatten() for name, value in _read(normalizer).items()}
