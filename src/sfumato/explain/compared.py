"""Several models on one rate-distortion plane: what was measured of each, and who shares a first stage.

Rates are bits per value of the picture and errors are on 0 ... 255, so that pixels and latents of any factor share their axes.
Pictures have each model's own size and channels: a smaller picture of the same thing has more bits a value, and so the sizes
stand on the figure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sfumato.explain.figure import cut
from sfumato.explain.plane import Series
from sfumato.explain.rate_distortion import Curve, Point
from sfumato.first_stages.base import FirstStage

LONGEST, LONGEST_SIZED = 40, 26
"""Characters of a name that a line of the legend has room for, and beside a size."""


@dataclass(frozen=True)
class Rated:
    """A model: its name, the pictures' shape (C, H, W) and number, its curve, and its points: of the first stage alone and
    under the prior. stage_key: equal where first stages are."""

    name: str
    shape: tuple[int, ...]
    num_pictures: int
    curve: Curve | None
    stage: Point | None
    prior: Point | None
    stage_key: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        parts = {"curve": self.curve, "first_stage": self.stage, "prior": self.prior}
        return {name: None if part is None else part.to_json() for name, part in parts.items()}


def stage_key(first_stage: FirstStage) -> str:
    """A hash of a first stage's type and weights."""
    found = hashlib.sha256(type(first_stage).__name__.encode())
    for name, tensor in sorted(first_stage.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def series(models: Sequence[Rated]) -> list[Series]:
    """One of each model, in their order. A first stage that several have is drawn once, with the first of them."""
    sized = len({one.shape for one in models}) > 1
    owners: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for one in models:
        owners.setdefault((one.stage_key, one.shape), []).append(one.name)

    def named(names: str, one: Rated) -> str:
        return f"{cut(names, LONGEST_SIZED)} ({size_text(one.shape)})" if sized else cut(names, LONGEST)

    found = []
    for one in models:
        name, sharing = named(one.name, one), owners.pop((one.stage_key, one.shape), [])
        curves = () if one.curve is None else ((f"{name}: diffusion, {len(one.curve.times)} steps", one.curve),)
        priors = () if one.prior is None else ((f"{name}: {one.prior.under}", one.prior),)
        stages: tuple[tuple[str, Point], ...] = ()
        if sharing and one.stage is not None:
            stages = ((f"{named(' and '.join(sharing), one)}: first stage, {one.stage.under}", one.stage),)
        found.append(Series(curves, stages, priors))
    return found


def note(models: Sequence[Rated]) -> str:
    """Which pictures, as a line of the figure."""
    counts = sorted({one.num_pictures for one in models})
    pictures = f"{' or '.join(map(str, counts))} held-out picture{'' if counts == [1] else 's'}"
    shapes = list(dict.fromkeys(one.shape for one in models))
    if len(shapes) == 1:
        return f"{pictures} of {size_text(shapes[0])}"
    return f"{pictures} at each model's own size; rates of different sizes do not compare"


def size_text(shape: Sequence[int]) -> str:
    """(C, H, W) as H x W x C."""
    channels, height, width = shape
    return f"{height} x {width} x {channels}"
