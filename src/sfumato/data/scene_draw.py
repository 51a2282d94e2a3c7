"""One emoji scene: which things, where, and the picture, map and boxes that follow.

    x = x_K,   x_0 = the background,   x_k = ink_k + (1 - a_k) x_{k-1}        (Porter and Duff 1984, `over`)
    map(p) = class of the last thing with a_k(p) >= 1/2, 0 where there is none

A box is the tightest around the pixels of the map that a thing has. Things of one scene are of different classes; no more
than `MOST_HIDDEN` of the smaller one's box, and of its pixels, is common to two.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from sfumato.data.scene_backgrounds import Background, background
from sfumato.data.scene_sprites import SOLID, Drawing, Sprite, Sprites, load
from sfumato.data.scene_text import Box, Captions, Relation, captions, relations

MOST_HIDDEN = 0.10
MAX_OBJECTS = 8
Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_WEIGHTS = (2, 4, 3, 3, 2, 2, 1, 1)  # how often there are 1, 2, ... things
_TRIES = 60  # places tried for a thing; every tenth failure makes it smaller
_UNCLEAR = 4  # times that two things without a clear relation are placed anew


@dataclass(frozen=True)
class Thing:
    """What is seen of one drawing. box: x, y, w, h in pixels; area: pixels of the map."""

    drawing: Drawing
    box: Box
    area: int


@dataclass(frozen=True)
class Scene:
    """image: (S, S, 3) RGB; map: (S, S) class indices; things from back to front; relations: all that are clear."""

    image: Pixels
    map: Pixels
    things: tuple[Thing, ...]
    relations: tuple[Relation, ...]
    captions: Captions
    background: Background


@dataclass(frozen=True)
class _Placed:
    """A sprite at its size: premultiplied (h, w, 4) with its upper left corner at (x, y); `mask` where it is solid."""

    pixels: Pixels
    mask: Mask
    box: Box  # of the mask, in the scene
    x: int
    y: int


class Painter:
    """Draws scene `index` of a split: a function of the seed, the drawings and these alone.

    size: side in pixels; max_objects: most things in a scene, 1 to `MAX_OBJECTS`.
    """

    def __init__(self, sprites: Sprites, size: int, seed: int, max_objects: int):
        self.sprites, self.size, self.seed, self.max_objects = sprites, size, seed, max_objects
        self._load = lru_cache(maxsize=4096)(lambda drawing_id: load(self._by_id[drawing_id], size))
        self._by_id = {
            (d.hexcode, d.style): d for classes in sprites.drawings.values() for some in classes.values() for d in some
        }

    def scene(self, split: str, index: int) -> Scene:
        """Raises `InputError` when a drawing cannot be used (see `scene_sprites.load`)."""
        rng = random.Random(f"sfumato scenes/{self.seed}/{split}/{index}")
        classes = self.sprites.drawings[split]
        most = min(self.max_objects, len(classes))
        count = rng.choices(range(1, most + 1), _WEIGHTS[:most])[0]
        drawings = [_one_of(rng, classes[category]) for category in rng.sample(sorted(classes), count)]
        found = [self._load((d.hexcode, d.style)) for d in drawings]
        for _ in range(_UNCLEAR if count == 2 else 1):
            placed = self._place(rng, found)
            clear = relations([each.box for each in placed], self.size)
            if clear:
                break
        ground = background(rng, self.size, [sprite.ink for sprite in found])
        image, owner = _compose(ground.pixels, placed)
        things = tuple(_thing(drawing, owner == k) for k, drawing in enumerate(drawings[: len(placed)], start=1))
        clear = relations([thing.box for thing in things], self.size)
        told = captions(rng, [thing.drawing.noun for thing in things], clear, ground.phrase)
        indices = np.array([0, *(thing.drawing.category for thing in things)], dtype=np.uint8)
        return Scene(image, indices[owner], things, clear, told, ground)

    def _place(self, rng: random.Random, sprites: Sequence[Sprite]) -> list[_Placed]:
        """Places for the sprites in their order, at least for the first; a later one that finds none ends the list."""
        count = len(sprites)
        lowest, highest = 0.45 * count**-0.5, 0.88 * count**-0.55
        done: list[_Placed] = []
        for sprite in sprites:
            side = self.size * rng.uniform(lowest, highest)
            for attempt in range(_TRIES):
                if attempt % 10 == 0:
                    side *= 0.88 if attempt else 1
                    pixels = _scaled(sprite, side)
                place = _at(pixels, rng, self.size)
                if place is not None and all(_apart(place, other) for other in done):
                    done.append(place)
                    break
            else:
                break
        return done


def _one_of(rng: random.Random, drawings: Sequence[Drawing]) -> Drawing:
    return drawings[int(rng.random() * len(drawings))]


def _scaled(sprite: Sprite, side: float) -> Pixels:
    """(h, w, 4) premultiplied, the longer side about `side` pixels."""
    factor = side / max(sprite.image.size)
    width, height = (max(1, round(length * factor)) for length in sprite.image.size)
    return np.asarray(sprite.image.resize((width, height), Image.Resampling.LANCZOS))


def _at(pixels: Pixels, rng: random.Random, size: int) -> _Placed | None:
    """The sprite somewhere wholly inside a picture of `size`; None where nothing of it is solid."""
    height, width = pixels.shape[:2]
    x, y = (int(rng.random() * (size - length + 1)) for length in (width, height))
    mask = pixels[..., 3] >= SOLID
    if not mask.any():
        return None
    left, top, w, h = _box(mask)
    return _Placed(pixels, mask, (x + left, y + top, w, h), x, y)


def _box(mask: Mask) -> Box:
    """The tightest box around what is true of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _apart(one: _Placed, other: _Placed) -> bool:
    """Whether they have little enough in common, by boxes and by pixels."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = one.box, other.box
    left, top, right, bottom = max(x1, x2), max(y1, y2), min(x1 + w1, x2 + w2), min(y1 + h1, y2 + h2)
    if right <= left or bottom <= top:
        return True
    if (right - left) * (bottom - top) > MOST_HIDDEN * min(w1 * h1, w2 * h2):
        return False
    first, second = (each.mask[top - each.y : bottom - each.y, left - each.x : right - each.x] for each in (one, other))
    return int((first & second).sum()) <= MOST_HIDDEN * min(int(one.mask.sum()), int(other.mask.sum()))


def _compose(ground: Pixels, placed: Sequence[_Placed]) -> tuple[Pixels, Pixels]:
    """(S, S, 3) picture, and (S, S) whose each pixel is: 0 the background's, k that of the k-th placed."""
    image = ground.copy()
    owner = np.zeros(ground.shape[:2], dtype=np.uint8)
    for k, each in enumerate(placed, start=1):
        height, width = each.mask.shape
        window = np.s_[each.y : each.y + height, each.x : each.x + width]
        through = 255 - each.pixels[..., 3:].astype(np.uint32)
        mixed = each.pixels[..., :3] + (image[window] * through + 127) // 255
        image[window] = mixed.clip(0, 255)
        owner[window][each.mask] = k
    return image, owner


def _thing(drawing: Drawing, seen: Mask) -> Thing:
    return Thing(drawing, _box(seen), int(seen.sum()))
