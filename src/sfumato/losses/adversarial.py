"""The discriminator's game, its gradient penalty, and the gauges that show when it hurts.

Logits of real pictures should be high, of reconstructions or generated pictures low:

    hinge (Lim & Ye 2017, arXiv 1705.02894):      d = 1/2 E[relu(1 - D(x))] + 1/2 E[relu(1 + D(x_hat))],  g = -E[D(x_hat)]
    non-saturating (Goodfellow et al. 2014, 1406.2661): d = 1/2 E[softplus(-D(x))] + 1/2 E[softplus(D(x_hat))],
                                                        g = E[softplus(-D(x_hat))]
    relativistic (Huang et al. 2024, arXiv 2501.05441, eq. 2):  d = E[softplus(D(x_hat) - D(x))],
                                                        g = E[softplus(D(x) - D(x_hat))],   pairs (x, x_hat)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import InputError


class Game(Enum):
    """Which losses the discriminator (`d`) and the decoder (`g`) play with."""

    HINGE = "hinge"
    NON_SATURATING = "non-saturating"
    RELATIVISTIC = "relativistic"

    def d(self, real: Tensor, fake: Tensor) -> Tensor:
        """Discriminator's loss, a scalar, of logits of any shape; of one shape and in pairs where it is relativistic."""
        real, fake = real.float(), fake.float()
        if self is Game.RELATIVISTIC:
            return F.softplus(fake - real).mean()
        if self is Game.HINGE:
            return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())

    def g(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Decoder's loss, a scalar, of the logits of its pictures; a relativistic one asks for their real partners' too."""
        if self is Game.RELATIVISTIC:
            assert real is not None, "a relativistic game is played in pairs"
            return F.softplus(real.float() - fake.float()).mean()
        return -fake.float().mean() if self is Game.HINGE else F.softplus(-fake.float()).mean()


def adaptive_weight(nll: Tensor, gan: Tensor, last_layer: nn.Parameter) -> Tensor:
    """||grad nll|| / (||grad gan|| + 1e-4) at the decoder's last layer, clamped to [0, 1e4], detached, a scalar.

    It makes both terms pull equally hard on the last layer (Esser, Rombach, Ommer 2020, arXiv 2012.09841, eq. 7).
    Keeps the graph, so that the losses can be descended afterwards. Multiply by the discriminator's own weight.
    """
    (pull,) = torch.autograd.grad(nll, last_layer, retain_graph=True)
    (push,) = torch.autograd.grad(gan, last_layer, retain_graph=True)
    weight = pull.detach().float().norm() / (push.detach().float().norm() + 1e-4)
    return weight.clamp(0, 1e4)


def gradient_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """1/2 E ||grad_x D(x)||^2 at pictures x (B, ...) that require a gradient; the graph is kept, to descend it.

    R1 at real pictures, R2 at generated ones (Mescheder et al. 2018, arXiv 1801.04406, eqs. 9 and 10).
    """
    (slope,) = torch.autograd.grad(logits.float().sum(), x, create_graph=True)
    return 0.5 * slope.float().flatten(1).square().sum(1).mean()


def gauges(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """What to watch, detached scalars.

    logit_gap: mean real logit minus mean fake logit. Near 0 the discriminator sees no difference and its gradient is
    noise; far above 2 (both hinges satisfied) it has won and the decoder is pushed without being shown where to go.
    d_accuracy: share of logits on the right side of 0.
    """
    real, fake = real.detach().float(), fake.detach().float()
    right = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
    return {"logit_gap": real.mean() - fake.mean(), "d_accuracy": right}


@dataclass(frozen=True)
class GanStartConfig:
    """When the GAN term joins.

    step: join at this step; None waits until reconstruction has settled, but not beyond `latest`.
    window: steps averaged into one reading. tolerance: settled when a reading is less than this share below the last.
    earliest, latest: bounds in steps of a settled start. ramp: steps over which the factor rises from 0 to 1.
    """

    step: int | None = None
    window: int = 500
    tolerance: float = 0.02
    earliest: int = 0
    latest: int | None = None
    ramp: int = 0

    def __post_init__(self) -> None:
        if self.step is not None and self.step < 0:
            raise InputError(f"GAN start step {self.step} is negative; give 0 or more, or none to wait for a plateau.")
        if self.window < 1 or self.ramp < 0:
            raise InputError(f"GAN start window {self.window} and ramp {self.ramp}: expected at least 1 and 0 steps.")
        if not 0 <= self.tolerance < 1:
            raise InputError(f"GAN start tolerance {self.tolerance} is outside [0, 1).")


class GanStart:
    """Watches the reconstruction error and says how much the GAN term counts: 0 before the start, then up to 1.

    Feed it a positive error (mean |x - x_hat|), not the nll, whose learned variance moves its zero.
    The state is three numbers and the start; a resumed run goes on exactly.
    """

    def __init__(self, config: GanStartConfig) -> None:
        self.config = config
        self.started_at = config.step
        self._sum, self._count = 0.0, 0
        self._last: float | None = None

    def update(self, step: int, error: float) -> None:
        """Tell the error at `step`; once started it stays so. Errors that are not finite are not counted."""
        if self.started_at is not None:
            return
        if self.config.latest is not None and step >= self.config.latest:
            self.started_at = step
            return
        if not math.isfinite(error):
            return
        self._sum, self._count = self._sum + error, self._count + 1
        if self._count < self.config.window:
            return
        reading, self._sum, self._count = self._sum / self._count, 0.0, 0
        settled = self._last is not None and self._last - reading < self.config.tolerance * abs(self._last)
        self._last = reading
        if settled and step >= self.config.earliest:
            self.started_at = step

    def factor(self, step: int) -> float:
        """0 before the start, 1 after the ramp, linear between."""
        if self.started_at is None or step < self.started_at:
            return 0.0
        if self.config.ramp == 0:
            return 1.0
        return min(1.0, (step - self.started_at + 1) / self.config.ramp)

    def state_dict(self) -> dict[str, Any]:
        return {"started_at": self.started_at, "sum": self._sum, "count": self._count, "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.started_at = state["started_at"]
        self._sum, self._count = float(state["sum"]), int(state["count"])
        self._last = None if state["last"] is None else float(state["last"])
