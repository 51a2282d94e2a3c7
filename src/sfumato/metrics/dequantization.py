"""Bits per dimension of 8-bit pictures under a continuous density, and of whole numbers under a probability.

A pixel k in 0 .. 255 becomes y = k + u, u ~ U[0, 1), and lives in the unit bin [k, k + 1). Then

    log P(k) = log of the integral of p(k + u) du >= E_u log p(k + u)                   by Jensen's inequality

(Theis et al. 2015, arXiv 1511.01844, section 3.1), so the log density of y in those units bounds the log probability of the
picture, and -log p(y) / (D ln 2) is a bound in bits per dimension. A model whose units are x = y w + b has bins of width w and
p(y) = p(x) w^D, so that

    bits per dimension = -log p(x) / (D ln 2) - log2(w)

which adds 8 for pixels in [0, 1), w = 1/256, and 7 for the [-1, 1) used here, w = 1/128. A probability of whole numbers, as an
autoregressive model of pixels or codes gives it, is exact and needs no noise: w = 1 adds nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 256
BIN_WIDTH = 2 / LEVELS
"""Of a dequantized pixel in [-1, 1)."""


def dequantize(x: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """8-bit pixels x = k / 127.5 - 1, in [-1, 1], of any shape -> (k + u) / 128 - 1 in [-1, 1), fp32; u from `rng`.

    Pixels between two levels are rounded to the nearer one first.
    """
    level = ((x.float() + 1) * (LEVELS - 1) / 2).round().clamp(0, LEVELS - 1)
    u = torch.rand(x.shape, generator=rng, device=x.device)
    return (level + u) * BIN_WIDTH - 1


def requantize(x: Tensor) -> Tensor:
    """The inverse, which forgets u: [-1, 1) -> the 8-bit pixel k / 127.5 - 1 of its bin; what lies outside is clipped."""
    level = ((x + 1) / BIN_WIDTH).floor().clamp(0, LEVELS - 1)
    return level * (2 / (LEVELS - 1)) - 1


def bits_per_dimension(log_prob: Tensor, num_dims: int, bin_width: float = BIN_WIDTH) -> Tensor:
    """log_prob: log densities in nats, of `num_dims` elements each, in units where an 8-bit level is `bin_width` wide.

    `bin_width` 1 is for probabilities of whole numbers, as of codes: -log_prob / (num_dims ln 2). Of a picture the dimensions
    are its C * H * W pixel values; of codes, divided by their own number, it is bits per code.
    """
    return -log_prob / (num_dims * math.log(2)) - math.log2(bin_width)
