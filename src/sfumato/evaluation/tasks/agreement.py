"""Semantic synthesis: how far the map recovered from a picture agrees with the map that was given.

    pixel accuracy = sum_k n_kk / sum_k t_k,    IoU_k = n_kk / (t_k + f_k - n_kk),

n_kk pixels of class k in both maps, t_k in the given one, f_k in the recovered one, over all pictures; mean IoU is over the
classes that are given anywhere (Long, Shelhamer, Darrell 2015, arXiv 1411.4038, Sec. 5). The recovery (`recovery`) errs
by itself: the same of the true pictures is the ceiling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.evaluation.tasks.intervals import ratio_interval
from sfumato.metrics.bootstrap import Interval, bootstrap


@dataclass(frozen=True)
class Agreement:
    """accuracy, mean_iou: in [0, 1], higher is better. iou: of each class, nan for one that is nowhere. count: pictures."""

    accuracy: Interval
    mean_iou: Interval
    iou: tuple[float, ...]
    count: int


def agreement(
    found: Tensor, given: Tensor, num_classes: int, rng: torch.Generator, ignored: int | None = None, num_resamples: int = 1000
) -> Agreement:
    """found, given: (N, H, W) class numbers from 0; pixels whose given one is `ignored` don't count.

    Raises `ValueError` for other shapes and numbers.
    """
    if found.shape != given.shape or given.ndim != 3:
        raise ValueError(f"maps {tuple(found.shape)} against {tuple(given.shape)}: (N, H, W) of one size is needed.")
    both, true, seen = _counts(found.long().cpu(), given.long().cpu(), num_classes, ignored)  # (N, K) each
    asked = true.sum(0) > 0

    def ious(index: Tensor) -> Tensor:
        n, t, f = both[index].sum(0), true[index].sum(0), seen[index].sum(0)
        return n / (t + f - n)  # nan where the class is nowhere

    def mean(index: Tensor) -> float:
        return ious(index)[asked].nanmean().item()

    accuracy = ratio_interval(both.sum(1), true.sum(1), rng, num_resamples)
    spread = bootstrap(len(given), mean, rng, num_resamples=num_resamples)
    values = tuple(v if here else math.nan for v, here in zip(ious(torch.arange(len(given))).tolist(), asked.tolist()))
    return Agreement(accuracy, spread, values, len(given))


def _counts(found: Tensor, given: Tensor, num_classes: int, ignored: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K) float64 each: pixels of a class in both maps, in the given one, in the recovered one."""
    counted = torch.ones_like(given, dtype=torch.bool) if ignored is None else given != ignored
    for what, map in (("recovered", found), ("given", given)):
        if bool(((map < 0) | (map >= num_classes))[counted].any()):
            raise ValueError(f"a {what} map has a class outside of 0 to {num_classes - 1}.")
    row = torch.arange(len(given))[:, None, None] * num_classes

    def count(map: Tensor, where: Tensor) -> Tensor:
        numbers = torch.bincount((row + map)[where], minlength=len(given) * num_classes)
        return numbers.view(len(given), num_classes).double()

    return count(given, counted & (found == given)), count(given, counted), count(found, counted)
