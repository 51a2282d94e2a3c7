"""Super-resolution: a small picture beside the latent (Rombach et al. 2021, arXiv 2112.10752, Sec. 4.4).

The model was trained for one factor, at one size; it is convolutional, so the picture may have any size. It is padded so that
the result fits the model, and the result is cropped to exactly `factor` times the picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from sfumato.conditioners.low_resolution import LowResolution, NoisedImage, NoisedLowResolution, SmallImage
from sfumato.errors import InputError
from sfumato.generation.engine import Each
from sfumato.generation.limits import shorten, whole
from sfumato.generation.paste import like, plain
from sfumato.generation.request import Draft, Picture
from sfumato.generation.tasks.frame import Frame, size_of
from sfumato.generation.tasks.job import Job
from sfumato.generation.tasks.parts import Found, find_part, needed_part, with_prompt
from sfumato.latent import Grid
from sfumato.noise import MAX_SEED

if TYPE_CHECKING:
    from sfumato.generation.engine import Made
    from sfumato.generation.pipeline import Pipeline

Part = Found[LowResolution] | Found[NoisedLowResolution]
MOST = 64


def upscale(pipeline: Pipeline, image: Image.Image, draft: Draft, factor: int | None = None, source: str | None = None) -> Job:
    """`image` of h x w pixels as one of factor h x factor w; None takes the model's factor, any other is an `InputError`.

    Transparency is kept: enlarged by itself where the model draws none.
    """
    image = plain(image)
    noised = find_part(pipeline.model.conditioner, NoisedLowResolution)
    part: Part = noised or needed_part(pipeline, LowResolution, "small picture", "name one that upscales with --model")
    times = _factor(pipeline, part)
    if factor is not None and whole("factor", factor, 2, MOST) != times:
        raise InputError(f"factor: got {factor}, but the model {shorten(pipeline.name)} makes pictures {times} times larger.")
    size = (times * image.height, times * image.width)
    result = Frame.of(size, math.lcm(pipeline.multiple, times), what="the enlarged picture")
    small = Frame(size_of(image), size_of(image), (result.padded[0] // times, result.padded[1] // times))
    request = pipeline.request(result.fit(with_prompt(pipeline, draft)))
    inputs = _inputs(pipeline, part, small, image)
    alpha = image.getchannel("A").resize(size[::-1], Image.Resampling.BICUBIC) if image.mode == "RGBA" else None

    def finish(made: Made) -> Image.Image:
        return like(result.crop(made.pixels), size, alpha)

    return Job(request, inputs=inputs, finish=finish, task="upscale", source=source)


def _factor(pipeline: Pipeline, part: Part) -> int:
    """How many times larger the result is. The x4 upscaler's small picture stands beside the latent, place by place."""
    if isinstance(part.conditioner, LowResolution):
        return part.conditioner.config.factor
    latent = pipeline.model.first_stage.latent
    assert isinstance(latent, Grid)
    return latent.factor


def _inputs(pipeline: Pipeline, part: Part, small: Frame, image: Image.Image) -> Any:
    """The padded small picture as the part takes it."""
    if isinstance(part.conditioner, LowResolution):
        config, latent = part.conditioner.config, pipeline.model.first_stage.latent
        assert isinstance(latent, Grid)
        shown = small.picture(image, config.channels)[0]
        size = tuple(side * config.factor // latent.factor * config.fold for side in small.padded)
        return part.inputs(SmallImage(shown, (size[0], size[1])))
    shown = small.picture(image, 3)[0]
    return Each(lambda picture: part.inputs(NoisedImage(shown, _noise(picture, shown))))


def _noise(picture: Picture, like: Tensor) -> Tensor:
    """Standard normal, of the picture's seed and yet no picture's own: those are below 2^32."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(picture.seed + MAX_SEED + 1))
