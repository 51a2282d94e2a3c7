"""Pictures that are maps: each pixel is the number of a class. Index PNGs (mode P: the index, whatever its colour) and grey.

A coloured picture is a map too where a palette says which colour means which class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.errors import InputError

Colour = tuple[int, int, int]
EXPECTED = "expected an index PNG (mode P) or a grey picture whose values are numbers of classes"


def classes_of(image: Image.Image, palette: Sequence[Colour] | None = None) -> Tensor:
    """(H, W) int64 of an index picture (P), a grey one (1, L, I;16, I), or a coloured one by `palette`, class by class.

    Raises `InputError` for a colour that no class has, and for any colour where there is no palette.
    """
    if is_numbers(image):
        return torch.from_numpy(np.asarray(image).astype(np.int64))
    if image.mode not in ("RGB", "RGBA", "LA"):
        raise InputError(f"map: its mode is {image.mode[:10]}; {EXPECTED}.")
    bands = np.asarray(image.convert("RGB")).astype(np.int64)
    if palette is not None:
        return _by_colour(bands, palette)
    if is_coloured(image):
        raise InputError(f"map: it is coloured, and which class a colour means is not known; {EXPECTED}.")
    return torch.from_numpy(bands[..., 0].copy())


def is_numbers(image: Image.Image) -> bool:
    """Whether the picture's values are numbers, and not colours."""
    return image.mode in ("P", "1", "L", "I") or image.mode.startswith("I;16")


def is_coloured(image: Image.Image) -> bool:
    """Whether red, green and blue differ somewhere in a picture of colours."""
    if is_numbers(image) or image.mode not in ("RGB", "RGBA"):
        return False
    red, green, blue = (np.asarray(image.getchannel(band)) for band in "RGB")
    return bool((red != green).any() or (green != blue).any())


def palette_of(image: Image.Image) -> list[Colour]:
    """The colours of an index picture, class by class. Raises `InputError` for one that is none."""
    colours = image.getpalette("RGB") if image.mode == "P" else None
    if not colours:
        raise InputError(f"palette: got a picture of mode {image.mode[:10]}, expected an index PNG (mode P) with its colours.")
    return [(colours[i], colours[i + 1], colours[i + 2]) for i in range(0, len(colours) - 2, 3)]


def _by_colour(bands: np.ndarray[tuple[int, ...], np.dtype[np.int64]], palette: Sequence[Colour]) -> Tensor:
    """(H, W, 3) -> the first class of each pixel's colour, (H, W)."""
    whole = bands[..., 0] << 16 | bands[..., 1] << 8 | bands[..., 2]
    known = np.array([red << 16 | green << 8 | blue for red, green, blue in palette], dtype=np.int64)
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], whole).clip(max=len(known) - 1)
    found = order[place]
    wrong = np.argwhere(known[found] != whole)
    if len(wrong):
        row, column = (int(v) for v in wrong[0])
        colour = "#{:02x}{:02x}{:02x}".format(*bands[row, column])
        raise InputError(f"map: the colour {colour} at row {row}, column {column} is none of the palette's {len(known)}.")
    return torch.from_numpy(found.astype(np.int64))
