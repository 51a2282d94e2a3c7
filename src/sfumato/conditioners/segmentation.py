"""Segmentation maps: one-hot classes, halved twice, then a 1 x 1 convolution to three channels beside the latent.

Rombach et al. 2021 (arXiv 2112.10752, Sec. 4.3.2): the `SpatialRescaler` of semantic_synthesis256 and 512. Published key:
`cond_stage_model.channel_mapper.weight`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.pictures import check_names, one_size
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError


@dataclass(frozen=True)
class SegmentationConfig:
    """num_classes: of the map. channels: beside the latent. halvings: 2 for a first stage of factor 4.

    names: of the classes, in the order of their numbers; empty where only numbers are known.
    """

    kind: ClassVar[str] = "segmentation"
    num_classes: int = 182
    channels: int = 3
    halvings: int = 2
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_names("segmentation", self.names, self.num_classes)
        if self.num_classes < 1 or self.channels < 1 or self.halvings < 0:
            raise InputError(
                f"segmentation: num_classes {self.num_classes}, channels {self.channels}, halvings {self.halvings}; expected "
                "1 or more, 1 or more and 0 or more."
            )


class SegmentationMap(Conditioner[Tensor, Tensor]):
    """Class maps (H, W) of whole numbers. Guidance keeps them: the published models have no null map."""

    needs = "a segmentation map"

    def __init__(self, config: SegmentationConfig):
        super().__init__()
        self.config = config
        self.mapper = nn.Conv2d(config.num_classes, config.channels, 1, bias=False)

    def prepare(self, inputs: Sequence[Tensor]) -> Tensor:
        """B maps (H, W) of classes 0 ... num_classes - 1, sides multiples of 2^halvings -> (B, H, W) int64."""
        unit = 2**self.config.halvings
        for given in inputs:
            if given.ndim != 2 or given.is_floating_point() or given.dtype == torch.bool or given.numel() == 0:
                raise InputError(
                    f"segmentation map {tuple(given.shape)} of {given.dtype}; expected (height, width) of integers."
                )
            if given.shape[0] % unit or given.shape[1] % unit:
                raise InputError(f"segmentation map {tuple(given.shape)}; expected sides that are multiples of {unit}.")
            if int(given.min()) < 0 or int(given.max()) >= self.config.num_classes:
                found = f"{int(given.min())} to {int(given.max())}"
                raise InputError(f"segmentation map has classes {found}; expected 0 to {self.config.num_classes - 1}.")
        return one_size([given.to("cpu", torch.int64) for given in inputs], (0, 0), "segmentation map")

    def nulled(self, prepared: Tensor) -> Tensor:
        """The same maps."""
        return prepared

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, H, W) classes -> concat (B, channels, h, w)."""
        maps = F.one_hot(prepared.long(), self.config.num_classes).movedim(3, 1).to(self.mapper.weight.dtype)  # (B, K, H, W)
        for _ in range(self.config.halvings):
            maps = F.interpolate(maps, scale_factor=0.5, mode="bilinear")
        return Conditioning(concat=self.mapper(maps))
