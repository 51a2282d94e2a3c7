"""p(z | cond): the contract of a prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning, Twins
from sfumato.latent import Latent
from sfumato.noise import NoiseSource


@dataclass(frozen=True)
class Loss:
    """A scalar to descend and detached scalars to log."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One step of sampling: number `index` of `total`, the state and the present estimate of the clean latent."""

    index: int
    total: int
    z_t: Tensor
    z_0: Tensor


S = TypeVar("S")


class Prior(nn.Module, ABC, Generic[S]):
    """A distribution over latents. S: the prior's own frozen sampling settings."""

    latent: Latent

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """What does the work, the part that is worth compiling."""

    @abstractmethod
    def loss(self, z: Tensor, cond: Conditioning, rng: torch.Generator | None) -> Loss:
        """Training loss of clean latents z (B, ...), averaged over the batch."""

    @abstractmethod
    def steps(self, shape: Sequence[int], twins: Twins, settings: S, noise: NoiseSource) -> Iterator[Step]:
        """Sample latents of `shape` (B, ...) step by step; the last step's `z_t` is the sample."""

    @torch.no_grad()
    def sample(self, shape: Sequence[int], twins: Twins, settings: S, noise: NoiseSource) -> Tensor:
        """Sample latents of `shape` (B, ...)."""
        last: Step | None = None
        for step in self.steps(shape, twins, settings, noise):
            last = step
        assert last is not None, "a prior yields at least one step"
        return last.z_t


class Density(Protocol):
    """A prior whose likelihood is exact: autoregressive, flow, normal."""

    def log_prob(self, z: Tensor, cond: Conditioning) -> Tensor:
        """log p(z | cond) of latents z (B, ...), summed over dimensions: (B,) nats."""
        ...
