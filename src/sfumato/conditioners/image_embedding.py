"""unCLIP: a picture's CLIP embedding with noise on it, beside the noise level.

    e = CLIP(x),   v = s (alpha_k (e - m) / s + sigma_k eps) + m,   vector = [v, embedding(k)]

Ramesh et al. 2022 (arXiv 2204.06125), as Stable unCLIP does it: cosine betas of 1000 levels, mean m and standard deviation s
of the embeddings of the training pictures (ViT-L/14: a file of statistics; ViT-H/14: 0 and 1), and a level embedding as wide
as e. Dropped pictures, and guidance, are zeros in the whole vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.conditioners.base import Conditioner, Parts
from sfumato.conditioners.pictures import level_of, one_size, stacked
from sfumato.conditioning import Conditioning
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.networks.clip import ClipVision, ClipVisionConfig, clip_pixels
from sfumato.nn.layers import timestep_embedding

VIT_H = ClipVisionConfig()
VIT_L = ClipVisionConfig(dim=1024, layers=24, heads=16, hidden=4096, activation="quick_gelu", projection=768)


@dataclass(frozen=True)
class ImageEmbeddingConfig:
    """tower: ViT-H/14 (vector of 2048) or ViT-L/14 (1536). schedule: of the noise on the embedding."""

    kind: ClassVar[str] = "image_embedding"
    tower: ClipVisionConfig = VIT_H
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(name=ScheduleName.cosine))

    @property
    def dim(self) -> int:
        """Width of the vector."""
        return 2 * self.tower.projection


@dataclass(frozen=True)
class EmbeddedImage:
    """image: (3, H, W) in [-1, 1], any size. noise: (projection,) standard normal, from the picture's own source.

    level: how much of it, 0 to 999; 0 is almost none.
    """

    image: Tensor
    noise: Tensor
    level: int = 0


class ImageEmbedding(Conditioner[EmbeddedImage, Parts]):
    """The null twin is a vector of zeros. `mean` and `std` (projection,) are buffers, filled from the file of statistics."""

    needs = "a picture"

    NOTHING = -1  # in place of a level: the null input

    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageEmbeddingConfig):
        super().__init__()
        self.config = config
        self.schedule = make_schedule(config.schedule)
        self.tower = ClipVision(config.tower)
        self.register_buffer("mean", torch.zeros(config.tower.projection))
        self.register_buffer("std", torch.ones(config.tower.projection))

    def prepare(self, inputs: Sequence[EmbeddedImage]) -> Parts:
        """B pictures -> image (B, 3, size, size) for the tower, noise (B, projection) and level (B,) int64."""
        tower = self.config.tower
        images = [clip_pixels(stacked([given.image], 3, "image"), tower.size)[0] for given in inputs]
        for given in inputs:
            if given.noise.shape != (tower.projection,):
                raise InputError(f"noise of shape {tuple(given.noise.shape)} for an embedding; expected ({tower.projection},).")
        noise = [given.noise.to("cpu", torch.float32) for given in inputs]
        levels = [level_of(given.level, self.schedule.num_steps - 1, "noise level") for given in inputs]
        return Parts(
            {
                "image": one_size(images, (3, tower.size, tower.size), "image"),
                "noise": one_size(noise, (tower.projection,), "noise"),
                "level": torch.tensor(levels, dtype=torch.int64),
            }
        )

    def null(self, count: int) -> Parts:
        """Prepared values that `forward` turns into zeros."""
        size, width = self.config.tower.size, self.config.tower.projection
        image, noise = torch.zeros(count, 3, size, size), torch.zeros(count, width)
        return Parts({"image": image, "noise": noise, "level": torch.full((count,), self.NOTHING)})

    @torch.no_grad()
    def forward(self, prepared: Parts) -> Conditioning:
        """vector (B, 2 projection): the noised embedding, then the level's."""
        level = prepared.tensor("level")
        there = level != self.NOTHING
        known = level.clamp(min=0)
        alpha, sigma = (v[:, None] for v in self.schedule((known + 1) / self.schedule.num_steps))
        embedding = self.tower(prepared.tensor("image").to(self.mean.dtype)).float()
        mean, std = self.mean.float(), self.std.float()
        noised = (alpha * (embedding - mean) / std + sigma * prepared.tensor("noise")) * std + mean
        vector = torch.cat([noised, timestep_embedding(known, embedding.shape[1])], dim=1)
        return Conditioning(vector=torch.where(there[:, None], vector, 0).to(self.mean.dtype))
