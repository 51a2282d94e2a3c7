"""Improved precision and recall (Kynkaanniemi, Karras, Laine, Lehtinen, Aila 2019, arXiv 1904.06991, eq. 1 and 2).

The manifold of a set is the union of balls around its features, each reaching to the k-th nearest other feature of the set.
Precision is the share of generated features inside the real manifold, recall the share of real ones inside the generated.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1024


def radii(features: Tensor, k: int = 3) -> Tensor:
    """(N, D) -> (N,): distance to the k-th nearest other feature. Needs N > k."""
    if len(features) <= k:
        raise ValueError(f"a manifold with k = {k} needs more than {k} features, not {len(features)}.")
    found = []
    for start in range(0, len(features), CHUNK):
        between = distances(features[start : start + CHUNK], features)
        found.append(between.kthvalue(k + 1, dim=1).values)  # the nearest is itself
    return torch.cat(found)


def inside(queries: Tensor, features: Tensor, radius: Tensor) -> Tensor:
    """(M, D) queries, (N, D) features with (N,) radii -> (M,) bool: in at least one ball."""
    parts = [(distances(q, features) <= radius).any(1) for q in queries.split(CHUNK)]
    return torch.cat(parts)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, by differences: exact 0 for equal features, which the expanded square is not."""
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """(N, D), (M, D) -> (M,) bool: this fake is realistic; (N,) bool: this real one is covered. Report the means."""
    precise = inside(fake, real, radii(real, k))
    covered = inside(real, fake, radii(fake, k))
    return precise, covered
