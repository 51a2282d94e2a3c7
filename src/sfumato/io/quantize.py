"""Symmetric int8 by output channel: row i of a weight is q_i s_i, with whole q in [-127, 127] and one scale s_i a row.

    s_i = max_j |w_ij| / 127,    q_ij = round(w_ij / s_i)

Jacob et al. 2017 (arXiv 1712.05877, eq. 1) with zero point 0; one scale a channel as in Krishnamoorthi 2018 (arXiv
1806.08342). Rows are those of the first dimension: outputs of linear and convolution layers, entries of tables. No weight
is clipped for a finer step: a search for the best clipping won too little (docs/lab-log.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 127


@dataclass(frozen=True)
class Rows:
    """A quantized weight. `q`: int8 of the weight's shape, `scale`: fp32 (rows,), 0 for a row of zeros."""

    q: Tensor
    scale: Tensor

    def weight(self) -> Tensor:
        """q s in fp32, without rounding."""
        return self.q.float() * _column(self.scale, self.q)


def quantize(weight: Tensor) -> Rows:
    """Round a weight of two or more dimensions, none empty: |w - q s| <= s/2 everywhere.

    Quantizing `Rows.weight` again gives the same rows. A row that is not finite gets a scale that is not.
    """
    weight = weight.detach().cpu().float()  # on the CPU, where powers of two are exact
    # Scales of 16 bits: q s is then exact in fp32's 24. They move max |w| / s from 127 by at most 127 / 2^16.
    mantissa, exponent = torch.frexp(weight.flatten(1).abs().amax(1) / LEVELS)  # (rows,)
    scale = torch.ldexp((mantissa * 2**16).round() / 2**16, exponent)
    step = torch.where(scale == 0, torch.ones_like(scale), scale)
    q = (weight / _column(step, weight)).round().clamp(-LEVELS, LEVELS)
    return Rows(q.to(torch.int8), scale)


def _column(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))  # (rows, 1, ...)
