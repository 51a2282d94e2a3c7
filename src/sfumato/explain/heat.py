"""A map over a picture: grey where nothing is, its colours and a warm glow where the map is high."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

GLOW = ((255, 255, 255), (255, 226, 150), (247, 148, 60), (196, 44, 40))
"""From nothing to the most, in equal parts."""


def overlay(picture: Image.Image, values: Tensor, largest: float, smallest: float = 0.0) -> Image.Image:
    """A picture under a map (h, w) of values, which are drawn from `smallest` to `largest`; RGB of the picture's size."""
    scaled = ((values.float() - smallest) / max(largest - smallest, 1e-12)).clamp(0, 1)
    heat = Image.fromarray((scaled * 255).round().to(torch.uint8).cpu().numpy())
    heat = heat.resize(picture.size, Image.Resampling.BICUBIC)
    level = np.asarray(heat, dtype=np.float32)[..., None] / 255  # (H, W, 1)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    shade = 0.55 + 0.45 * grey / 255  # the drawing stays visible under the glow
    return Image.fromarray((glow(level) * shade).round().clip(0, 255).astype(np.uint8))


def glow(level: np.ndarray) -> np.ndarray:
    """Levels (H, W, 1) in [0, 1] -> colours (H, W, 3), linear between those of `GLOW`."""
    stops = np.array(GLOW, dtype=np.float32)
    place = level[..., 0] * (len(stops) - 1)
    low = np.clip(place.astype(int), 0, len(stops) - 2)
    share = (place - low)[..., None]
    return stops[low] * (1 - share) + stops[low + 1] * share
