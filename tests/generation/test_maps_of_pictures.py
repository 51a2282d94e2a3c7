"""Pictures that are maps: index and grey pictures, and coloured ones by a palette."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.errors import InputError
from sfumato.generation.maps import classes_of, is_coloured, palette_of

CLASSES = np.random.default_rng(0).integers(0, 4, (5, 7), dtype=np.uint8)
COLOURS = [(255, 0, 0), (0, 0, 0), (9, 200, 3), (255, 0, 1)]


def indexed() -> Image.Image:
    image = Image.fromarray(CLASSES, "P")
    image.putpalette([value for colour in COLOURS for value in colour])
    return image


@pytest.mark.parametrize("mode", ["P", "L", "I", "I;16", "RGB", "LA"])
def test_values_are_numbers(mode: str) -> None:
    grey = Image.fromarray(CLASSES)
    image = indexed() if mode == "P" else Image.fromarray(CLASSES.astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
    assert image.mode == mode
    assert not is_coloured(image)
    found = classes_of(image)
    assert found.dtype == torch.int64
    assert np.array_equal(found.numpy(), CLASSES)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_by_a_palette(mode: str) -> None:
    image = indexed().convert(mode)
    assert is_coloured(image)
    assert palette_of(indexed())[:4] == COLOURS
    assert np.array_equal(classes_of(image, COLOURS).numpy(), CLASSES)
    assert np.array_equal(classes_of(image, [*COLOURS, (0, 0, 0)]).numpy(), CLASSES)  # the first of two


def test_colours_that_mean_nothing() -> None:
    image = indexed().convert("RGB")
    with pytest.raises(InputError, match="coloured, and which class a colour means is not known"):
        classes_of(image)
    row, column = (int(v) for v in np.argwhere(CLASSES == 3)[0])
    with pytest.raises(InputError, match=f"the colour #ff0001 at row {row}, column {column} is none of the palette's 3"):
        classes_of(image, COLOURS[:3])
    with pytest.raises(InputError, match="palette: got a picture of mode RGB"):
        palette_of(image)
    with pytest.raises(InputError, match="mode is F"):
        classes_of(Image.fromarray(CLASSES.astype(np.float32)))
