"""Does a distance rank known distortions in order? Pictures are spoiled more and more, and it has to rise at every step.

    blur     x * N(0, s^2), s in pixels           noise    x + n, n ~ N(0, s^2) of each value on 0 ... 255, clipped
    JPEG     at falling quality                   mosaic   means of s x s pixels

(after Heusel et al. 2017, arXiv 1706.08500, figure 3.) The clean pictures' own distance to the reference is the floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.alpha import on_white
from sfumato.data.jpeg import jpeg
from sfumato.errors import InputError
from sfumato.evaluation.scoring import Features, OnBatch
from sfumato.generation.pixels import to_bytes, to_unit
from sfumato.metrics.frechet import frechet_distance, moments
from sfumato.metrics.kernel import kernel_distance


def blur(x: Tensor, std: float) -> Tensor:
    """(B, C, H, W) in [-1, 1] -> the same under a Gaussian of `std` pixels, cut at 3 of them, the border repeated."""
    reach = max(1, math.ceil(3 * std))
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-(offsets**2) / (2 * std**2))
    weights = weights / weights.sum()
    flat = F.pad(x.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")  # (B C, 1, H + 2 r, W + 2 r)
    flat = F.conv2d(F.conv2d(flat, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return flat[:, 0].unflatten(0, x.shape[:2])


def noise(x: Tensor, std: float, rng: torch.Generator) -> Tensor:
    """(B, C, H, W) in [-1, 1] and white noise of `std` on 0 ... 255, clipped."""
    return (x + torch.randn(x.shape, generator=rng).to(x) * (std / 127.5)).clamp(-1, 1)


def compressed(x: Tensor, quality: float) -> Tensor:
    """(B, C, H, W) in [-1, 1] after JPEG of this quality, 1 to 100."""
    return jpeg(x, torch.full((len(x),), quality, device=x.device))


def mosaic(x: Tensor, side: float) -> Tensor:
    """(B, C, H, W) with every `side` x `side` pixels at their mean; smaller ones at the right and bottom edges."""
    size = round(side)
    small = F.avg_pool2d(x, size, ceil_mode=True, count_include_pad=False)
    large = small.repeat_interleave(size, 2).repeat_interleave(size, 3)
    return large[:, :, : x.shape[2], : x.shape[3]]


@dataclass(frozen=True)
class Distortion:
    """strengths: from the weakest to the strongest, in `unit`. apply: (x in [-1, 1], strength, rng) -> the same, spoiled."""

    name: str
    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[Tensor, float, torch.Generator], Tensor]


DISTORTIONS = (
    Distortion("blur", "standard deviation in pixels", (0.5, 1.0, 2.0, 4.0), lambda x, s, rng: blur(x, s)),
    Distortion("noise", "standard deviation on 0 to 255", (8.0, 16.0, 32.0, 64.0), noise),
    Distortion("JPEG", "quality", (70.0, 40.0, 15.0, 5.0), lambda x, s, rng: compressed(x, s)),
    Distortion("mosaic", "side of a block in pixels", (2.0, 4.0, 8.0, 16.0), lambda x, s, rng: mosaic(x, s)),
)


@dataclass(frozen=True)
class Ranking:
    """fd, kd: of each strength. ordered: whether both rise at every step, from the floor on."""

    distortion: Distortion
    fd: tuple[float, ...]
    kd: tuple[float, ...]
    fd_floor: float
    kd_floor: float

    @property
    def fd_ordered(self) -> bool:
        """Whether the Frechet distance rises at every step, from the floor on."""
        return _rises((self.fd_floor, *self.fd))

    @property
    def kd_ordered(self) -> bool:
        """Whether the kernel distance does."""
        return _rises((self.kd_floor, *self.kd))


def rank(
    clean: Tensor,
    reference: Tensor,
    scorer: Features,
    distortions: Sequence[Distortion] = DISTORTIONS,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 32,
    on_batch: OnBatch | None = None,
) -> list[Ranking]:
    """Spoil `clean` (N, C, H, W) uint8 and compare with `reference`, other real pictures (M, C, H, W). On white.

    `on_batch` is told of spoiled sets. Raises `InputError` for too few pictures for a covariance of the features.
    """
    fewest = 1 + (scorer(clean[:1], device, 1).shape[1] if len(clean) else 0)
    if min(len(clean), len(reference)) < fewest:
        raise InputError(
            f"the Frechet distance of {len(clean)} and {len(reference)} pictures needs {fewest} a side, for a covariance of "
            f"{fewest - 1} features; give more."
        )
    clean, found = on_white(clean), []
    real = scorer(reference, device, batch_size)
    plain = scorer(clean, device, batch_size)
    floors = frechet_distance(moments(plain), moments(real)), kernel_distance(plain, real)
    total, done = sum(len(d.strengths) for d in distortions), 0
    for distortion in distortions:
        fd, kd = [], []
        for strength in distortion.strengths:
            rng = torch.Generator().manual_seed(seed)
            parts = [to_bytes(distortion.apply(to_unit(part), strength, rng)) for part in clean.split(batch_size)]
            features = scorer(torch.cat(parts), device, batch_size)
            fd.append(frechet_distance(moments(features), moments(real)))
            kd.append(kernel_distance(features, real))
            done += 1
            if on_batch is not None:
                on_batch(done, total)
        found.append(Ranking(distortion, tuple(fd), tuple(kd), *floors))
    return found


def _rises(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))
