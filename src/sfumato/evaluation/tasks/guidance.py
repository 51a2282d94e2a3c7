"""Class guidance: the Frechet distance, precision and recall over guidance scales, as a curve.

Ho & Salimans 2022 (arXiv 2207.12598, Fig. 4): precision rises with the scale, recall falls, and the distance has its least
value between. Every scale is measured with as many pictures against the same real ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.evaluation.report import number
from sfumato.evaluation.tasks.intervals import frechet_interval
from sfumato.metrics.bootstrap import Interval, mean_interval
from sfumato.metrics.precision_recall import precision_recall


@dataclass(frozen=True)
class GuidancePoint:
    """One scale (1 is without guidance). frechet: lower is better; precision, recall: higher, in [0, 1]."""

    scale: float
    frechet: Interval
    precision: Interval
    recall: Interval


def guidance_curve(
    features: Mapping[float, Tensor], real: Tensor, rng: torch.Generator, k: int = 3, num_resamples: int = 1000
) -> tuple[GuidancePoint, ...]:
    """features: (N, D) of the pictures of each scale; real: (N, D). In the order of the scales.

    Raises `ValueError` for other numbers of pictures and for no more than `k`.
    """
    points = []
    for scale in sorted(features):
        made = features[scale]
        frechet = frechet_interval(made, real, rng, min(200, num_resamples))
        precise, covered = precision_recall(real, made, k)
        shares = [mean_interval(flags.double(), rng, num_resamples) for flags in (precise, covered)]
        points.append(GuidancePoint(scale, frechet, shares[0], shares[1]))
    return tuple(points)


def guidance_table(points: Sequence[GuidancePoint]) -> str:
    """The curve as a Markdown table, with 95 % intervals."""

    def cell(value: Interval) -> str:
        return f"{number(value.value)} ({number(value.low)} to {number(value.high)})"

    lines = ["| guidance | FD-MobileNetV2 ↓ | precision ↑ | recall ↑ |", "|---|---|---|---|"]
    lines += [f"| {p.scale:g} | {cell(p.frechet)} | {cell(p.precision)} | {cell(p.recall)} |" for p in points]
    return "\n".join(lines) + "\n"
