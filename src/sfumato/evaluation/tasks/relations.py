"""Relational text: how often a picture made for "A left of B" has A left of B.

Both things are looked for in the map recovered from the picture: a class is there when it covers at least `LEAST` of the
pixels, and stands where the median of its pixels' coordinates is (which few wrong pixels don't move). Left of: x_A < x_B;
above: y_A < y_B; and the other way round. A picture where one of the two is missing is wrong. A blind guess that draws both
is right half of the time; the same of the true pictures is the ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import unknown
from sfumato.metrics.bootstrap import Interval, mean_interval

LEAST = 0.002
_AXIS = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}  # coordinate, sign of object - subject
RELATIONS = tuple(_AXIS)


@dataclass(frozen=True)
class Asked:
    """subject, object: class numbers in the maps, two different ones. relation: of `RELATIONS`. Raises `ValueError` else."""

    subject: int
    relation: str
    object: int

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise unknown("relation", self.relation, RELATIONS)
        if self.subject == self.object:
            raise ValueError(f"class {self.subject} to itself: two things of one class can't be told apart in a map.")


@dataclass(frozen=True)
class Relational:
    """right: share of all pictures. found: share where both things are. right_where_found: among those, None without any.

    correct: (N,) bool.
    """

    right: Interval
    found: Interval
    right_where_found: Interval | None
    correct: Tensor


def relational(maps: Tensor, asked: Sequence[Asked], rng: torch.Generator, num_resamples: int = 1000) -> Relational:
    """maps: (N, H, W) class numbers recovered from N pictures; asked: what the text of each says."""
    if len(maps) != len(asked) or not asked:
        raise ValueError(f"{len(maps)} maps for {len(asked)} relations: one each is needed.")
    found, correct = [], []
    for map, wanted in zip(maps.cpu(), asked, strict=True):
        first, second = (_place(map, number) for number in (wanted.subject, wanted.object))
        axis, sign = _AXIS[wanted.relation]
        found.append(first is not None and second is not None)
        correct.append(first is not None and second is not None and sign * (second[axis] - first[axis]) > 0)
    there, right = torch.tensor(found), torch.tensor(correct)
    among = mean_interval(right[there], rng, num_resamples) if bool(there.any()) else None
    return Relational(mean_interval(right, rng, num_resamples), mean_interval(there, rng, num_resamples), among, right)


def _place(map: Tensor, number: int) -> tuple[float, float] | None:
    """(x, y) of a class in an (H, W) map, None where it is not."""
    rows, columns = (map == number).nonzero(as_tuple=True)
    if len(rows) < max(1, LEAST * map.numel()):
        return None
    return columns.float().median().item(), rows.float().median().item()
