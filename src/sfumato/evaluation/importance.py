"""The importance-weighted bound on log p(x) of a first stage and a prior.

    log p(x) >= L_K = E log 1/K sum_k w_k,    w_k = p(x | z_k) p(z_k) / q(z_k | x),    z_k ~ q(z | x)

(Burda et al. 2015, arXiv 1509.00519, eq. 8.) L_1 is the evidence lower bound, log p(x) - KL(q(z | x) || p(z | x)); L_K does not
fall with K and tends to log p(x). It is a density of pixels in [-1, 1]: for bits per dimension of 8-bit pictures give
dequantized ones (`metrics.dequantization`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.first_stages.base import FirstStage
from sfumato.losses.likelihood import Likelihood
from sfumato.priors.base import Density


@dataclass(frozen=True)
class ImportanceBound:
    """All (B,) nats, summed over dimensions.

    bound: L_K, by one set of K draws. elbo: L_1, averaged over the same draws. effective: how many draws carry the bound,
    (sum w)^2 / sum w^2, from 1 (K is far too small) to K.
    """

    bound: Tensor
    elbo: Tensor
    effective: Tensor


@torch.no_grad()
def importance_bound(
    first_stage: FirstStage,
    prior: Density,
    x: Tensor,
    cond: Conditioning,
    likelihood: Likelihood,
    num_samples: int,
    rng: torch.Generator | None = None,
) -> ImportanceBound:
    """L_K of pictures x (B, C, H, W) in [-1, 1] with K = num_samples draws, one decoding of the batch each.

    `likelihood` is p(x | z) as a function of (x, decode(z)). Raises `InputError` for fewer than 1 draw, or where the first
    stage is deterministic and so has no q(z | x).
    """
    if num_samples < 1:
        raise InputError(f"importance-weighted bound: got {num_samples} samples, expected 1 or more.")
    posterior = first_stage.posterior(x)
    if posterior.log_variance is None:
        raise InputError("importance-weighted bound: this first stage is deterministic and has no q(z | x); use a KL one.")
    log_weights = []
    for _ in range(num_samples):
        z = posterior.sample(rng)
        evidence = likelihood(x, first_stage.decode(z)) + prior.log_prob(z, cond)
        log_weights.append((evidence - posterior.log_prob(z)).double())
    log_w = torch.stack(log_weights)  # (K, B)
    total = torch.logsumexp(log_w, 0)
    effective = (2 * total - torch.logsumexp(2 * log_w, 0)).exp()
    return ImportanceBound(total - math.log(num_samples), log_w.mean(0), effective)
