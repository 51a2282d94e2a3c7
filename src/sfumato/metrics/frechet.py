"""Frechet distance between Gaussians fitted to two sets of features.

    d^2 = |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

(Dowson & Landau 1982; Heusel et al. 2017, arXiv 1706.08500, eq. 6, where the features are Inception's and it is called
FID; over other features it must not be called so.) tr (S_a S_b)^(1/2) is the sum of the square roots of the eigenvalues
of the symmetric S_a^(1/2) S_b S_a^(1/2), which needs no square root of a matrix that is not symmetric.

The estimate is biased upwards by O(1 / n) (Binkowski et al. 2018, arXiv 1801.01401, section 4; Chong & Forsyth 2020,
arXiv 1911.07023): compare values only at the same number of pictures, and read them beside the distance of two real
sets of that number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """mean (D,), covariance (D, D) with n - 1, both float64, of `count` features."""

    mean: Tensor
    covariance: Tensor
    count: int


def moments(features: Tensor) -> Moments:
    """(N, D) features, N >= 2 -> their moments in float64."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"moments need (N, D) features with N of at least 2, not {tuple(features.shape)}.")
    f = features.double()
    mean = f.mean(0)
    centred = f - mean
    return Moments(mean, centred.T @ centred / (len(f) - 1), len(f))


def _root(matrix: Tensor) -> Tensor:
    """Square root of a symmetric positive semi-definite matrix; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(a: Moments, b: Moments) -> float:
    """d^2 between the two Gaussians; 0 for equal ones, never negative."""
    root = _root(a.covariance)
    product = root @ b.covariance @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, distance.item())
