"""Small pictures beside the latent: super-resolution.

bsr_sr        c = x_low, resized to the latent's size                     (Rombach et al. 2021, arXiv 2112.10752, Sec. 4.4)
fold n        c = n x n pixels of x_low as channels of each place         where x_low has more places than the latent
x4 upscaler   c = alpha_k x_low + sigma_k eps, and the level k itself     (noise augmentation: Ho et al. 2021,
              of a schedule of its own, k <= 350                          arXiv 2106.15282; the Stable Diffusion release)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.conditioners.base import Conditioner, Parts
from sfumato.conditioners.pictures import level_of, one_size, stacked
from sfumato.conditioning import Conditioning
from sfumato.diffusion.schedule import ScheduleConfig, make_schedule
from sfumato.errors import InputError


@dataclass(frozen=True)
class LowResolutionConfig:
    """Without noise. channels: of the picture, 4 with transparency.

    factor: how many times smaller than the result it is. fold: its places a side for one of the latent, 1 for a first
    stage whose own factor is `factor`. degradation: how training made small pictures (`sfumato.data.degrade`).
    """

    kind: ClassVar[str] = "low_resolution"
    channels: int = 3
    factor: int = 4
    fold: int = 1
    degradation: Literal["bicubic", "blind"] = "bicubic"

    def __post_init__(self) -> None:
        if self.channels < 1 or self.factor < 2 or self.fold < 1:
            given = f"channels {self.channels}, factor {self.factor}, fold {self.fold}"
            raise InputError(f"low_resolution: {given}; expected 1, 2 and 1 or more.")


@dataclass(frozen=True)
class SmallImage:
    """image: (channels, H, W) in [-1, 1]. size: (height, width) to which it is resized, the latent's times `fold`; None for
    its own."""

    image: Tensor
    size: tuple[int, int] | None = None


class LowResolution(Conditioner[SmallImage, Tensor]):
    """Guidance keeps the picture."""

    needs = "a small picture"

    def __init__(self, config: LowResolutionConfig | None = None):
        super().__init__()
        self.config = config or LowResolutionConfig()

    def prepare(self, inputs: Sequence[SmallImage]) -> Tensor:
        """B pictures -> (B, channels, h, w) fp32, resized by bicubic interpolation where `size` is another.

        Raises `InputError` for sides that are no multiples of `fold`.
        """
        channels, fold = self.config.channels, self.config.fold
        images = [_resized(stacked([given.image], channels, "small image"), given.size)[0] for given in inputs]
        wrong = next((image for image in images if image.shape[1] % fold or image.shape[2] % fold), None)
        if wrong is not None:
            raise InputError(f"small image of {tuple(wrong.shape[1:])} pixels; expected sides that are multiples of {fold}.")
        return one_size(images, (channels, 0, 0), "small image")

    def nulled(self, prepared: Tensor) -> Tensor:
        """The same pictures."""
        return prepared

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, channels, h, w) -> concat (B, channels fold^2, h / fold, w / fold)."""
        return Conditioning(concat=prepared if self.config.fold == 1 else F.pixel_unshuffle(prepared, self.config.fold))


@dataclass(frozen=True)
class NoisedLowResolutionConfig:
    """schedule: of the noise on the small picture. largest_level: the last table index that training has seen."""

    kind: ClassVar[str] = "noised_low_resolution"
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(beta_start=0.0001, beta_end=0.02))
    largest_level: int = 350

    def __post_init__(self) -> None:
        if not 0 <= self.largest_level < self.schedule.num_steps:
            raise InputError(f"largest_level {self.largest_level}; expected 0 to {self.schedule.num_steps - 1}.")


@dataclass(frozen=True)
class NoisedImage:
    """image: (3, h, w) in [-1, 1], a quarter of the result's sides. noise: standard normal in the same shape, from the
    picture's own source. level: how much of it, 0 to 350."""

    image: Tensor
    noise: Tensor
    level: int = 20


class NoisedLowResolution(Conditioner[NoisedImage, Parts]):
    """Guidance keeps the picture, its noise and the level."""

    needs = "a small picture"

    def __init__(self, config: NoisedLowResolutionConfig):
        super().__init__()
        self.config = config
        self.schedule = make_schedule(config.schedule)

    def prepare(self, inputs: Sequence[NoisedImage]) -> Parts:
        """B pictures -> image, noise (B, 3, h, w) fp32 and level (B,) int64."""
        image = stacked([given.image for given in inputs], 3, "small image")
        for given in inputs:
            if given.noise.shape != given.image.shape:
                wrong, right = tuple(given.noise.shape), tuple(given.image.shape)
                raise InputError(f"noise of shape {wrong} for a small image of {right}; expected the same shape.")
        noise = one_size([given.noise.to("cpu", torch.float32) for given in inputs], (3, 0, 0), "noise")
        levels = [level_of(given.level, self.config.largest_level, "noise level") for given in inputs]
        return Parts({"image": image, "noise": noise, "level": torch.tensor(levels, dtype=torch.int64)})

    def nulled(self, prepared: Parts) -> Parts:
        """The same pictures."""
        return prepared

    def forward(self, prepared: Parts) -> Conditioning:
        """concat (B, 3, h, w), and vector (B,) int64: the level, a row of the network's table of classes."""
        level = prepared.tensor("level")
        alpha, sigma = (v[:, None, None, None] for v in self.schedule((level + 1) / self.schedule.num_steps))
        return Conditioning(concat=alpha * prepared.tensor("image") + sigma * prepared.tensor("noise"), vector=level)


def _resized(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or size == tuple(image.shape[2:]):
        return image
    if min(size) < 1:
        raise InputError(f"size {size} of a small image; expected a height and a width of 1 or more.")
    return F.interpolate(image, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
