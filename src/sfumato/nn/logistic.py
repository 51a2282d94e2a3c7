"""Whole numbers with a logistic distribution: each has the probability of its bin.

    P(k) = sigma((x_k + 1/n - mu) / s) - sigma((x_k - 1/n - mu) / s),     x_k = 2 k / n - 1,   k = 0 ... n,   n = K - 1

with the outer bins open to -infinity and infinity, so that the K probabilities sum to 1 (Salimans et al. 2017,
arXiv 1701.05517, eq. 2; here on [-1, 1]). With u and l the two arguments, a difference of sigmas without cancellation:

    sigma(u) - sigma(l) = sigma(u) sigma(-l) (1 - exp(l - u)),    u - l = 2 / (n s)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_unit(codes: Tensor, vocabulary: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """0 ... K - 1 -> the middles of their bins on [-1, 1]."""
    return codes.to(dtype) * (2 / (vocabulary - 1)) - 1


def discretized_logistic(codes: Tensor, mean: Tensor, log_scale: Tensor, vocabulary: int) -> Tensor:
    """log P(codes), codes whole numbers from 0 to K - 1, mean and log_scale on the scale of [-1, 1]; all broadcast; nats."""
    x = to_unit(codes, vocabulary, mean.dtype)
    half = 1 / (vocabulary - 1)
    rate = torch.exp(-log_scale)  # 1 / s
    upper, lower = (x - mean + half) * rate, (x - mean - half) * rate
    below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
    inside = below + above + torch.log(-torch.expm1(-2 * half * rate))
    return torch.where(codes == 0, below, torch.where(codes == vocabulary - 1, above, inside))
