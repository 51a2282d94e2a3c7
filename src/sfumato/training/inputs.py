"""A data set and a conditioner -> where a training batch's conditions come from (`sfumato.training.conditions`)."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.build import TrainedConditionerConfig
from sfumato.conditioners.base import Conditioner, Parts, Prepared
from sfumato.conditioners.compose import Composite, CompositeConfig
from sfumato.conditioners.frozen_text import FrozenText
from sfumato.conditioners.label import ClassLabel
from sfumato.conditioners.layout import LayoutBoxes
from sfumato.conditioners.low_resolution import LowResolution, LowResolutionConfig
from sfumato.conditioners.masked import MaskedImageConfig, MaskedLatents
from sfumato.conditioners.none import Unconditional
from sfumato.conditioners.picture_latent import PictureLatentConfig, PictureLatents
from sfumato.conditioners.retrieved import Retrieved, RetrievedConfig, extractor
from sfumato.conditioners.segmentation import SegmentationConfig, SegmentationMap
from sfumato.conditioners.text import TextEncoder
from sfumato.data.annotations import MapClasses
from sfumato.data.dataset import ImageDataset
from sfumato.data.maps import UNLABELLED
from sfumato.features.neighbours import groups_of, most_others, nearest_others
from sfumato.training.beside import Beside
from sfumato.training.conditions import (
    ConditionSource,
    DrawnMasks,
    NearestFeatures,
    Pixels,
    Resize,
    Several,
    Shrunken,
    Stored,
    StoredMaps,
    WholePictures,
)

ORDERS = 4  # of a layout's boxes that training meets: their order has no meaning
SPARE = 4  # times as many neighbours as are shown at once: which of them, is drawn
REPLAYED = 0  # seed of what is drawn for sample sheets


def condition_source(
    conditioner: Conditioner[Any, Any],
    data: ImageDataset,
    beside: Beside,
    device: torch.device,
    factor: int,
    resident: Tensor | None = None,
    *,
    flip: bool = False,
) -> ConditionSource:
    """The conditions of the pictures in `data`, whose pixels may be `resident` (N, C, H, W). Raises `InputError`.

    factor: of the first stage. flip: whether mirrored pictures will be asked for.
    """
    pixels = Pixels(data, resident, device)
    match conditioner:
        case Composite():
            own = {name: part for name, part in conditioner.parts.items() if isinstance(part, Conditioner)}
            return Several({n: condition_source(p, data, beside, device, factor, resident, flip=flip) for n, p in own.items()})
        case TextEncoder() | FrozenText() | ClassLabel() | Unconditional():
            return Stored(*prepared_conditions(conditioner, data), device)
        case LayoutBoxes():
            plain = _layouts(conditioner, data, beside, mirrored=False)
            mirrored = _layouts(conditioner, data, beside, mirrored=True) if flip else None
            return Stored(plain, torch.full((len(data),), ORDERS), device, mirrored)
        case SegmentationMap():
            return StoredMaps(beside.maps(data, known_classes(conditioner.config)), device)
        case MaskedLatents():
            return DrawnMasks(pixels)
        case PictureLatents():
            return WholePictures(pixels)
        case LowResolution():
            own_factor, degradation = conditioner.config.factor, conditioner.config.degradation
            return Shrunken(pixels, own_factor, degradation, _resize_to(conditioner, data, factor))
        case Retrieved():
            pictures = _pictures(data, resident)
            features, pooled = extractor(conditioner.config)(pictures, device)
            num, groups = conditioner.config.num, groups_of(pictures)  # a copy of a picture is not its neighbour either
            others = nearest_others(pooled, min(SPARE * num, most_others(groups)), groups)
            return NearestFeatures(features, pooled, others, num, device)
        case _:
            raise AssertionError(type(conditioner))


def wants_pixels(config: TrainedConditionerConfig) -> bool:
    """Whether conditions are made from the pictures themselves."""
    parts = [part.conditioner for part in config.parts] if isinstance(config, CompositeConfig) else [config]
    return any(isinstance(p, MaskedImageConfig | LowResolutionConfig | PictureLatentConfig | RetrievedConfig) for p in parts)


def first_conditions(
    conditioner: Conditioner[Any, Any],
    data: ImageDataset,
    beside: Beside,
    source: ConditionSource,
    device: torch.device,
    factor: int,
) -> Prepared:
    """Prepared inputs of all pictures in `data`, the same at every call: first variants, and masks from a fixed seed.

    source: the training pictures', among which neighbours are looked for.
    """
    match conditioner:
        case Composite():
            assert isinstance(source, Several)
            own = {name: part for name, part in conditioner.parts.items() if isinstance(part, Conditioner)}
            return Parts({n: first_conditions(p, data, beside, source.parts[n], device, factor) for n, p in own.items()})
        case TextEncoder() | FrozenText() | ClassLabel() | Unconditional():
            return conditioner.prepare([conditions_of(conditioner, data, i)[0] for i in range(len(data))]).to(device)
        case Retrieved():
            assert isinstance(source, NearestFeatures)
            return source.around(extractor(conditioner.config)(data.resident(), device)[1].to(device))
        case _:
            fixed = torch.Generator(device).manual_seed(REPLAYED)
            rows = torch.arange(len(data), device=device)
            return condition_source(conditioner, data, beside, device, factor).batch(rows, torch.zeros_like(rows), fixed)


def _resize_to(conditioner: LowResolution, data: ImageDataset, factor: int) -> Resize:
    """Small pictures -> the size that stands beside the latent: as they are, or resized where it is another."""
    fold = conditioner.config.fold
    size = [side // factor * fold for side in data.target.height_width]

    def resize(small: Tensor) -> Tensor:
        if list(small.shape[2:]) == size:
            return small
        return F.interpolate(small, size=size, mode="bicubic", antialias=True).clamp(-1, 1)

    return resize


def known_classes(config: SegmentationConfig) -> MapClasses:
    """The classes of a model's maps."""
    names = config.names or tuple(str(number) for number in range(config.num_classes))
    return MapClasses(names, len(names) - 1 if names[-1] == UNLABELLED else None)


def _layouts(conditioner: LayoutBoxes, data: ImageDataset, beside: Beside, mirrored: bool) -> Tensor:
    """(N, ORDERS, L) tokens: each picture's boxes in as many random orders."""
    rng = random.Random(0)
    rows = []
    for layout in beside.layouts(data, conditioner.config.names, conditioner.config.num_objects):
        boxes = [replace(box, left=max(0.0, 1 - box.left - box.width)) if mirrored else box for box in layout]
        rows += [tuple(rng.sample(boxes, len(boxes))) for _ in range(ORDERS)]
    return conditioner.prepare(rows).unflatten(0, (len(data), ORDERS))


def _pictures(data: ImageDataset, resident: Tensor | None) -> Tensor:
    return data.resident() if resident is None else resident


def prepared_conditions(conditioner: Conditioner[str, Tensor], data: ImageDataset) -> tuple[Tensor, Tensor]:
    """Every picture's texts or class (N, V, ...) and how many of its V variants count (N,)."""
    inputs = [conditions_of(conditioner, data, i) for i in range(len(data))]
    counts = torch.tensor([len(v) for v in inputs])
    most = int(counts.max())
    flat = [variants[min(k, len(variants) - 1)] for variants in inputs for k in range(most)]
    prepared = conditioner.prepare(flat)
    return prepared.unflatten(0, (len(data), most)), counts


def conditions_of(conditioner: Conditioner[str, Tensor], data: ImageDataset, index: int) -> list[str]:
    """The variants of one picture's input, at least one."""
    if isinstance(conditioner, TextEncoder | FrozenText):
        return list(data.captions(index))
    label = data.label(index)
    return ["" if label is None else data.classes[label]]
