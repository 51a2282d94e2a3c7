"""Retrieval@1: does a picture generated for pair i look more like the real picture i than like any other of its group?

In each group (a style) features are centred by the mean of the group's real pictures and compared by the cosine; the
query's nearest real picture should be its own. Centring takes away what all pictures of the group share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def retrieval_at_1(queries: Tensor, real: Tensor, groups: Sequence[str], own: Sequence[int] | None = None) -> Tensor:
    """queries (M, D): features of pictures made for pairs `own` (M indices, default all N in order).
    real (N, D), groups (N names): features and group of every real picture; all of a group are its gallery.

    Returns (M,) float64: 1 for a hit, 0 for a miss, 1 / m where m real pictures share the first place and the own is one
    of them (pictures can be equal; a fair coin would decide).
    """
    hits = torch.zeros(len(queries), dtype=torch.float64)
    for asked, similarity, right in _galleries(queries, real, groups, own):
        first = similarity >= similarity.max(1, keepdim=True).values - 1e-9  # (asked, members)
        hits[asked] = (first & right).sum(1) / first.sum(1).double()
    return hits


def distance_to_own(queries: Tensor, real: Tensor, groups: Sequence[str], own: Sequence[int] | None = None) -> Tensor:
    """Arguments as of `retrieval_at_1` -> (M,) float64 in [0, 2]: 1 - the cosine that it compares, to the own picture."""
    distances = torch.zeros(len(queries), dtype=torch.float64)
    for asked, similarity, right in _galleries(queries, real, groups, own):
        distances[asked] = 1 - similarity[right]  # one own picture a row
    return distances


def centred_cosine(queries: Tensor, gallery: Tensor) -> Tensor:
    """(M, D), (N, D) -> (M, N) float64: cosines after the gallery's mean is subtracted from both."""
    gallery = gallery.double().cpu()
    centre = gallery.mean(0)
    return F.normalize(queries.double().cpu() - centre, dim=1) @ F.normalize(gallery - centre, dim=1).T


def _galleries(
    queries: Tensor, real: Tensor, groups: Sequence[str], own: Sequence[int] | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For every group: rows of its queries (m,), their cosines (m, n) to its pictures, where the own one is (m, n)."""
    index = torch.arange(len(real)) if own is None else torch.tensor(own, dtype=torch.long)
    if len(queries) != len(index) or len(real) != len(groups):
        raise ValueError(
            f"retrieval needs an own picture a query and a group a real picture, not {len(queries)} queries of "
            f"{len(index)}, {len(real)} pictures in {len(groups)} groups."
        )
    names = sorted(set(groups))
    number = torch.tensor([names.index(group) for group in groups])
    for group in range(len(names)):
        members, asked = (number == group).nonzero()[:, 0], (number[index] == group).nonzero()[:, 0]
        yield asked, centred_cosine(queries[asked], real[members]), members[None] == index[asked][:, None]


def chance(groups: Sequence[str]) -> float:
    """Expected retrieval@1 of a blind guess: number of groups / number of pictures."""
    return len(set(groups)) / len(groups)
