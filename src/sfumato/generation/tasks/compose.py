"""Layout to image: labelled boxes become a picture (Rombach et al. 2021, arXiv 2112.10752, Sec. 4.3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sfumato.conditioners.layout import Box, LayoutBoxes
from sfumato.generation.layouts import LabelledBox, numbered
from sfumato.generation.request import Draft
from sfumato.generation.tasks.frame import Frame
from sfumato.generation.tasks.job import Job
from sfumato.generation.tasks.parts import needed_part, with_prompt

if TYPE_CHECKING:
    from PIL import Image

    from sfumato.generation.engine import Made
    from sfumato.generation.pipeline import Pipeline


def compose(pipeline: Pipeline, layout: Sequence[LabelledBox], draft: Draft, source: str | None = None) -> Job:
    """A picture of the boxes, at the model's size or the draft's. Raises `InputError` for a label that the model lacks."""
    part = needed_part(pipeline, LayoutBoxes, "layout of boxes", "name one that composes layouts with --model")
    names = part.conditioner.config.names
    boxes = tuple(Box(numbered(box.label, names), box.left, box.top, box.width, box.height) for box in layout)
    part.conditioner.prepare([boxes])  # its errors before anything is made
    frame = Frame.of(pipeline.model.image_size, pipeline.multiple, draft, "size")
    request = pipeline.request(frame.fit(with_prompt(pipeline, draft)))

    def finish(made: Made) -> Image.Image:
        return made.image.crop((0, 0, frame.work[1], frame.work[0]))

    return Job(request, inputs=part.inputs(boxes), finish=finish, task="compose", source=source)


def label_names(pipeline: Pipeline) -> list[str]:
    """What labels of boxes are called, in the order of their numbers; the numbers where no names are known."""
    config = needed_part(pipeline, LayoutBoxes, "layout of boxes", "name one that composes layouts").conditioner.config
    return list(config.names) or [str(number) for number in range(config.num_classes or config.nothing)]
