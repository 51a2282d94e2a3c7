"""The tasks as methods of a pipeline: pictures in, pictures out. `generate`'s keywords mean the same here.

num, seed: pictures of each prompt, the first one's seed. steps, guidance (1 is off), sampler: the model's own where None.
negative: what to stay away from. on_step: called after each denoising step. All raise as `Pipeline.generate` does, and
`InputError` for a model that does not take the task's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image
from torch import Tensor

from sfumato.errors import InputError
from sfumato.generation.engine import OnStep
from sfumato.generation.layouts import LabelledBox, parse_layout, read_layout
from sfumato.generation.limits import WHITE
from sfumato.generation.maps import classes_of
from sfumato.generation.request import BATCH_SIZE, Draft, Scales
from sfumato.generation.tasks.compose import compose
from sfumato.generation.tasks.edit import edit
from sfumato.generation.tasks.inpaint import inpaint
from sfumato.generation.tasks.job import pictures
from sfumato.generation.tasks.paint import paint
from sfumato.generation.tasks.upscale import upscale

if TYPE_CHECKING:
    from sfumato.generation.pipeline import Pipeline

Prompts = str | Sequence[str]


class TaskMethods:
    """What `Pipeline` can do beside `generate`."""

    def edit(
        self,
        image: Image.Image,
        prompt: Prompts = (),
        num: int = 1,
        seed: int | None = None,
        *,
        strength: float | None = None,
        negative: str | None = None,
        steps: int | None = None,
        guidance: Scales | None = None,
        sampler: str | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = BATCH_SIZE,
        background: str | None = None,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        """`image` changed after `prompt`, beginning from its noised latent; `strength` above 0 to 1 (None: 0.75).

        The result has the picture's own size, or `size` (height, width) if that is given. background: None keeps the
        transparency of a picture that has some, where the model draws it.
        """
        draft = _draft(prompt, num, seed, negative, steps, guidance, sampler, batch_size, size)
        return pictures(_pipeline(self), edit(_pipeline(self), image, draft, strength, background, _name(image)), on_step)

    def inpaint(
        self,
        image: Image.Image,
        mask: Image.Image,
        prompt: Prompts = (),
        num: int = 1,
        seed: int | None = None,
        *,
        resampling: int | None = None,
        negative: str | None = None,
        steps: int | None = None,
        guidance: Scales | None = None,
        sampler: str | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = BATCH_SIZE,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        """`image` made anew where `mask`, of its size, is white; every other pixel comes back bit for bit, alpha included.

        size: (height, width) at which the model works, None for the picture's own; the result always has the picture's.
        resampling: for a model that takes no mask, how often each step is walked (`samplers.known`); None is once.
        """
        draft = _draft(prompt, num, seed, negative, steps, guidance, sampler, batch_size, size)
        return pictures(_pipeline(self), inpaint(_pipeline(self), image, mask, draft, resampling, _name(image)), on_step)

    def upscale(
        self,
        image: Image.Image,
        factor: int | None = None,
        prompt: Prompts = (),
        num: int = 1,
        seed: int | None = None,
        *,
        negative: str | None = None,
        steps: int | None = None,
        guidance: Scales | None = None,
        sampler: str | None = None,
        batch_size: int = BATCH_SIZE,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        """`image` `factor` times larger; None takes the model's factor, and any other than that is an error."""
        draft = _draft(prompt, num, seed, negative, steps, guidance, sampler, batch_size)
        return pictures(_pipeline(self), upscale(_pipeline(self), image, draft, factor, _name(image)), on_step)

    def paint(
        self,
        classes: Tensor | Image.Image,
        prompt: Prompts = (),
        num: int = 1,
        seed: int | None = None,
        *,
        negative: str | None = None,
        steps: int | None = None,
        guidance: Scales | None = None,
        sampler: str | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = BATCH_SIZE,
        background: str = WHITE,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        """A picture of a map of classes, (H, W) whole numbers or an index picture (modes P and L), at the map's size."""
        draft = _draft(prompt, num, seed, negative, steps, guidance, sampler, batch_size, size, background)
        source = _name(classes) if isinstance(classes, Image.Image) else None
        given = classes_of(classes) if isinstance(classes, Image.Image) else classes
        return pictures(_pipeline(self), paint(_pipeline(self), given, draft, source), on_step)

    def compose(
        self,
        layout: Sequence[LabelledBox] | dict[str, Any] | str | Path,
        prompt: Prompts = (),
        num: int = 1,
        seed: int | None = None,
        *,
        negative: str | None = None,
        steps: int | None = None,
        guidance: Scales | None = None,
        sampler: str | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = BATCH_SIZE,
        background: str = WHITE,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        """A picture of labelled boxes: boxes, what a layout's JSON holds, or the path of one (`sfumato.generation.layouts`)."""
        draft = _draft(prompt, num, seed, negative, steps, guidance, sampler, batch_size, size, background)
        source = Path(layout).name if isinstance(layout, str | Path) else None
        if isinstance(layout, str | Path):
            boxes: Sequence[LabelledBox] = read_layout(layout)
        else:
            boxes = parse_layout(layout) if isinstance(layout, dict) else layout
        return pictures(_pipeline(self), compose(_pipeline(self), boxes, draft, source), on_step)


def _pipeline(methods: TaskMethods) -> Pipeline:
    """These methods are a pipeline's."""
    return cast("Pipeline", methods)


def _draft(
    prompt: Prompts,
    num: int,
    seed: int | None,
    negative: str | None,
    steps: int | None,
    guidance: Scales | None,
    sampler: str | None,
    batch_size: int,
    size: tuple[int, int] | None = None,
    background: str = WHITE,
) -> Draft:
    if size is not None and (not isinstance(size, tuple | list) or len(size) != 2):
        raise InputError("size: expected (height, width) in pixels, such as (128, 128).")
    height, width = (None, None) if size is None else size
    return Draft(
        prompts=(prompt,) if isinstance(prompt, str) else cast(tuple[str, ...], prompt),  # checked by Draft
        negative=negative,
        num=num,
        seed=seed,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        height=height,
        width=width,
        batch_size=batch_size,
        background=background,
    )


def _name(image: Image.Image) -> str | None:
    """The name of the file that a picture was opened from."""
    name = getattr(image, "filename", None)
    return Path(name).name if isinstance(name, str) and name else None
