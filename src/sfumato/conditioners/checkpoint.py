"""The conditioner's part of a published checkpoint <-> a conditioner's state dict: prefixes and names, by its config.

A checkpoint of latent or Stable Diffusion keeps its conditioner behind `cond_stage_model.`, one of SDXL behind
`conditioner.embedders.N.`, Stable unCLIP its vision tower behind `embedder.`. What lies behind them is in `keys.py`. Small
pictures, masks, depth, sizes and retrieved vectors have no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.conditioners import keys
from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.class_embedder import ClassEmbedderConfig
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.compose import CompositeConfig, PartConfig
from sfumato.conditioners.image_embedding import ImageEmbeddingConfig
from sfumato.conditioners.layout import LayoutConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.errors import InputError

STAGE, SDXL, VISION = "cond_stage_model.", "conditioner.embedders.", "embedder.model.visual."
PREFIXES = (STAGE, SDXL, "embedder.", "low_scale_model.", "noise_augmentor.", "depth_model.")
"""Beginnings of the names in a checkpoint that concern its conditioner, used here or not."""


@dataclass(frozen=True)
class Statistics:
    """mean, std: (D,) of the image embeddings that Stable unCLIP-L was trained on; they come in a file of their own."""

    mean: Tensor
    std: Tensor


def from_checkpoint(
    config: PartConfig | NoneConfig | CompositeConfig, state: Mapping[str, Tensor], statistics: Statistics | None = None
) -> dict[str, Tensor]:
    """The conditioner's state out of a whole checkpoint's. Raises `InputError` for a key that is missing or is none of its own.

    Without `statistics` unCLIP has mean 0 and standard deviation 1, as unCLIP-H.
    """
    match config:
        case CompositeConfig():
            parts = {part.name: from_checkpoint(part.conditioner, state, statistics) for part in config.parts}
            return {f"parts.{name}.{key}": value for name, values in parts.items() for key, value in values.items()}
        case ClassEmbedderConfig():
            return keys.renamed(_behind(state, STAGE), {"embedding.weight": "embedding.weight"})
        case SegmentationConfig():
            return keys.renamed(_behind(state, STAGE), {"channel_mapper.weight": "mapper.weight"})
        case BertConfig() | LayoutConfig():
            inner = keys.renamed(_behind(state, STAGE), keys.bert_names(config.depth))
            return {f"embedder.{key}": value for key, value in inner.items()}
        case ClipTextsConfig():
            towers = [_text_tower(state, index, tower.pad == "zero") for index, tower in enumerate(config.towers)]
            return {f"towers.{index}.{key}": value for index, values in enumerate(towers) for key, value in values.items()}
        case ImageEmbeddingConfig():
            tower = keys.from_openclip(_behind(state, VISION), vision=True)
            width = config.tower.projection
            given = statistics or Statistics(torch.zeros(width), torch.ones(width))
            return {f"tower.{key}": value for key, value in tower.items()} | {"mean": given.mean, "std": given.std}
        case _:
            return {}


def to_checkpoint(config: PartConfig | NoneConfig | CompositeConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_checkpoint`, with published names and prefixes; unCLIP's statistics are left out."""
    match config:
        case CompositeConfig():
            parts = [to_checkpoint(part.conditioner, _behind(state, f"parts.{part.name}.", True)) for part in config.parts]
            return {key: value for part in parts for key, value in part.items()}
        case ClassEmbedderConfig():
            return _before(STAGE, state)
        case SegmentationConfig():
            return _before(STAGE, keys.renamed(state, {"mapper.weight": "channel_mapper.weight"}))
        case BertConfig() | LayoutConfig():
            names = keys.inverse(keys.bert_names(config.depth))
            return _before(STAGE, keys.renamed(_behind(state, "embedder."), names))
        case ClipTextsConfig():
            result: dict[str, Tensor] = {}
            for index, tower in enumerate(config.towers):
                inner, prefix = _behind(state, f"towers.{index}."), f"{SDXL}{index}." if config.vector else STAGE
                foreign = tower.pad == "zero"
                outer = keys.to_openclip(inner) if foreign else keys.to_transformers(inner)
                result |= _before(prefix + ("model." if foreign else "transformer."), outer)
            return result
        case ImageEmbeddingConfig():
            return _before(VISION, keys.to_openclip(_behind(state, "tower."), vision=True))
        case _:
            return {}


def _text_tower(state: Mapping[str, Tensor], index: int, openclip: bool) -> dict[str, Tensor]:
    prefix = f"{SDXL}{index}." if any(key.startswith(f"{SDXL}{index}.") for key in state) else STAGE
    if openclip:
        return keys.from_openclip(_behind(state, prefix + "model."))
    return keys.from_transformers(_behind(state, prefix + "transformer."))


def _behind(state: Mapping[str, Tensor], prefix: str, empty: bool = False) -> dict[str, Tensor]:
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found and not empty:
        raise InputError(f"the checkpoint has no {prefix}*; expected the conditioner of this model there.")
    return found


def _before(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}
