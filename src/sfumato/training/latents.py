"""Latent statistics and cache: what the prior trains on.

The moments of every training picture are computed once. The unit scale is that of latent samples over the whole set,

    mean = E[mu],   std^2 = E[mu^2] - E[mu]^2 + E[sigma^2]     by channel, in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.alpha import on_white
from sfumato.build import LearnedFirstStage
from sfumato.conditioners.base import Prepared
from sfumato.data.order import batch_indices
from sfumato.first_stages.base import FirstStage
from sfumato.io.weights import read_weights, save_weights
from sfumato.training.conditions import ConditionSource


@dataclass(frozen=True)
class Moments:
    """Posterior of every picture, raw scale: (N, C, h, w) fp16 on the CPU; `log_variance` None for no spread."""

    mean: Tensor
    log_variance: Tensor | None

    def save(self, path: Path) -> None:
        """Write to a safetensors file."""
        filled = {"mean": self.mean, "log_variance": self.log_variance}
        save_weights(path, {k: v for k, v in filled.items() if v is not None})

    @staticmethod
    def read(path: Path) -> Moments:
        """Read what `save` wrote."""
        tensors = read_weights(path)
        return Moments(tensors["mean"], tensors.get("log_variance"))


@torch.inference_mode()
def measure(first_stage: FirstStage, pixels: Iterator[Tensor]) -> tuple[Moments, Tensor]:
    """Moments in the first stage's present scale and, for the preview, pictures shrunk to the latents' size (N, P, h, w).

    `pixels` yields (B, C, H, W) in [-1, 1] on the first stage's device. Previews are on white: P is 3 where C is 4, else C.
    """
    means, log_variances, small = [], [], []
    for x in pixels:
        posterior = first_stage.posterior(x)
        means.append(posterior.mean.half().cpu())
        if posterior.log_variance is not None:
            log_variances.append(posterior.log_variance.half().cpu())
        small.append(F.adaptive_avg_pool2d(on_white(x), (posterior.mean.shape[2], posterior.mean.shape[3])).half().cpu())
    return Moments(torch.cat(means), torch.cat(log_variances) if log_variances else None), torch.cat(small)


def statistics(moments: Moments) -> tuple[Tensor, Tensor]:
    """Exact per-channel mean (C,) and standard deviation (C,) of latent samples, float64."""
    count = moments.mean.shape[0] * moments.mean.shape[2] * moments.mean.shape[3]
    total = torch.zeros(moments.mean.shape[1], dtype=torch.float64)
    squares, spread = torch.zeros_like(total), torch.zeros_like(total)
    for start in range(0, len(moments.mean), 256):
        mu = moments.mean[start : start + 256].double()
        total += mu.sum((0, 2, 3))
        squares += mu.square().sum((0, 2, 3))
        if moments.log_variance is not None:
            spread += moments.log_variance[start : start + 256].double().exp().sum((0, 2, 3))
    mean = total / count
    return mean, ((squares + spread) / count - mean.square()).clamp_min(1e-12).sqrt()


def fit_preview(moments: Moments, small: Tensor, mean: Tensor, std: Tensor, limit: int = 512) -> Tensor:
    """Least-squares map (C + 1, P), bias last, from unit latents to small pictures of P channels."""
    z = (moments.mean[:limit].double() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    inputs = z.movedim(1, -1).flatten(0, 2)  # (N h w, C)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
    targets = small[:limit].double().movedim(1, -1).flatten(0, 2)
    ridge = 1e-6 * torch.eye(inputs.shape[1], dtype=torch.float64)
    return torch.linalg.solve(inputs.T @ inputs / len(inputs) + ridge, inputs.T @ targets / len(inputs))


def normalize(first_stage: FirstStage, moments: Moments, small: Tensor, unit: bool = True) -> dict[str, list[float]]:
    """Measure the unit scale and store it in the first stage, where it has one; returns the numbers.

    Without `unit` latents stay as they are, mean 0 and scale 1, as a prior wants that the first stage was trained against.
    """
    mean, std = (
        statistics(moments)
        if unit
        else (torch.zeros(moments.mean.shape[1]).double(), torch.ones(moments.mean.shape[1]).double())
    )
    if isinstance(first_stage, LearnedFirstStage):
        first_stage.set_statistics(mean.float(), std.float(), fit_preview(moments, small, mean, std).float())
    return {"mean": mean.tolist(), "std": std.tolist()}


class Source(Protocol):
    """Batches of what a prior sees and of prepared conditions, as functions of the step."""

    def batch(self, step: int, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Prepared]:
        """(B, ...) latents or codes and their prepared conditions (B, ...)."""
        ...


class Draw:
    """Which of `count` pictures a step takes, and of how many `sides` which; weights as in `LatentSource`."""

    def __init__(self, count: int, sides: int, device: torch.device, seed: int, weights: Tensor | None):
        self.count, self.sides, self.device, self.seed = count, sides, device, seed
        self.weights = None if weights is None else weights.to(device)

    def __call__(self, step: int, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B,) int64 numbers of pictures and (B,) int64 of sides, on the device."""
        if self.weights is None:
            index = batch_indices(self.count, batch_size, self.seed, step).to(self.device)
        else:
            index = torch.multinomial(self.weights, batch_size, replacement=True, generator=rng)
        return index, torch.randint(self.sides, (batch_size,), generator=rng, device=self.device)


class LatentSource:
    """Batches of unit latents and prepared conditions, as functions of the step; all of it on the device.

    `conditions` says what each picture is told. With `flipped`, moments of the mirrored pictures, half of the draws take
    those. `weights` (N,) says how often each picture is drawn, with replacement; None is every picture once an epoch.
    """

    def __init__(
        self,
        moments: Moments,
        flipped: Moments | None,
        scale: tuple[Tensor, Tensor],
        conditions: ConditionSource,
        device: torch.device,
        seed: int,
        weights: Tensor | None = None,
    ):
        self.sides = [moments] if flipped is None else [moments, flipped]
        self.draw = Draw(len(moments.mean), len(self.sides), device, seed, weights)
        self.mean = torch.stack([m.mean for m in self.sides]).to(device)  # (S, N, C, h, w)
        logs = [m.log_variance for m in self.sides if m.log_variance is not None]
        self.log_variance = torch.stack(logs).to(device) if logs else None
        self.shift, self.scale = (s.to(device).view(-1, 1, 1) for s in scale)
        self.conditions = conditions
        self.device = device

    def __len__(self) -> int:
        return self.mean.shape[1]

    def batch(self, step: int, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Prepared]:
        """Latent samples (B, C, h, w) in unit scale, fp32, and their prepared conditions (B, ...)."""
        index, side = self.draw(step, batch_size, rng)
        z = self.mean[side, index].float()
        if self.log_variance is not None:
            eps = torch.randn(z.shape, generator=rng, device=self.device)
            z = z + torch.exp(0.5 * self.log_variance[side, index].float()) * eps
        return (z - self.shift) / self.scale, self.conditions.batch(index, side, rng)


@dataclass(frozen=True)
class Cached:
    """The moments on disk with their scale. `flipped`: those of the mirrored pictures."""

    moments: Moments
    flipped: Moments | None
    shift: Tensor
    scale: Tensor

    @staticmethod
    def read(paths: list[Path], scale: dict[str, Tensor]) -> Cached:
        """Read one file of moments, or two when pictures are mirrored too."""
        moments = [Moments.read(path) for path in paths]
        channels = moments[0].mean.shape[1]
        shift, std = scale.get("shift", torch.zeros(channels)), scale.get("scale", torch.ones(channels))
        return Cached(moments[0], moments[1] if len(moments) > 1 else None, shift, std)

    def source(
        self, conditions: ConditionSource, device: torch.device, seed: int, weights: Tensor | None = None
    ) -> LatentSource:
        """Batches of these latents with their pictures' conditions."""
        scale = (self.shift, self.scale)
        return LatentSource(self.moments, self.flipped, scale, conditions, device, seed, weights)
