"""Inpainting: what a mask marks is made anew, everything else comes back bit for bit.

A model that was trained for it sees the mask and the picture without what it hides (Rombach et al. 2021, arXiv 2112.10752,
Sec. 4.5). What it draws is pasted into the picture at the picture's own resolution (`generation.paste`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from sfumato.conditioners.masked import MaskedImage, MaskedLatents
from sfumato.generation.paste import like, paste, plain, read_mask
from sfumato.generation.request import Draft
from sfumato.generation.tasks.frame import Frame, size_of
from sfumato.generation.tasks.job import Job
from sfumato.generation.tasks.parts import needed_part, with_prompt

if TYPE_CHECKING:
    from sfumato.generation.engine import Made
    from sfumato.generation.pipeline import Pipeline


def inpaint(pipeline: Pipeline, image: Image.Image, mask: Image.Image, draft: Draft, source: str | None = None) -> Job:
    """`image` made anew where `mask`, of the same size, is white, after the draft's prompts or none.

    The model works at the picture's size or, where the draft names one, at that. A picture with transparency keeps it: a model
    that draws transparency draws it inside the mask too, under any other the picture's own stays. Raises `InputError`.
    """
    image = plain(image)
    chosen = read_mask(mask, size_of(image))  # (H, W)
    part = needed_part(pipeline, MaskedLatents, "mask", "name one that inpaints with --model")
    frame = Frame.of(size_of(image), pipeline.multiple, draft)
    request = pipeline.request(frame.fit(with_prompt(pipeline, draft)))
    shown = frame.picture(image, part.conditioner.config.channels)[0]
    inputs = part.inputs(MaskedImage(shown, frame.mask(chosen)))
    alpha = image.getchannel("A") if image.mode == "RGBA" else None

    def finish(made: Made) -> Image.Image:
        return paste(image, like(frame.crop(made.pixels), frame.own, alpha), chosen)

    return Job(request, None, inputs, finish, "inpaint", source=source)
