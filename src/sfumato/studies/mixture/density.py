"""The mixture of Gaussians on a circle.

    p(x) = 1/M sum_k N(x; m_k, sigma^2 I),   m_k = r (cos(2 pi k / M), sin(2 pi k / M))
    H(p) = log M + 1 + log(2 pi sigma^2)      up to the overlap of the modes, which for the default is below 1e-12 nats

Metz et al. 2016 (arXiv 1611.02163, Sec. 3.1) showed on it how a GAN drops modes. Nats throughout: no model of this data can
have E[log p(x)] above -H(p).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError


@dataclass(frozen=True)
class Mixture:
    """`num_modes` Gaussians of deviation `sigma` at the corners of a regular polygon of circumradius `radius`."""

    num_modes: int = 8
    radius: float = 2.0
    sigma: float = 0.1

    def __post_init__(self) -> None:
        if self.num_modes < 2 or not self.sigma > 0 or not self.radius > 0:
            raise InputError(
                f"mixture: {self.num_modes} modes, radius {self.radius}, sigma {self.sigma}; "
                "expected 2 or more, above 0, above 0."
            )
        if self.separation < 6:
            raise InputError(
                f"mixture: neighbouring modes are {self.separation:.1f} sigma apart; expected 6 or more, so that "
                "a point has one mode. Take a smaller sigma or a larger radius."
            )

    @property
    def separation(self) -> float:
        """Distance of neighbouring centres in units of sigma."""
        return 2 * self.radius * math.sin(math.pi / self.num_modes) / self.sigma

    @property
    def entropy(self) -> float:
        """H(p) in nats, of modes that do not overlap."""
        return math.log(self.num_modes) + 1 + math.log(2 * math.pi * self.sigma**2)

    def centres(self) -> Tensor:
        """(M, 2) fp32, the first on the positive x axis."""
        angle = 2 * math.pi * torch.arange(self.num_modes) / self.num_modes
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def sample(self, count: int, rng: torch.Generator | None = None) -> Tensor:
        """(count, 2) points, fp32."""
        mode = torch.randint(self.num_modes, (count,), generator=rng)
        return self.centres()[mode] + self.sigma * torch.randn(count, 2, generator=rng)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of points (B, 2): (B,) nats, float64."""
        squared = (x.double()[:, None] - self.centres().double()).square().sum(2)  # (B, M)
        each = -0.5 * squared / self.sigma**2 - math.log(2 * math.pi * self.sigma**2)
        return torch.logsumexp(each, 1) - math.log(self.num_modes)

    def denoised(self, schedule: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], what a denoiser of these data would best answer: (B, 2), (B,) in (0, 1] -> (B, 2) in the type of x_t.

        Given the mode k, x_t ~ N(alpha m_k, v I) with v = alpha^2 sigma^2 + sigma_t^2, and
        E[x_0 | x_t, k] = m_k + alpha sigma^2 / v (x_t - alpha m_k).
        """
        alpha, sigma_t = (c[:, None, None] for c in schedule(t.double()))  # (B, 1, 1)
        centres, x = self.centres().double(), x_t.double()[:, None]
        variance = alpha.square() * self.sigma**2 + sigma_t.square()
        off = x - alpha * centres  # (B, M, 2)
        share = torch.softmax(-0.5 * off.square().sum(2, keepdim=True) / variance, 1)
        return (share * (centres + alpha * self.sigma**2 / variance * off)).sum(1).to(x_t)
