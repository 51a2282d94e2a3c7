"""Retrieval@1: does a picture generated for pair i look more like the real picture i than like any other of its group?

In each group (a style) features are centred by the mean of the group's real pictures and compared by the cosine; the
query's nearest real picture should be its own. Centring takes away what all pictures of the group share.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def retrieval_at_1(queries: Tensor, real: Tensor, groups: Sequence[str], own: Sequence[int] | None = None) -> Tensor:
    """queries (M, D): features of pictures made for pairs `own` (M indices, default all N in order).
    real (N, D), groups (N names): features and group of every real picture; all of a group are its gallery.

    Returns (M,) float64: 1 for a hit, 0 for a miss, 1 / m where m real pictures share the first place and the own is one
    of them (pictures can be equal; a fair coin would decide).
    """
    index = torch.arange(len(real)) if own is None else torch.tensor(own, dtype=torch.long)
    if len(queries) != len(index) or len(real) != len(groups):
        raise ValueError(
            f"retrieval needs an own picture a query and a group a real picture, not {len(queries)} queries of "
            f"{len(index)}, {len(real)} pictures in {len(groups)} groups."
        )
    names = sorted(set(groups))
    number = torch.tensor([names.index(group) for group in groups])
    hits = torch.zeros(len(queries), dtype=torch.float64)
    for group in range(len(names)):
        members, asked = (number == group).nonzero()[:, 0], (number[index] == group).nonzero()[:, 0]
        gallery = real[members].double().cpu()
        centre = gallery.mean(0)
        similarity = F.normalize(queries[asked].double().cpu() - centre, dim=1) @ F.normalize(gallery - centre, dim=1).T
        first = similarity >= similarity.max(1, keepdim=True).values - 1e-9  # (asked, members)
        right = members[None] == index[asked][:, None]
        hits[asked] = (first & right).sum(1) / first.sum(1).double()
    return hits


def chance(groups: Sequence[str]) -> float:
    """Expected retrieval@1 of a blind guess: number of groups / number of pictures."""
    return len(set(groups)) / len(groups)
