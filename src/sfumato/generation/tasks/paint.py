"""Semantic synthesis: a map of classes becomes a picture (Rombach et al. 2021, arXiv 2112.10752, Sec. 4.3.2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from sfumato.conditioners.segmentation import SegmentationConfig, SegmentationMap
from sfumato.errors import InputError
from sfumato.generation.request import Draft
from sfumato.generation.tasks.frame import Frame, resized
from sfumato.generation.tasks.job import Job
from sfumato.generation.tasks.parts import needed_part, with_prompt

if TYPE_CHECKING:
    from sfumato.generation.engine import Made
    from sfumato.generation.pipeline import Pipeline


UNLABELLED = "unlabelled"
"""What training calls the class of pixels without a label, and how index maps mark them, in 8 and in 16 bits."""
NO_LABEL = (255, 65535)


def paint(pipeline: Pipeline, classes: Tensor, draft: Draft, source: str | None = None) -> Job:
    """A picture of the map `classes`, (H, W) whole numbers, at the map's size or, where the draft names one, at that.

    Raises `InputError` for a class that the model does not know.
    """
    part = needed_part(pipeline, SegmentationMap, "map of classes", "name one that paints maps with --model")
    config = part.conditioner.config
    classes = labelled(classes, config)
    check_classes(classes, config)
    sides = (int(classes.shape[0]), int(classes.shape[1]))
    frame = Frame.of(sides, math.lcm(pipeline.multiple, 2**config.halvings), draft, "map")
    request = pipeline.request(frame.fit(with_prompt(pipeline, draft)))
    latent = pipeline.model.latent_shape(request.height, request.width)
    told = resized(frame.map(classes.to(torch.int64)), (latent[1] << config.halvings, latent[2] << config.halvings))

    def finish(made: Made) -> Image.Image:
        return made.image.crop((0, 0, frame.work[1], frame.work[0]))

    return Job(request, inputs=part.inputs(told), finish=finish, task="paint", source=source)


def class_names(pipeline: Pipeline) -> list[str]:
    """What the classes of maps are called, in the order of their numbers; the numbers where no names are known."""
    config = needed_part(pipeline, SegmentationMap, "map of classes", "name one that paints maps").conditioner.config
    return list(config.names) or [str(number) for number in range(config.num_classes)]


def labelled(classes: Tensor, config: SegmentationConfig) -> Tensor:
    """`classes` with the marks of pixels without a label, 255 or 65535, as the class for them, where the model has one."""
    if UNLABELLED not in config.names or classes.is_floating_point():
        return classes
    none = [mark for mark in NO_LABEL if mark >= config.num_classes]
    marked = torch.isin(classes, torch.tensor(none, dtype=torch.int64))
    return torch.where(marked, config.names.index(UNLABELLED), classes)


def check_classes(classes: Tensor, config: SegmentationConfig) -> None:
    """Raise `InputError` where a map (H, W) holds a class that is none of the model's."""
    if classes.ndim != 2 or classes.numel() == 0 or classes.is_floating_point() or classes.is_complex():
        raise InputError(
            f"map: got shape {tuple(classes.shape)} of {classes.dtype}, expected (height, width) of whole numbers."
        )
    wrong = ((classes < 0) | (classes >= config.num_classes)).nonzero()
    if len(wrong):
        row, column = (int(place) for place in wrong[0])
        raise InputError(
            f"map: class {int(classes[row, column])} at row {row}, column {column} is unknown, expected 0 to "
            f"{config.num_classes - 1}; --list-classes says what they are."
        )
