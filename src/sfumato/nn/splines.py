"""Monotonic rational-quadratic splines, and the coupling whose elementwise map is one.

    xi = (x - x_k) / (x_{k+1} - x_k),   s_k = (y_{k+1} - y_k) / (x_{k+1} - x_k),   q = s_k + (d_k + d_{k+1} - 2 s_k) xi (1 - xi)
    y     = y_k + (y_{k+1} - y_k) (s_k xi^2 + d_k xi (1 - xi)) / q
    dy/dx = s_k^2 (d_{k+1} xi^2 + 2 s_k xi (1 - xi) + d_k (1 - xi)^2) / q^2

(Durkan et al. 2019, arXiv 1906.04032, eq. 4 and 5, after Gregory & Delbourgo 1982.) It goes through the knots (x_k, y_k) with
slopes d_k > 0, k = 0 to K, from (-B, -B) to (B, B). Outside, it is the identity, and the slopes at both ends are 1, so that the
map and its slope are continuous everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.nn.invertible import CouplingNetwork, Invertible

LEAST_SIDE = 1e-3
"""Of a bin, as a share of [-B, B], in either direction: bounds the slopes, so that fp32 can go back."""
LEAST_SLOPE = 1e-3
"""At a knot."""
MOST_BINS = 500
"""With more, the least sides would take more than half of [-B, B]."""


@dataclass(frozen=True)
class Knots:
    """x, y: where the spline passes through, ascending, (..., K + 1). slope: its slope there, above 0, (..., K + 1)."""

    x: Tensor
    y: Tensor
    slope: Tensor


def knots(raw: Tensor, bound: float) -> Knots:
    """Any numbers (..., 3 K - 1): K widths, K heights, K - 1 slopes -> knots from -bound to bound. Zeros are the identity."""
    bins = (raw.shape[-1] + 1) // 3
    widths, heights, slopes = raw.split([bins, bins, bins - 1], dim=-1)
    one = math.log(math.expm1(1 - LEAST_SLOPE))  # softplus of it, and the least slope, are 1
    return Knots(
        _places(widths, bound), _places(heights, bound), F.pad(LEAST_SLOPE + F.softplus(slopes + one), (1, 1), value=1.0)
    )


def _places(raw: Tensor, bound: float) -> Tensor:
    """(..., K) -> (..., K + 1) from -bound to bound, both exactly, by the softmax of raw as the sides of the bins."""
    bins = raw.shape[-1]
    shares = LEAST_SIDE + (1 - LEAST_SIDE * bins) * raw.softmax(-1)
    inner = bound * (2 * shares[..., :-1].cumsum(-1) - 1)
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


@dataclass(frozen=True)
class _Bin:
    """Of every element: its lower left corner, its sides and the slopes at its two knots."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    left: Tensor
    right: Tensor

    @property
    def mean(self) -> Tensor:
        """s_k, the slope of the chord."""
        return self.height / self.width


def _bin(at: Knots, value: Tensor, among: Tensor) -> _Bin:
    """The bin of every value (...) among (..., K + 1) ascending; what is outside gets the first or the last."""
    k = (value[..., None] >= among[..., 1:-1]).sum(-1, keepdim=True)
    x, y, slope = (corner.gather(-1, torch.cat([k, k + 1], -1)).unbind(-1) for corner in (at.x, at.y, at.slope))
    return _Bin(x[0], y[0], x[1] - x[0], y[1] - y[0], slope[0], slope[1])


def spline(x: Tensor, at: Knots) -> tuple[Tensor, Tensor]:
    """x (...) -> y (...) and log dy/dx (...), elementwise; the identity outside of the knots."""
    inside = (x > at.x[..., 0]) & (x < at.x[..., -1])
    b = _bin(at, x, at.x)
    xi = torch.where(inside, (x - b.x) / b.width, 0.5).clamp(0, 1)  # finite outside too, so that the gradients are
    mixed, s = xi * (1 - xi), b.mean
    q = s + (b.left + b.right - 2 * s) * mixed
    y = b.y + b.height * (s * xi.square() + b.left * mixed) / q
    slope = b.right * xi.square() + 2 * s * mixed + b.left * (1 - xi).square()
    log_slope = 2 * (s.log() - q.log()) + slope.log()
    return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)


def inverse_spline(y: Tensor, at: Knots) -> Tensor:
    """y (...) -> x (...): the root in [0, 1] of a xi^2 + b xi + c = 0 (eq. 6 to 8), as 2 c / (-b - sqrt(b^2 - 4 a c)).

    In this form nothing cancels where a is near 0, which is where the spline is near a straight line.
    """
    inside = (y > at.y[..., 0]) & (y < at.y[..., -1])
    b = _bin(at, y, at.y)
    rise = torch.where(inside, y - b.y, 0.0)
    s, bend = b.mean, b.left + b.right - 2 * b.mean
    two = b.height * (s - b.left) + rise * bend
    one = b.height * b.left - rise * bend
    none = -s * rise
    root = (one.square() - 4 * two * none).clamp(min=0).sqrt()
    xi = (2 * none / (-one - root)).clamp(0, 1)
    return torch.where(inside, b.x + xi * b.width, y)


class SplineCoupling(Invertible):
    """y_a = x_a,  y_b = spline(x_b; knots(x_a));  log |det| = sum of log dy_b/dx_b over all elements.

    (Durkan et al. 2019, arXiv 1906.04032, section 3.2.) x_a is the first half of the channels, the smaller one where they are
    odd. Each element of x_b has knots of its own, from one network that starts at zero, so that the layer starts as the
    identity. bins: K, 2 to `MOST_BINS`; bound: B, in units of x.
    """

    def __init__(self, channels: int, width: int, kernel: int, cond_dim: int = 0, bins: int = 16, bound: float = 4.0):
        super().__init__()
        self.kept, self.bound, self.num_raw = channels // 2, bound, 3 * bins - 1
        self.network = CouplingNetwork(self.kept, self.num_raw * (channels - self.kept), width, kernel, cond_dim)

    def _knots(self, x_a: Tensor, h: Tensor | None) -> Knots:
        """For x_b (B, C_b, h, w): knots (B, C_b, h, w, K + 1)."""
        raw = self.network(x_a, h).unflatten(1, (-1, self.num_raw))  # (B, C_b, 3 K - 1, h, w)
        return knots(raw.movedim(2, -1), self.bound)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x_a, x_b = x[:, : self.kept], x[:, self.kept :]
        y_b, log_slope = spline(x_b, self._knots(x_a, h))
        return torch.cat([x_a, y_b], dim=1), log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, h: Tensor | None = None) -> Tensor:
        y_a, y_b = y[:, : self.kept], y[:, self.kept :]
        return torch.cat([y_a, inverse_spline(y_b, self._knots(y_a, h))], dim=1)
