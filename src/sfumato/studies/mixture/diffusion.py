"""Diffusion over points: the library's denoiser, schedules, samplers and bounds around a small network.

DDPM: the linear betas and L_simple of Ho et al. 2020 (arXiv 2006.11239), whose bound on log p(x) has for its last term

    L_0 = -log N(x_0; x_0_hat(x_t), sigma_t^2 / alpha_t^2)     at the last t, a density, as these data are no 8-bit values

Rectified: straight paths and velocity (Liu et al. 2022, arXiv 2209.03003). Its flow dx/dt = v(x, t) has an exact likelihood

    log p(x_0) = log N(x_1; 0, 1) + integral over t of div v(x_t, t)       (Chen et al. 2018, arXiv 1806.07366, eq. 8)

up to the steps of the integration; in two dimensions the divergence costs two derivatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.diffusion.bounds import Estimate, prior_term, terms
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.grids import Spacing, times
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.diffusion.weighting import TimeSampling, Weighting, sample_times, weight
from sfumato.losses.likelihood import GaussianLikelihood
from sfumato.noise import SharedNoise
from sfumato.samplers import DDPM, Euler, Sampler, run
from sfumato.studies.mixture.base import Evidence, Model
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.fit import Budget, Curve, fit
from sfumato.studies.mixture.networks import PointDenoiser, noise

NOTHING = Conditioning()
LINEAR = ScheduleConfig(ScheduleName.linear, 1e-4, 0.02)
STRAIGHT = ScheduleConfig(ScheduleName.rectified)


@dataclass(frozen=True)
class DenoiserOfPoints:
    """As `priors.diffusion.DiffusionConfig`, with what samples it. bound_steps: of the chain whose bound is taken, or of the
    integration of the flow."""

    schedule: ScheduleConfig = LINEAR
    prediction: Prediction = Prediction.eps
    weighting: Weighting = Weighting.simple
    sampler: Sampler = field(default_factory=DDPM)
    spacing: Spacing = Spacing.trailing
    num_steps: int = 100
    bound_steps: int = 1000
    width: int = 128
    depth: int = 3
    batch_size: int = 512
    learning_rate: float = 3e-3


RECTIFIED = DenoiserOfPoints(STRAIGHT, Prediction.velocity, sampler=Euler(), num_steps=50, bound_steps=60)


@dataclass(frozen=True)
class PlaneBound:
    """The terms of the bound on -log p(x_0), in nats: prior L_T (B,), steps L_{t-1} (B, N - 1), last L_0 (B,).

    times: (N + 1,) from 1 to 0.
    """

    times: Tensor
    prior: Tensor
    steps: Tensor
    last: Tensor

    @property
    def total(self) -> Tensor:
        """(B,) nats."""
        return self.prior + self.steps.sum(1) + self.last


class Diffusion(Model):
    """Noise, denoised step by step; log_prob is minus the variational bound."""

    evidence = Evidence.bound

    def __init__(self, config: DenoiserOfPoints | None = None):
        super().__init__()
        self.config = c = config or DenoiserOfPoints()
        self.denoiser = Denoiser(PointDenoiser(c.width, c.depth), make_schedule(c.schedule), c.prediction)

    def loss(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """The squared error in the network's own output space (eq. 14 of Ho et al. 2020), averaged; x (B, 2)."""
        t = sample_times(TimeSampling.stratified, len(x), self.denoiser.schedule, rng)
        eps = noise((len(x), 2), rng)
        output = self.denoiser.output(self.denoiser.noised(x, eps, t), t, NOTHING)
        error = (output - self.denoiser.target(x, eps, t)).square().mean(1)
        return (error * weight(self.config.weighting, self.denoiser.schedule, self.config.prediction, t)).mean()

    def learn(self, mixture: Mixture, budget: Budget, rng: torch.Generator) -> Curve:
        """Descend `loss`."""

        def loss(step: int) -> Tensor:
            return self.loss(mixture.sample(self.config.batch_size, rng), rng)

        return fit(loss, self.denoiser.parameters(), budget, self.config.learning_rate)

    @torch.no_grad()
    def estimate(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t]: (B, 2), (B,) -> (B, 2)."""
        return self.denoiser(x_t, t, NOTHING).x_0

    @torch.no_grad()
    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, 2)."""
        c, source = self.config, SharedNoise(rng)
        plan = times(c.spacing, self.denoiser.schedule, c.num_steps)
        return run(c.sampler, self.denoiser.schedule, plan, noise((count, 2), rng), source, self.estimate)

    @torch.no_grad()
    def bound(self, x: Tensor, rng: torch.Generator, estimate: Estimate | None = None) -> PlaneBound:
        """The terms for (B, 2), by one draw of x_t at each time; of another estimate of x_0 where one is given."""
        schedule, estimate = self.denoiser.schedule, estimate or self.estimate
        plan = times(Spacing.trailing, schedule, self.config.bound_steps)  # all rows of the table where it has as many
        found = list(terms(estimate, schedule, x, SharedNoise(rng), plan, eight_bit=False))
        steps = torch.stack([term.nats for term in found if term.nats is not None], 1)
        spread = float(schedule.sigma_ratio(plan[-2:-1])) ** 2
        last = -GaussianLikelihood(math.log(spread))(x, found[-1].x_0)
        return PlaneBound(plan, prior_term(schedule, x), steps, last)

    def log_prob(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 2) -> (B,) nats, at most log p(x)."""
        return -self.bound(x, rng).total

    def details(self, mixture: Mixture, x: Tensor, rng: torch.Generator) -> dict[str, Any]:
        """The bound term by term: L_T, the steps in ten equal parts of time from noise to data, and L_0.

        best_excess: of the best denoiser of these data over the same steps, which is the price of their number.
        """
        x = x[:256]
        found = self.bound(x, rng)
        best = self.bound(x, rng, lambda x_t, t: mixture.denoised(self.denoiser.schedule, x_t, t))
        excess = mixture.log_prob(x) + best.total
        parts = [float(part.sum(1).mean()) for part in found.steps.tensor_split(10, dim=1)]
        ends = {"L_T": float(found.prior.mean()), "L_0": float(found.last.mean())}
        return {**ends, "steps": parts, "best_excess": float(excess.mean()), "calls": self.config.num_steps}


class Rectified(Diffusion):
    """Straight paths; log_prob is that of the flow, exact up to its integration by Heun's method."""

    evidence = Evidence.exact

    def __init__(self, config: DenoiserOfPoints | None = None):
        super().__init__(config or RECTIFIED)
        assert self.config.prediction is Prediction.velocity
        assert not self.denoiser.schedule.discrete

    def log_prob(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 2) -> (B,) nats: walk the flow from t = 0 to 1, adding up its divergence."""
        total = torch.zeros(len(x))
        plan = torch.linspace(0, 1, self.config.bound_steps + 1)
        for t, s in pairwise(plan):
            slope, spread = self._velocity(x, t)
            ahead, spread_ahead = self._velocity(x + (s - t) * slope, s)
            x = x + (s - t) * (slope + ahead) / 2
            total = total + (s - t) * (spread + spread_ahead) / 2
        return total - 0.5 * (x.square() + math.log(2 * math.pi)).sum(1)

    def _velocity(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """v (B, 2) and its divergence (B,)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            v = self.denoiser.output(x, t.expand(len(x)), NOTHING)
            spread = torch.zeros(len(x), dtype=x.dtype)
            for axis in range(2):
                (row,) = torch.autograd.grad(v[:, axis].sum(), x, retain_graph=axis == 0)
                spread = spread + row[:, axis]
        return v.detach(), spread.detach()

    def details(self, mixture: Mixture, x: Tensor, rng: torch.Generator) -> dict[str, Any]:
        """Calls of the network a sample."""
        return {"calls": self.config.num_steps}
