"""Small pictures, first stages with a known loss, and generators with a known quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.evaluation.data import EvaluationData
from sfumato.evaluation.protocol import Settings
from sfumato.evaluation.scoring import Scorer
from sfumato.first_stages.base import FirstStage
from sfumato.latent import Grid
from sfumato.posterior import DiagonalGaussian


class Pooling(FirstStage):
    """Encodes by averaging `factor` x `factor` pixels, decodes by repeating them."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor, self.channels, self.preview = factor, 3, None
        self.latent = Grid(3, factor)

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(F.avg_pool2d(x, self.factor))

    def decode(self, z: Tensor) -> Tensor:
        return F.interpolate(z, scale_factor=self.factor, mode="nearest")

    @property
    def last_layer(self) -> nn.Parameter | None:
        return None


def make_data(count: int, seed: int, groups: Sequence[str] = ("red", "blue"), channels: int = 3) -> EvaluationData:
    """Smooth random pictures of 32 x 32."""
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    pixels = (F.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1) * 255).byte()
    names = [f"{seed}-{i}" for i in range(count)]
    return EvaluationData(pixels, [f"picture {n}" for n in names], [groups[i % len(groups)] for i in range(count)], names)


class Oracle:
    """Draws the real picture of a caption, and remembers what it was asked."""

    def __init__(self, *known: EvaluationData) -> None:
        self.pictures = {c: p for data in known for c, p in zip(data.captions, data.pixels)}
        self.calls: list[tuple[list[str], list[int]]] = []

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        self.calls.append((list(prompts), list(seeds)))
        return torch.stack([self.pictures[p] for p in prompts])


@pytest.fixture
def data() -> Callable[..., EvaluationData]:
    return make_data


@pytest.fixture
def oracle() -> type[Oracle]:
    return Oracle


@pytest.fixture
def pooling() -> type[Pooling]:
    return Pooling


@pytest.fixture
def settings() -> Callable[..., Settings]:
    def make(**changes: Any) -> Settings:
        return Settings(**({"scorer": Scorer(resize=None), "num_resamples": 50, "batch_size": 7} | changes))

    return make
