"""The flow on a mixture of eight normals on a circle, whose density is known: it finds every mode, near the entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.latent import Vector
from sfumato.networks.coupling import CouplingConfig
from sfumato.noise import SharedNoise
from sfumato.priors.flow import FlowConfig, FlowPrior, FlowSettings

RADIUS, STD, NUM_STEPS = 2.0, 0.4, 600
NONE = Conditioning()
ANGLES = torch.arange(8) * math.pi / 4
MEANS = RADIUS * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)


def draw(num: int, rng: torch.Generator) -> Tensor:
    """(num, 2) points of the mixture."""
    return MEANS[torch.randint(8, (num,), generator=rng)] + STD * torch.randn(num, 2, generator=rng)


def log_density(z: Tensor) -> Tensor:
    """Of the mixture itself, (B,) nats."""
    distances = (z[:, None] - MEANS).square().sum(2) / STD**2
    return torch.logsumexp(-0.5 * distances, 1) - math.log(8 * 2 * math.pi * STD**2)


def test_a_flow_learns_eight_modes_to_within_a_tenth_of_a_nat() -> None:
    """E[log p(z) - log q(z)] over fresh points is KL(p || q): the cross-entropy above the entropy."""
    torch.manual_seed(0)
    prior = FlowPrior(FlowConfig(CouplingConfig(2, num_scales=0, num_steps=8, width=128)), Vector(2))
    optimizer = torch.optim.Adam(prior.parameters())
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=NUM_STEPS)
    rng = torch.Generator().manual_seed(1)
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        prior.loss(draw(256, rng), NONE, rng).total.backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        plan.step()
    fresh = draw(8192, torch.Generator().manual_seed(9))
    with torch.no_grad():
        gap = float((log_density(fresh) - prior.log_prob(fresh, NONE)).mean())
    assert -0.02 < gap < 0.1, f"{gap:.3f} nats above the entropy"

    noise = SharedNoise(torch.Generator().manual_seed(2))
    samples = prior.sample((4000, 2), [(NONE, 1.0)], FlowSettings(), noise)
    shares = torch.cdist(samples, MEANS).argmin(1).bincount(minlength=8) / len(samples)
    assert float(shares.min()) > 0.08, f"shares of the modes: {shares.tolist()}, 0.125 each in the data"
    assert float(shares.max()) < 0.17, f"shares of the modes: {shares.tolist()}, 0.125 each in the data"
