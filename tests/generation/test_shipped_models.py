"""The models inside the package: they load, with the first stage that they share, and do what they are for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sfumato.generation.pipeline import load
from sfumato.io.pretrained import shipped_models

HOLE = (48, 48, 80, 80)


@pytest.fixture(scope="module")
def apple() -> Image.Image:
    return load("emoji", "cpu").generate("a red apple, flat style", seed=1)[0]


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean squared difference of pixels."""
    return float(np.square(np.asarray(one, float) - np.asarray(other, float)).mean())


def test_their_names() -> None:
    assert shipped_models() == ["emoji", "emoji-inpaint", "emoji-upscale"]


def test_a_larger_picture_is_far_nearer_to_the_true_one_than_bicubic(apple: Image.Image) -> None:
    small = apple.resize((32, 32), Image.Resampling.BICUBIC)
    large = load("emoji-upscale", "cpu").upscale(small, seed=1)[0]
    assert large.size == apple.size
    assert distance(large, apple) < distance(small.resize(apple.size, Image.Resampling.BICUBIC), apple) / 4


def test_a_hole_is_filled_by_what_was_there(apple: Image.Image) -> None:
    """Far nearer than by the mean colour of what is around, and nothing else is touched."""
    mask = Image.new("L", apple.size)
    mask.paste(255, HOLE)
    damaged = apple.copy()
    damaged.paste((0, 0, 0), HOLE)
    filled = load("emoji-inpaint", "cpu").inpaint(damaged, mask, "a red apple", seed=1)[0]
    kept = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(filled)[kept], np.asarray(apple)[kept])
    flat = damaged.copy()
    flat.paste(tuple(np.asarray(apple)[kept].mean(0).round().astype(int).tolist()), HOLE)
    assert distance(filled, apple) < distance(flat, apple) / 4
