"""Density and coverage (Naeem, Oh, Uh, Choi, Yoo 2020, arXiv 2002.09797, eq. 3 and 4).

With the ball of a real feature reaching to its k-th nearest other real feature, of N real x_i and M generated y_j

    density  = 1/(k M) sum_j sum_i 1[y_j in ball_i]          coverage = 1/N sum_i 1[some y_j in ball_i]

Density counts in how many balls a picture lies where precision asks only whether it lies in one, so that a single far real
feature with its huge ball no longer vouches for everything; coverage uses real balls only, which recall does not. For equal
distributions E density = 1 and

    E coverage = 1 - (N - 1) ... (N - k) / ((M + N - 1) ... (M + N - k))          (their lemma 2)

which tends to 1 - 2^-k for N = M: with their k = 5 a perfect model covers 0.969.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.metrics.precision_recall import CHUNK, distances, radii

NEIGHBOURS = 5
"""The paper's k."""


def density_coverage(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
    """(N, D), (M, D) -> (M,) float64: balls around this fake, divided by k, at most N / k; (N,) bool: this real one's ball
    holds a fake. Report the means. Needs N > k."""
    radius = radii(real, k)
    density = torch.zeros(len(fake), dtype=torch.float64, device=fake.device)
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for start in range(0, len(fake), CHUNK):
        within = distances(fake[start : start + CHUNK], real) <= radius  # (m, N)
        density[start : start + CHUNK] = within.sum(1).double() / k
        covered |= within.any(0)
    return density, covered


def expected_coverage(num_real: int, num_fake: int, k: int = NEIGHBOURS) -> float:
    """Mean coverage of a perfect model (lemma 2): the number to read a coverage beside. Needs num_real > k."""
    if num_real <= k:
        raise ValueError(f"coverage with k = {k} needs more than {k} real features, not {num_real}.")
    missed = 1.0
    for i in range(1, k + 1):
        missed *= (num_real - i) / (num_fake + num_real - i)
    return 1 - missed
