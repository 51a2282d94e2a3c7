"""Autoregressive: the transformer of `networks.gpt` over the two coordinates, each one of 256 codes.

    p(x) = P(c_1) P(c_2 | c_1) / w^2,   c_i = floor((x_i + e) / w),   w = 2 e / 256

x lies within [-e, e): it is uniform in its cell of side w, so that log p is a density and can be held against the others'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.latent import Codes
from sfumato.networks.gpt import GPTConfig
from sfumato.noise import SharedNoise
from sfumato.priors.autoregressive import AutoregressiveConfig, AutoregressivePrior, AutoregressiveSettings
from sfumato.studies.mixture.base import Evidence, Model
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.fit import Budget, Curve, fit

NOTHING = Conditioning()


@dataclass(frozen=True)
class CodesOfPoints:
    """extent: e, half the side of the square that is cut into cells. The rest: which transformer, and how it is trained."""

    vocabulary: int = 256
    extent: float = 3.0
    dim: int = 32
    depth: int = 1
    heads: int = 2
    batch_size: int = 256
    learning_rate: float = 4e-3

    @property
    def cell(self) -> float:
        """w, the side of a cell."""
        return 2 * self.extent / self.vocabulary


class Autoregressive(Model):
    """log p(x) = log P(c_1) + log P(c_2 | c_1) - 2 log w, exact; -inf outside the square."""

    evidence = Evidence.exact

    def __init__(self, config: CodesOfPoints | None = None):
        super().__init__()
        self.config = c = config or CodesOfPoints()
        network = GPTConfig(c.vocabulary, height=1, width=1, channels=2, dim=c.dim, depth=c.depth, heads=c.heads)
        self.prior = AutoregressivePrior(AutoregressiveConfig(network), Codes((1,), c.vocabulary, channels=2))

    def encode(self, x: Tensor) -> Tensor:
        """(B, 2) -> codes (B, 2, 1, 1); what lies outside the square gets the nearest cell."""
        code = ((x + self.config.extent) / self.config.cell).floor().long()
        return code.clamp(0, self.config.vocabulary - 1)[:, :, None, None]

    def learn(self, mixture: Mixture, budget: Budget, rng: torch.Generator) -> Curve:
        """Maximum likelihood of the codes; the curve is in nats a code."""

        def loss(step: int) -> Tensor:
            return self.prior.loss(self.encode(mixture.sample(self.config.batch_size, rng)), NOTHING, rng).total

        return fit(loss, self.prior.parameters(), budget, self.config.learning_rate)

    @torch.no_grad()
    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, 2), uniform in their cells."""
        settings, twins = AutoregressiveSettings(), [(NOTHING, 1.0)]
        codes = self.prior.sample((count, 2, 1, 1), twins, settings, SharedNoise(rng))[:, :, 0, 0]
        return (codes + torch.rand(codes.shape, generator=rng)) * self.config.cell - self.config.extent

    @torch.no_grad()
    def log_prob(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 2) -> (B,) nats."""
        inside = ((x >= -self.config.extent) & (x < self.config.extent)).all(1)
        log_prob = self.prior.log_prob(self.encode(x), NOTHING) - 2 * math.log(self.config.cell)
        return torch.where(inside, log_prob, -math.inf)

    def details(self, mixture: Mixture, x: Tensor, rng: torch.Generator) -> dict[str, Any]:
        """The side of a cell."""
        return {"cell": self.config.cell}
