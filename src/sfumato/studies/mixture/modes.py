"""Which modes a model found, and how much of what it draws lies on none.

A point is *near* a mode within 3 sigma of its centre, where a share 1 - exp(-9/2) = 0.989 of the data lies. A mode is *found*
when a quarter of its fair share of the points, 1 / (4 M), is near it: a model that gives a mode less has dropped it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.studies.mixture.density import Mixture

REACH = 3.0  # sigma
FAIR = 0.25  # of a mode's fair share
NEAR_OF_DATA = 1 - math.exp(-(REACH**2) / 2)


@dataclass(frozen=True)
class Modes:
    """found: how many modes. near: share of the points that are near any. shares: of the points near each, in order.

    imbalance: KL(q || uniform) in nats, where q are the shares scaled to sum 1: 0 where all are served alike, log M where one
    has everything; infinite where no point is near any.
    """

    found: int
    near: float
    shares: tuple[float, ...]
    imbalance: float


def judge(points: Tensor, mixture: Mixture) -> Modes:
    """The modes among (N, 2) points. Raises `InputError` for fewer than 100 points a mode: too few to call one dropped."""
    if len(points) < 100 * mixture.num_modes:
        raise InputError(f"modes: got {len(points)} points, expected {100 * mixture.num_modes} or more, 100 a mode.")
    near = torch.cdist(points.float(), mixture.centres()) < REACH * mixture.sigma  # (N, M)
    shares = near.double().mean(0)
    total = float(shares.sum())
    imbalance = math.inf if total == 0 else math.log(mixture.num_modes) - float(torch.special.entr(shares / total).sum())
    found = int((shares >= FAIR / mixture.num_modes).sum())
    return Modes(found, float(near.any(1).double().mean()), tuple(shares.tolist()), max(0.0, imbalance))
