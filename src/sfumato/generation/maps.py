"""Pictures that are maps: each pixel is the number of a class. Index PNGs (mode P: the index, whatever its colour) and grey."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.errors import InputError


def classes_of(image: Image.Image) -> Tensor:
    """(H, W) int64 of an index picture (P), a grey one (1, L, I;16, I), or one whose red, green and blue are alike.

    Raises `InputError` for a coloured picture: its classes cannot be known.
    """
    if image.mode == "P" or image.mode in ("1", "L", "I") or image.mode.startswith("I;16"):
        return torch.from_numpy(np.asarray(image).astype(np.int64))
    if image.mode in ("RGB", "RGBA", "LA"):
        bands = np.asarray(image.convert("RGB")).astype(np.int64)
        if bool((bands == bands[..., :1]).all()):
            return torch.from_numpy(bands[..., 0].copy())
        colours = "it is coloured, and which class a colour means is not known"
    else:
        colours = f"its mode is {image.mode[:10]}"
    raise InputError(f"map: {colours}; expected an index PNG (mode P) or a grey picture whose values are class numbers.")
