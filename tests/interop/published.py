"""Shrunken published models with random weights, written to disk as their authors wrote the large ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sfumato.build import ModelConfig, build_model
from sfumato.conditioners import wordpiece
from sfumato.conditioners.base import Prepared
from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.checkpoint import to_checkpoint
from sfumato.conditioners.class_embedder import ClassEmbedderConfig
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.compose import CompositeConfig, Part
from sfumato.conditioners.image_embedding import EmbeddedImage, ImageEmbeddingConfig
from sfumato.conditioners.layout import Box, LayoutConfig
from sfumato.conditioners.low_resolution import NoisedImage, NoisedLowResolutionConfig
from sfumato.conditioners.masked import MaskedImage, MaskedImageConfig
from sfumato.conditioners.neighbours import NeighboursConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.conditioners.sizes import Sizes, SizesConfig
from sfumato.interop import compvis
from sfumato.interop.cards import Card, find_card
from sfumato.model import LatentModel
from sfumato.networks.clip import ClipTextConfig, ClipVisionConfig
from sfumato.noise import PictureNoise
from sfumato.priors.diffusion import DiffusionSettings

WORDS = [*wordpiece.MARKS, "a", "cat", "dog"]
CLIP = ClipTextConfig(dim=8, layers=2, heads=2)
OPEN_CLIP = ClipTextConfig(dim=8, layers=2, heads=2, activation="gelu", projection=8, skip=1, pad="zero")
XL = replace(OPEN_CLIP, final_norm=False)
VISION = ClipVisionConfig(dim=16, layers=1, heads=2, hidden=32, projection=6, patch=7, size=14)
POOLED = ClipTextsConfig((replace(CLIP, projection=8),), context="pooled")
SDXL = ClipTextsConfig((replace(CLIP, skip=1, final_norm=False), XL), vector=True)
SD1, SD2 = ClipTextsConfig((CLIP,)), ClipTextsConfig((OPEN_CLIP,))


def _both(text: ClipTextsConfig, name: str, other: Any) -> CompositeConfig:
    return CompositeConfig((Part("text", text), Part(name, other)))


def shrunken(name: str, conditioner: Any = None, concat: int = 0, **unet: Any) -> Card:
    """The card of a published model with a small conditioner, two levels of 32 and 64 channels, for pictures of 16 x 16."""
    card = find_card(name)
    network = replace(
        card.unet,
        channels=32,
        multipliers=(1, 2),
        num_res_blocks=1,
        attention_factors=(2,),
        head_channels=card.unet.head_channels and 16,
        transformer_depth=1,
        disable_self_attentions=(),
        context_dim=8 if card.unet.context_dim else None,
        vector_dim=None,
        concat_channels=concat,
    )
    stage = card.first_stage
    stage = replace(
        stage,
        network=replace(stage.network, channels=32, multipliers=(1, 2), num_res_blocks=1, attention_resolution_factors=()),
    )
    prior = replace(card.prior, network=replace(network, **unet))
    config = NoneConfig() if conditioner is None else conditioner
    return replace(card, name=f"small-{name}", first_stage=stage, prior=prior, conditioner=config, image_size=(16, 16))


RNG = torch.Generator().manual_seed(4)
RGB = torch.rand(3, 16, 16, generator=RNG) * 2 - 1
MASK = torch.ones(16, 16)
CARDS: dict[str, tuple[Card, Any]] = {
    "faces": (shrunken("ffhq256"), ""),
    "churches": (shrunken("lsun_churches256"), ""),
    "classes": (shrunken("cin256-v2", ClassEmbedderConfig(10, 8, null_class=True)), "3"),
    "words": (
        shrunken("text2img-large", BertConfig(dim=8, depth=1, length=8, vocabulary=len(WORDS), heads=2, head_channels=8)),
        "a cat",
    ),
    "layout": (
        shrunken("layout2img-openimages256", LayoutConfig(dim=8, depth=1, heads=2, head_channels=8)),
        (Box(3, 0.1, 0.1, 0.5, 0.5),),
    ),
    "segmentation": (
        shrunken("semantic_synthesis256", SegmentationConfig(5), 3), torch.randint(0, 5, (32, 32), generator=RNG)
    ),
    "inpainting": (
        shrunken("inpainting_big", MaskedImageConfig("paper"), 4), MaskedImage(RGB, MASK)
    ),
    "retrieval": (
        shrunken("rdm768", _both(POOLED, "neighbours", NeighboursConfig(8))),
        torch.randn(3, 8, generator=RNG),
    ),
    "sd1": (shrunken("sd1", SD1), "a cat"),
    "sd1 inpainting": (
        shrunken("sd1-inpainting", _both(SD1, "mask", MaskedImageConfig()), 5),
        {"text": "a cat", "mask": MaskedImage(RGB, MASK)},
    ),
    "sd2": (shrunken("sd2-v", SD2), "a cat"),
    "upscaler": (
        shrunken(
            "sd2-x4-upscaler", _both(SD2, "small", NoisedLowResolutionConfig()), 3, disable_self_attentions=(True, True),
            attention_factors=(1, 2),
        ),
        {"text": "a cat", "small": NoisedImage(RGB[:, :8, :8], torch.randn(3, 8, 8, generator=RNG), 20)},
    ),
    "unclip": (
        shrunken("sd2-unclip-h", _both(SD2, "image", ImageEmbeddingConfig(VISION)), vector_dim=12),
        {"text": "a cat", "image": EmbeddedImage(RGB, torch.randn(6, generator=RNG))},
    ),
    "sdxl": (
        shrunken(
            "sdxl-base",
            _both(SDXL, "sizes", SizesConfig(channels=8)),
            context_dim=16, vector_dim=8 + 48,
        ),
        {"text": "a cat", "sizes": Sizes((16, 16))},
    ),
}  # fmt: skip
"""What is tried: a small card, and an input of its conditioner."""


def config_of(card: Card) -> ModelConfig:
    return ModelConfig(card.first_stage, card.prior, card.conditioner, card.image_size)


def made(card: Card, seed: int = 0) -> LatentModel:
    """A model of the card with random weights, none of them zero, and the card's scale factor."""
    torch.manual_seed(seed)
    model = build_model(config_of(card), wordpiece.bert_tokenizer(WORDS).to_str()).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        value.copy_(torch.randn(value.shape) * (0.1 if value.ndim == 1 else value[0].numel() ** -0.5))
        if value.ndim == 1 and name.endswith("weight"):
            value.add_(1)
    model.first_stage.get_buffer("scale").fill_(1 / (card.scale_factor or 0.5))
    return model


def state_of(model: LatentModel, card: Card) -> dict[str, Tensor]:
    """The model's weights under the authors' names."""
    ours = {name: value for name, value in model.state_dict().items() if not name.startswith("conditioner.")}
    keys = compvis.model_keys(card.unet, card.first_stage)
    theirs = keys.to_theirs({n: v for n, v in ours.items() if n.split(".")[-1] not in compvis.STATISTICS})
    state = theirs | to_checkpoint(card.conditioner, model.conditioner.state_dict())
    extras = {"betas": torch.linspace(0, 1, 1000), "scale_factor": torch.tensor(card.scale_factor or 0.5)}
    return state | extras


def with_averages(state: Mapping[str, Tensor], averaged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state`, and beside it the U-Net of `averaged` as its averages."""
    found = {compvis.ema_name(n): v for n, v in averaged.items() if n.startswith("model.")}
    return {**state, **found, "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}


def write(state: Mapping[str, Tensor], path: Path) -> Path:
    """As safetensors, or as a Lightning checkpoint, by the name's ending."""
    plain = {name: value.detach().clone().contiguous() for name, value in state.items()}
    if path.suffix == ".safetensors":
        save_file(plain, path)
    else:
        torch.save({"state_dict": plain, "global_step": 1234, "epoch": 5, "pytorch-lightning_version": "1.4.2"}, path)
    return path


def picture(model: LatentModel, prepared: Prepared, guidance: float = 2.0) -> Tensor:
    """Two DDIM steps and the decoder."""
    return model.sample(prepared, DiffusionSettings(num_steps=2), PictureNoise([3]), guidance)


def prepared_for(model: LatentModel, given: Any) -> Prepared:
    return model.conditioner.prepare([given])


WORDS_OF_BERT = wordpiece.bert_tokenizer([*WORDS, *(f"[unused{i}]" for i in range(30522 - len(WORDS)))]).to_str()


def shapes_of(card: Card) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a whole checkpoint of the card, built without memory."""
    with torch.device("meta"):
        model = build_model(config_of(card), WORDS_OF_BERT)
        state = state_of(model, replace(card, scale_factor=1.0))
    return {name: tuple(value.shape) for name, value in state.items()}


def write_hollow(shapes: Mapping[str, tuple[int, ...]], path: Path) -> Path:
    """A safetensors file of fp16 numbers that takes no room on the disk: all behind its header is a hole."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path
