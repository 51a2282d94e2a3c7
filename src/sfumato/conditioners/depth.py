"""Depth beside the latent: the map that the user gives, resized and stretched to [-1, 1], near is 1.

The depth model of Stable Diffusion 2: bicubic resizing to the latent's size, then 2 (d - min) / (max - min) - 1 over each
map. MiDaS, which made the maps for training, gives inverse depth: larger is nearer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.pictures import one_size
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError


@dataclass(frozen=True)
class DepthConfig:
    """Nothing to choose."""

    kind: ClassVar[str] = "depth"


@dataclass(frozen=True)
class DepthMap:
    """depth: (H, W) in any unit and range, larger is nearer. size: the latent's (height, width)."""

    depth: Tensor
    size: tuple[int, int]


class Depth(Conditioner[DepthMap, Tensor]):
    """Guidance keeps the map."""

    needs = "a depth map"

    def __init__(self, config: DepthConfig | None = None):
        super().__init__()
        self.config = config or DepthConfig()

    def prepare(self, inputs: Sequence[DepthMap]) -> Tensor:
        """B maps -> (B, 1, h, w) fp32 in [-1, 1]; a flat map becomes -1. Raises `InputError` for what is no map."""
        return one_size([self._stretched(given) for given in inputs], (1, 0, 0), "depth map")

    def nulled(self, prepared: Tensor) -> Tensor:
        """The same maps."""
        return prepared

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, 1, h, w) -> concat."""
        return Conditioning(concat=prepared)

    @staticmethod
    def _stretched(given: DepthMap) -> Tensor:
        depth = given.depth.to("cpu", torch.float32)
        if depth.ndim != 2 or depth.numel() == 0 or not bool(torch.isfinite(depth).all()):
            raise InputError(f"depth map of shape {tuple(depth.shape)}; expected finite numbers (height, width).")
        if min(given.size) < 1:
            raise InputError(f"size {given.size} of a depth map; expected the latent's height and width.")
        if bool(depth.min() == depth.max()):
            return torch.full((1, *given.size), -1.0)
        depth = F.interpolate(depth[None, None], size=given.size, mode="bicubic", align_corners=False)[0]  # (1, h, w)
        low, high = depth.min(), depth.max()
        return 2 * (depth - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny) - 1
