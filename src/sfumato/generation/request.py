"""A request: what to make. `Draft` is what a person said, `Request` is that with the model's defaults filled in.

Picture i, counted over prompts x num with the pictures of one prompt side by side, has seed `seed + i`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, WHITE, Limits

BATCH_SIZE = 16

Scales = float | Mapping[str, float]
"""A guidance scale, or one for each of some parts of the condition (`conditioners.base.Scales`, without PyTorch)."""


@dataclass(frozen=True)
class Picture:
    """One picture to make."""

    index: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class Request:
    """Everything that decides a call's pictures. Sizes in pixels; `negative` None is the model's own null condition.

    `background` (white, transparent or #rrggbb) only decides what a picture with transparency is laid on when it is done.
    temperature, top_k, top_p: of models that are no diffusion; None is the model's own.
    Raises `InputError` on construction when a value is out of bounds.
    """

    prompts: tuple[str, ...]
    num: int
    seed: int
    steps: int
    guidance: Scales
    sampler: str
    height: int
    width: int
    negative: str | None = None
    batch_size: int = BATCH_SIZE
    background: str = WHITE
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        _check(self, LIMITS)
        LIMITS.seed(self.seed, len(self.prompts) * self.num)
        if not self.prompts:
            raise InputError("prompts: got none, expected at least one.")

    def pictures(self) -> list[Picture]:
        """The pictures in order."""
        prompts = [prompt for prompt in self.prompts for _ in range(self.num)]
        return [Picture(i, prompt, self.seed + i) for i, prompt in enumerate(prompts)]


@dataclass(frozen=True)
class Draft:
    """What was asked for; None leaves the choice to the model (a seed: to chance). Values are checked on construction."""

    prompts: tuple[str, ...] = ()
    negative: str | None = None
    num: int = 1
    seed: int | None = None
    steps: int | None = None
    guidance: Scales | None = None
    sampler: str | None = None
    height: int | None = None
    width: int | None = None
    batch_size: int = BATCH_SIZE
    background: str = WHITE
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        _check(self, LIMITS)
        if self.seed is not None:
            LIMITS.seed(self.seed, max(len(self.prompts), 1) * self.num)

    def complete(
        self, *, steps: int, guidance: Scales, sampler: str, image_size: tuple[int, int], multiple: int, needs_prompt: bool
    ) -> Request:
        """The request for a model with these defaults, whose sides are multiples of `multiple` pixels."""
        if needs_prompt and not self.prompts:
            raise InputError('prompt: got none, and this model makes pictures from one; give it, such as "a red dragon".')
        prompts = self.prompts or ("",)
        height = image_size[0] if self.height is None else self.height
        width = image_size[1] if self.width is None else self.width
        return Request(
            prompts=prompts,
            num=self.num,
            seed=random_seed(len(prompts) * self.num) if self.seed is None else self.seed,
            steps=steps if self.steps is None else self.steps,
            guidance=guidance if self.guidance is None else self.guidance,
            sampler=sampler if self.sampler is None else self.sampler,
            height=LIMITS.side("height", height, multiple),
            width=LIMITS.side("width", width, multiple),
            negative=self.negative,
            batch_size=self.batch_size,
            background=self.background,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )


def random_seed(pictures: int) -> int:
    """A seed by chance, from the operating system, that leaves room for `pictures` pictures."""
    return int.from_bytes(os.urandom(8), "big") % (LIMITS.max_seed - pictures + 2)


def _check(asked: Request | Draft, limits: Limits) -> None:
    """Replace every given field by its checked value."""

    def keep(name: str, value: object) -> None:
        object.__setattr__(asked, name, value)  # the dataclass is frozen; this is its construction

    keep("num", limits.num(asked.num))
    keep("batch_size", limits.batch_size(asked.batch_size))
    keep("background", limits.background(asked.background))
    if not isinstance(asked.prompts, Iterable):
        raise InputError("prompts: expected a list of texts.")
    keep("prompts", limits.prompts(asked.prompts, asked.num))
    if asked.negative is not None:
        keep("negative", limits.text("negative", asked.negative))
    if asked.seed is not None:
        keep("seed", limits.seed(asked.seed))
    if asked.steps is not None:
        keep("steps", limits.steps(asked.steps))
    if asked.guidance is not None:
        keep("guidance", limits.guidance(asked.guidance))
    if asked.sampler is not None:
        keep("sampler", limits.sampler(asked.sampler))
    for name in ("temperature", "top_k", "top_p"):
        if getattr(asked, name) is not None:
            keep(name, getattr(limits, name)(getattr(asked, name)))
    for name in ("height", "width"):
        if getattr(asked, name) is not None:
            keep(name, limits.side(name, getattr(asked, name)))
