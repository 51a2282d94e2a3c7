"""Image-to-image: begin from the noised latent of a picture (SDEdit: Meng et al. 2021, arXiv 2108.01073).

    x_t = alpha_t E(picture) + sigma_t eps,   and only the last `strength` of the steps are walked

A model that reads the picture itself (InstructPix2Pix) is shown it, and walks all steps from pure noise unless a strength is
asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from sfumato.conditioners.picture_latent import PictureLatents
from sfumato.generation.limits import LIMITS, TRANSPARENT, WHITE
from sfumato.generation.paste import has_alpha
from sfumato.generation.request import Draft
from sfumato.generation.tasks.frame import Frame, size_of
from sfumato.generation.tasks.job import Job
from sfumato.generation.tasks.parts import check_texts, find_part

if TYPE_CHECKING:
    from sfumato.generation.engine import Made
    from sfumato.generation.pipeline import Pipeline

STRENGTH = 0.75


def edit(
    pipeline: Pipeline,
    image: Image.Image,
    draft: Draft,
    strength: float | None = None,
    background: str | None = None,
    source: str | None = None,
) -> Job:
    """`image` changed after the draft's prompts, at its own size or, where the draft names one, at that.

    strength: above 0 to 1; None is 0.75. background: None keeps the transparency of a picture that has some, where the model
    draws it. source: the picture's file name, for the record. Raises `InputError`.
    """
    check_texts(pipeline, draft)
    frame = Frame.of(size_of(image), pipeline.multiple, draft)
    own = TRANSPARENT if has_alpha(image) and pipeline.draws_transparency else WHITE
    request = pipeline.request(replace(frame.fit(draft), background=own if background is None else background))
    shown = find_part(pipeline.model.conditioner, PictureLatents)
    inputs = None if shown is None else shown.inputs(frame.picture(image, shown.conditioner.config.channels)[0])
    share = None if shown is not None and strength is None else LIMITS.strength(STRENGTH if strength is None else strength)
    start = None if share is None else pipeline.start_at(frame.picture(image, pipeline.channels), share)

    def finish(made: Made) -> Image.Image:
        return made.image.crop((0, 0, frame.work[1], frame.work[0]))

    return Job(request, start, inputs, finish=finish, task="edit", strength=share, source=source)
