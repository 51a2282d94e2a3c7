"""Intervals of numbers that are ratios over pictures, and of distances between sets of pictures.

What one picture holds (its boxes, its pixels) hangs together: whole pictures are resampled, never their parts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.metrics.bootstrap import Interval, bootstrap
from sfumato.metrics.frechet import frechet_distance, moments

Ratio = Callable[[Tensor], float]


def ratio_interval(part: Tensor, whole: Tensor, rng: torch.Generator, num_resamples: int = 1000) -> Interval:
    """Interval of sum(part) / sum(whole); (N,) each, what picture i adds to both. Pictures that add nothing are left out.

    Raises `ValueError` when none adds anything.
    """
    asked = whole > 0
    if not bool(asked.any()):
        raise ValueError("a ratio over pictures of which none has anything to count.")
    p, w = part[asked].double().cpu(), whole[asked].double().cpu()
    return bootstrap(len(p), lambda index: (p[index].sum() / w[index].sum()).item(), rng, num_resamples=num_resamples)


def frechet_interval(made: Tensor, real: Tensor, rng: torch.Generator, num_resamples: int = 200) -> Interval:
    """Frechet distance of (N, D) features to as many real ones, with a centred interval.

    One index resamples both sides: right for pairs, and for two independent samples of one size. Raises `InputError` for fewer
    than D + 1 pictures, whose covariance has no full rank.
    """
    if made.shape != real.shape:
        raise ValueError(f"the Frechet distance is compared at one number of pictures, not {len(made)} and {len(real)}.")
    count, dims = made.shape
    if count <= dims:
        raise InputError(
            f"the Frechet distance of {count} pictures needs {dims + 1} a side, for a covariance of {dims} features; give more."
        )

    def distance(index: Tensor) -> float:
        return frechet_distance(moments(made[index]), moments(real[index]))

    return bootstrap(len(made), distance, rng, num_resamples=num_resamples, centred=True)
