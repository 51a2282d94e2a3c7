"""Guidance by the gradient of a score, without retraining: x_0 is moved to where what is wanted is more likely.

    E[x_0 | x_t, y] = E[x_0 | x_t] + (sigma_t^2 / alpha_t) grad_{x_t} log p(y | x_t)

exactly, by Tweedie's formula at x_t = alpha_t x_0 + sigma_t eps; in eps it is eps - sigma_t grad log p (Dhariwal & Nichol
2021, arXiv 2105.05233, algorithm 2; Rombach et al. 2021, arXiv 2112.10752, appendix C). What is known is not p(y | x_t) but a
score of clean latents, taken at the estimate,

    x_0_hat <- x_0_hat + scale (sigma_t^2 / alpha_t) grad_{x_t} score(x_0_hat(x_t), t)

through the network: its Jacobian times sigma_t^2 / alpha_t is the covariance of x_0 given x_t, so that the step has the right
size of itself wherever `score` is a log-likelihood in nats. A score that is told t can widen by what x_0_hat is not yet sure
of; where it does so exactly, so is the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.diffusion.prediction import rows
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError

Score = Callable[[Tensor, Tensor], Tensor]
"""(x_0 (B, ...), t (B,)) -> (B,): log p(what is wanted | x_0) up to a constant, differentiable in x_0."""

Estimate = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), t (B,)) -> x_0 (B, ...)."""

SMALLEST_ALPHA = 0.05
"""Smaller alphas are taken for this one: there x_t says almost nothing of x_0, and dividing by alpha enlarges what a network's
Jacobian has wrong. Where alpha is 0 nothing is moved."""


@dataclass(frozen=True, eq=False)
class Guide:
    """A score and how strongly it pulls: 1 as the formula has it, 0 not at all. Raises `InputError` for another scale."""

    score: Score
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise InputError(f"guide scale {self.scale}: expected a finite number; 1 is the score as it is.")

    def __call__(self, estimate: Estimate, x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        """The moved estimate of x_0 at x_t (B, ...), t (B,). Also under `torch.inference_mode`, which it leaves.

        Costs a backward pass through network and score. Raises `InputError` for a score that is not (B,) or has no gradient.
        """
        alpha, sigma = schedule(t)
        if self.scale == 0 or not bool((alpha > 0).any()):
            return estimate(x_t, t)
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.clone().requires_grad_()
            x_0 = estimate(x, t.clone())
            gradient = _gradient(self.score(x_0, t.clone()), x)
        step = torch.where(alpha > 0, self.scale * sigma**2 / alpha.clamp(min=SMALLEST_ALPHA), 0.0)  # (B,)
        return x_0.detach() + rows(step, x_0) * gradient.to(x_0.dtype)


def _gradient(score: Tensor, x: Tensor) -> Tensor:
    if score.shape != x.shape[:1]:
        raise InputError(f"the guide's score has shape {tuple(score.shape)}; expected ({len(x)},), one number a picture.")
    if not score.requires_grad:
        raise InputError("the guide's score has no gradient: compute it from the latents it is given, without detaching them.")
    (gradient,) = torch.autograd.grad(score.sum(), x)
    return gradient
