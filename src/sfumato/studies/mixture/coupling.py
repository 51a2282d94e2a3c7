"""Flow: the library's coupling flow over a vector of two numbers, `priors.flow.FlowPrior`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.latent import Vector
from sfumato.networks.coupling import CouplingConfig
from sfumato.noise import SharedNoise
from sfumato.priors.flow import FlowConfig, FlowPrior, FlowSettings
from sfumato.studies.mixture.base import Evidence, Model
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.fit import Budget, Curve, fit

NOTHING = Conditioning()


@dataclass(frozen=True)
class FlowOfPoints:
    """Which flow, and how it is trained. clip: largest norm of a gradient; beyond it a deep flow jumps now and then."""

    network: CouplingConfig = field(default_factory=lambda: CouplingConfig(2, num_scales=0, num_steps=8, width=64))
    batch_size: int = 256
    learning_rate: float = 2e-3
    clip: float = 0.2


class Flow(Model):
    """log p(x) = log N(f(x); 0, 1) + log |det df/dx|, exact."""

    evidence = Evidence.exact

    def __init__(self, config: FlowOfPoints | None = None):
        super().__init__()
        self.config = config or FlowOfPoints()
        self.prior = FlowPrior(FlowConfig(self.config.network), Vector(2))

    def learn(self, mixture: Mixture, budget: Budget, rng: torch.Generator) -> Curve:
        """Maximum likelihood; the first batch sets the activation norms."""

        def loss(step: int) -> Tensor:
            return self.prior.loss(mixture.sample(self.config.batch_size, rng), NOTHING, rng).total

        c = self.config
        return fit(loss, self.prior.parameters(), budget, c.learning_rate, betas=(0.9, 0.999), clip=c.clip)

    @torch.no_grad()
    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, 2)."""
        return self.prior.sample((count, 2), [(NOTHING, 1.0)], FlowSettings(), SharedNoise(rng))

    @torch.no_grad()
    def log_prob(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 2) -> (B,) nats."""
        return self.prior.log_prob(x, NOTHING)
