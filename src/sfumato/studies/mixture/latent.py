"""LDM: a KL first stage with a slight KL weight, then diffusion over its latents.

    log p(x) >= E_q [ log p(x | z) - log q(z | x) + log p(z) ],   log p(z) >= the bound of the diffusion

(Rombach et al. 2021, arXiv 2112.10752; the bound is that of Vahdat et al. 2021, arXiv 2106.05931, eq. 4.) Two numbers are not
made fewer here, so nothing is saved; what the plane shows is the other half of the idea: a first stage that is free to lay its
latents as it likes, and a prior that learns where they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sfumato.studies.mixture.base import Evidence, Model
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.diffusion import DenoiserOfPoints, Diffusion
from sfumato.studies.mixture.fit import Budget, Curve, fit
from sfumato.studies.mixture.modes import judge
from sfumato.studies.mixture.networks import noise
from sfumato.studies.mixture.variational import PointStage, StageOfPoints


@dataclass(frozen=True)
class LatentOfPoints:
    """stage: the first, whose kl_weight is small. first: share of the budget that it gets."""

    stage: StageOfPoints = field(default_factory=lambda: StageOfPoints(width=64, depth=3, kl_weight=0.05))
    prior: DenoiserOfPoints = field(default_factory=DenoiserOfPoints)
    first: float = 0.5


class LatentDiffusion(Model):
    """x ~ p(x | z), z by diffusion."""

    evidence = Evidence.bound

    def __init__(self, config: LatentOfPoints | None = None):
        super().__init__()
        self.config = config or LatentOfPoints()
        self.stage = PointStage(self.config.stage)
        self.prior = Diffusion(replace(self.config.prior))

    def learn(self, mixture: Mixture, budget: Budget, rng: torch.Generator) -> Curve:
        """Both stages, latents standardised in between; the curve is the prior's, its steps are counted together."""
        c = self.config

        def first(step: int) -> Tensor:
            return self.stage.loss(mixture.sample(c.stage.batch_size, rng), c.stage.kl_weight, rng)

        before = fit(
            first, self.stage.parameters(), budget.part(c.first), c.stage.learning_rate, fast=[self.stage.log_variance]
        )
        with torch.no_grad():
            z = self.stage.posterior(mixture.sample(8192, rng)).sample(rng)
            self.stage.set_statistics(z.mean(0), z.std(0))

        def second(step: int) -> Tensor:
            with torch.no_grad():
                z = self.stage.posterior(mixture.sample(c.prior.batch_size, rng)).sample(rng)
            return self.prior.loss(z, rng)

        curve = fit(second, self.prior.parameters(), budget.part(1 - c.first), c.prior.learning_rate)
        curve.steps += before.steps
        return curve

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, 2)."""
        return self.stage.draw(self.prior.sample(count, rng), rng)

    @torch.no_grad()
    def log_prob(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 2) -> (B,) nats, at most log p(x)."""
        posterior = self.stage.posterior(x)
        z = posterior.sample(rng)
        given = self.stage.likelihood()(x, self.stage.decode(z))
        return given - posterior.log_prob(z) + self.prior.log_prob(z, rng)

    @torch.no_grad()
    def details(self, mixture: Mixture, x: Tensor, rng: torch.Generator) -> dict[str, Any]:
        """What the same first stage draws when its latents are taken for N(0, 1); and how narrow q(z | x) is, in unit scale."""
        plain = judge(self.stage.draw(noise((4000, 2), rng), rng), mixture)
        log_variance = self.stage.posterior(x).log_variance
        assert log_variance is not None
        return {
            "normal_found": plain.found,
            "normal_near": plain.near,
            "kl_weight": self.config.stage.kl_weight,
            "posterior_sigma": float((0.5 * log_variance).exp().mean()),
        }
