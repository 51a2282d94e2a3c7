"""Inpainting: what a mask marks is made anew, everything else comes back bit for bit.

A model that was trained for it sees the mask and the picture without what it hides (Rombach et al. 2021, arXiv 2112.10752,
Sec. 4.5). Any other that needs no more than a text draws freely, while the part of the latent that is known is held on its
own noised path (`samplers.known`). What comes out is led over into the picture's tones at the mask's edge
(`generation.membrane`) and pasted into it at the picture's own resolution (`generation.paste`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.compose import Composite
from sfumato.conditioners.masked import MaskedImage, MaskedLatents
from sfumato.errors import InputError
from sfumato.generation.known import MARGIN, latent_mask
from sfumato.generation.limits import shorten, whole
from sfumato.generation.membrane import close_seam
from sfumato.generation.paste import like, paste, plain, read_mask
from sfumato.generation.pixels import to_bytes
from sfumato.generation.profile import from_srgb, profile_of, to_srgb
from sfumato.generation.request import Draft
from sfumato.generation.tasks.frame import Frame, size_of
from sfumato.generation.tasks.job import Job
from sfumato.generation.tasks.parts import find_part, with_prompt
from sfumato.latent import Grid
from sfumato.samplers.known import Known

if TYPE_CHECKING:
    from sfumato.generation.engine import Made
    from sfumato.generation.pipeline import Pipeline

MOST = 100


def trained_for_masks(pipeline: Pipeline) -> bool:
    """Whether the model takes a mask; others inpaint without having been trained for it."""
    return find_part(pipeline.model.conditioner, MaskedLatents) is not None


def inpaint(
    pipeline: Pipeline,
    image: Image.Image,
    mask: Image.Image,
    draft: Draft,
    resampling: int | None = None,
    source: str | None = None,
) -> Job:
    """`image` made anew where `mask`, of the same size, is white, after the draft's prompts or none.

    The model works at the picture's size or, where the draft names one, at that. A picture with transparency keeps it: a model
    that draws transparency draws it inside the mask too, under any other the picture's own stays. A colour profile is
    kept with the bytes that mean something by it alone. resampling: how often a
    model that takes no mask walks each step (None: once), for a better fit at as many times the cost. Raises `InputError`.
    """
    own = plain(image)
    profile = profile_of(own)
    image = to_srgb(own, profile)
    chosen = read_mask(mask, size_of(image))  # (H, W)
    rounds = 1 if resampling is None else whole("resampling", resampling, 1, MOST)
    frame = Frame.of(size_of(image), pipeline.multiple, draft)
    request = pipeline.request(frame.fit(with_prompt(pipeline, draft)))
    part = find_part(pipeline.model.conditioner, MaskedLatents)
    inputs, known = None, None
    if part is not None:
        if resampling is not None:
            raise InputError(f"resampling: the model {shorten(pipeline.name)} takes the mask itself; leave it out.")
        shown = frame.picture(image, part.conditioner.config.channels)[0]
        inputs = part.inputs(MaskedImage(shown, frame.mask(chosen)))
    else:
        _check_needs(pipeline, pipeline.model.conditioner)
        known = _known(pipeline, frame, image, frame.mask(chosen), rounds)
    alpha = image.getchannel("A") if image.mode == "RGBA" else None

    def finish(made: Made) -> Image.Image:
        drawn = like(_led_over(pipeline, frame, made.pixels, image, frame.mask(chosen)), frame.own, alpha)
        if profile is None:
            return paste(own, drawn, chosen)
        pasted = paste(own, from_srgb(drawn, profile), chosen)
        pasted.info["icc_profile"] = profile
        return pasted

    return Job(request, inputs=inputs, known=known, finish=finish, task="inpaint", source=source)


def _led_over(pipeline: Pipeline, frame: Frame, pixels: Tensor, image: Image.Image, mask: Tensor) -> Tensor:
    """(C, H, W) uint8 that the model drew -> (C, h', w'), without a seam to `image` at the mask's (H, W) edge."""
    latent = pipeline.model.first_stage.latent
    picture = to_bytes(frame.picture(image, len(pixels))[0])
    drawn, picture, mask = (frame.crop(x) for x in (pixels, picture, mask[None]))
    return close_seam(drawn[None], picture[None], mask[None], latent.factor if isinstance(latent, Grid) else 1)[0]


def _known(pipeline: Pipeline, frame: Frame, image: Image.Image, mask: Tensor, rounds: int) -> Known | None:
    """The latent of what is kept; None where no cell of it is far enough from the hole to be known."""
    latent = pipeline.model.first_stage.latent
    assert isinstance(latent, Grid)
    anew = next((cells for margin in (MARGIN, 0) if not bool((cells := latent_mask(mask, latent.factor, margin)).all())), None)
    if anew is None:
        return None
    z_0 = pipeline.encoded(frame.picture(image, pipeline.channels))
    return Known(z_0, anew.to(z_0.device), rounds)


def _check_needs(pipeline: Pipeline, conditioner: Conditioner[Any, Any]) -> None:
    """Raise `InputError` for a model that must be told more than a text."""
    parts = conditioner.parts.values() if isinstance(conditioner, Composite) else [conditioner]
    needs = next((part.needs for part in parts if isinstance(part, Conditioner) and part.needs), None)
    if needs is not None:
        raise InputError(f"model: {shorten(pipeline.name)} needs {needs}, so it cannot inpaint; name another with --model.")
