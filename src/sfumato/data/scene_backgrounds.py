"""What emoji scenes lie on: plain colours and soft textures, a function of a random stream and the size alone.

Every background is a mixture c = (1 - w) a + w b of two shades of one colour, w an (S, S) field in [0, 1]: 0 where it is plain,
a ramp, checks, stripes, dots, or clouds (value noise of three octaves).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float64]

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "white": (250, 250, 250), "light grey": (208, 210, 212), "dark grey": (78, 80, 84), "beige": (232, 219, 190),
    "light blue": (170, 206, 240), "blue": (58, 112, 196), "dark blue": (32, 48, 98), "teal": (44, 146, 146),
    "light green": (184, 224, 176), "green": (72, 152, 78), "dark green": (30, 82, 52), "yellow": (246, 220, 92),
    "orange": (238, 154, 66), "pink": (246, 182, 204), "red": (200, 62, 58), "purple": (132, 86, 172),
    "lavender": (208, 196, 238), "brown": (126, 88, 62),
}  # fmt: skip
KINDS = ("plain", "gradient", "checked", "striped", "dotted", "cloudy")
# Share of each kind; the plain ones are half, a third of them white as most emoji are seen
_SHARES = (0.45, 0.15, 0.10, 0.10, 0.10, 0.10)
_NEAR = 90.0  # RGB distance under which an emoji would be lost on a colour
_JITTER = 7


@dataclass(frozen=True)
class Background:
    """(S, S, 3) pixels; `kind` of `KINDS`, `colour` a name of `COLOURS`."""

    pixels: Pixels
    kind: str
    colour: str

    @property
    def phrase(self) -> str:
        """`a striped light blue background`."""
        return f"a {'' if self.kind == 'plain' else self.kind + ' '}{self.colour} background"


def background(rng: random.Random, size: int, inks: list[tuple[float, float, float]]) -> Background:
    """A background of side `size` whose colour is far from `inks`, the mean colours of what will lie on it, where one is."""
    kind = rng.choices(KINDS, _SHARES)[0]
    name = _colour(rng, inks, white=0.3 if kind == "plain" else 0.05)
    base = np.array([c + rng.uniform(-_JITTER, _JITTER) if name != "white" else c for c in COLOURS[name]]).clip(0, 255)
    if kind == "plain":
        return Background(np.broadcast_to(_bytes(base), (size, size, 3)).copy(), kind, name)
    towards = 0.0 if base.mean() > 128 else 255.0
    amount = rng.uniform(0.10, 0.22)
    other = base + amount * (towards - base)
    field = _FIELDS[kind](rng, size)[..., None]  # (S, S, 1)
    return Background(_bytes((1 - field) * base + field * other), kind, name)


def _colour(rng: random.Random, inks: list[tuple[float, float, float]], white: float) -> str:
    names = list(COLOURS)
    best, distance = "", -1.0
    for attempt in range(6):
        name = "white" if attempt == 0 and rng.random() < white else names[int(rng.random() * len(names))]
        colour = np.array(COLOURS[name], dtype=np.float64)
        nearest = min((float(np.linalg.norm(colour - np.array(ink))) for ink in inks), default=_NEAR)
        if nearest > distance:
            best, distance = name, nearest
        if distance >= _NEAR:
            break
    return best


def _bytes(colours: Field) -> Pixels:
    return np.rint(colours).clip(0, 255).astype(np.uint8)


def _grid(size: int) -> tuple[Field, Field]:
    """(row, column) of the centres of pixels, in parts of the side."""
    at = (np.arange(size) + 0.5) / size
    return at[:, None], at[None, :]


def _gradient(rng: random.Random, size: int) -> Field:
    y, x = _grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    return np.asarray((ramp - ramp.min()) / (ramp.max() - ramp.min()) * 1.0)


def _checked(rng: random.Random, size: int) -> Field:
    y, x = _grid(size)
    count = 4 + int(rng.random() * 7)
    return np.asarray((np.floor(y * count) + np.floor(x * count)) % 2)


def _striped(rng: random.Random, size: int) -> Field:
    y, x = _grid(size)
    count, turn = 3 + int(rng.random() * 6), int(rng.random() * 4)
    along = (x + 0 * y, y + 0 * x, x + y, x - y)[turn]
    return _edge(np.sin(2 * np.pi * count * along) * size / (4 * count))


def _dotted(rng: random.Random, size: int) -> Field:
    y, x = _grid(size)
    count, radius = 5 + int(rng.random() * 6), rng.uniform(0.18, 0.32)
    row = np.floor(y * count)
    dy, dx = (y * count) % 1 - 0.5, (x * count + 0.5 * (row % 2)) % 1 - 0.5
    return _edge((radius - np.hypot(dy, dx)) * size / count)


def _cloudy(rng: random.Random, size: int) -> Field:
    total = np.zeros((size, size))
    for octave in range(3):
        cells = 3 * 2**octave
        knots = np.array([rng.random() for _ in range(cells * cells)], dtype=np.float32).reshape(cells, cells)
        smooth = Image.fromarray(knots).resize((size, size), Image.Resampling.BICUBIC)
        total += np.asarray(smooth, dtype=np.float64) / 2**octave
    return np.asarray((total - total.min()) / (total.max() - total.min()))


def _edge(distance: Field) -> Field:
    """1 inside, 0 outside, and a soft edge of two pixels where `distance`, in pixels, is about 0."""
    return np.asarray((distance / 2 + 0.5).clip(0, 1))


_FIELDS: Mapping[str, Callable[[random.Random, int], Field]] = {
    "gradient": _gradient, "checked": _checked, "striped": _striped, "dotted": _dotted, "cloudy": _cloudy,
}  # fmt: skip
