"""q(z | x): what an encoder says about the latent of a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DiagonalGaussian:
    """q(z | x) = N(mean, diag(exp(log_variance))), both (B, C, h, w)  (Kingma & Welling 2013, arXiv 1312.6114).

    A deterministic encoder is the same with `log_variance=None`.
    """

    mean: Tensor
    log_variance: Tensor | None = None

    def sample(self, rng: torch.Generator | None = None) -> Tensor:
        """z = mean + std * eps, eps ~ N(0, 1) from `rng`."""
        if self.log_variance is None:
            return self.mean
        eps = torch.randn(self.mean.shape, generator=rng, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.log_variance) * eps

    def mode(self) -> Tensor:
        """The most likely latent."""
        return self.mean

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) summed over dimensions, (B,) nats."""
        if self.log_variance is None:
            raise ValueError("a deterministic posterior has no KL divergence; use a KL first stage")
        terms = self.mean.square() + self.log_variance.exp() - 1 - self.log_variance
        return 0.5 * terms.flatten(1).sum(1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) summed over dimensions, (B,) nats."""
        if self.log_variance is None:
            raise ValueError("a deterministic posterior has no density; use a KL first stage")
        terms = (z - self.mean).square() / self.log_variance.exp() + self.log_variance + math.log(2 * math.pi)
        return -0.5 * terms.flatten(1).sum(1)

    def affine(self, shift: Tensor, scale: Tensor) -> DiagonalGaussian:
        """The posterior of (z - shift) / scale; `shift` and `scale` broadcast to `mean`."""
        moved = None if self.log_variance is None else self.log_variance - 2 * torch.log(scale)
        return DiagonalGaussian((self.mean - shift) / scale, moved)
