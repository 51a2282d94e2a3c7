"""Invertible layers, each with the logarithm of its Jacobian's determinant.

    log p_X(x) = log p_Y(f(x)) + log |det df/dx|              change of variables

(Dinh et al. 2016, arXiv 1605.08803, eq. 2; Kingma & Dhariwal 2018, arXiv 1807.03039, section 2.) Every layer maps
x (B, C, h, w) to y of as many elements and says log |det| a picture, (B,) nats. Forward is from data to noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.layers import zero

LARGEST_LOG_SCALE = 3.0
"""A coupling stretches by at most exp of this, either way: what its inverse amplifies stays within fp32."""


class Invertible(nn.Module, ABC):
    """A bijection with a tractable determinant, told the condition h (B, D) or None."""

    @abstractmethod
    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, h, w) -> y and log |det dy/dx|, (B,)."""

    @abstractmethod
    def inverse(self, y: Tensor, h: Tensor | None = None) -> Tensor:
        """y -> x."""

    def initialise(self, x: Tensor) -> None:
        """Set what is set by the first batch x; most layers have nothing to set."""


def squeeze(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 4 C, h / 2, w / 2): space to channels, a permutation, so log |det| is 0."""
    return F.pixel_unshuffle(x, 2)


def unsqueeze(y: Tensor) -> Tensor:
    """The inverse of `squeeze`."""
    return F.pixel_shuffle(y, 2)


def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.conv2d` with zeros around and sides kept, of x (B, C, h, w); of a single place by a 1 x 1 kernel as the matrix
    product that it is, which is several times faster there."""
    if weight.shape[2:] == (1, 1) == x.shape[2:]:
        return F.linear(x.flatten(1), weight.flatten(1), bias)[:, :, None, None]
    return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)


class ActNorm(Invertible):
    """y = exp(log_scale) (x + bias), by channel;  log |det| = h w sum(log_scale).

    The first batch leaves with mean 0 and variance 1 in every channel (Kingma & Dhariwal 2018, arXiv 1807.03039, section 3.1).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = (x + self.bias.view(-1, 1, 1)) * self.log_scale.exp().view(-1, 1, 1)
        return y, (self.log_scale.sum() * (x.shape[2] * x.shape[3])).expand(len(x))

    def inverse(self, y: Tensor, h: Tensor | None = None) -> Tensor:
        return y * (-self.log_scale).exp().view(-1, 1, 1) - self.bias.view(-1, 1, 1)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Mean and standard deviation of x; a constant channel is not stretched more than a thousandfold."""
        self.bias.copy_(-x.mean((0, 2, 3)))
        self.log_scale.copy_(-x.var((0, 2, 3), correction=0).sqrt().clamp(min=1e-3).log())


class Conv1x1(Invertible):
    """y = W x at every place, W = P L (U + diag(sign exp(log_s)));  log |det| = h w sum(log_s).

    P is a fixed permutation, L lower triangular with ones, U strictly upper triangular, so that the determinant is read off
    the diagonal (Kingma & Dhariwal 2018, arXiv 1807.03039, section 3.2, eq. 10 and 11). W starts as a random rotation.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_s = nn.Parameter(diagonal.abs().log().float())
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign", diagonal.sign().float())

    def _factors(self) -> tuple[Tensor, Tensor]:
        """L and U + diag(s), (C, C) each; entries outside their triangles are not looked at."""
        lower = self.lower.tril(-1) + torch.eye(len(self.lower), device=self.lower.device, dtype=self.lower.dtype)
        return lower, self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper = self._factors()
        y = conv(x, (self.permutation @ lower @ upper)[:, :, None, None])
        return y, (self.log_s.sum() * (x.shape[2] * x.shape[3])).expand(len(x))

    def inverse(self, y: Tensor, h: Tensor | None = None) -> Tensor:
        lower, upper = self._factors()
        columns = self.permutation.T @ y.flatten(2)  # (B, C, h w)
        columns = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, columns, upper=True).view(y.shape)


class CouplingNetwork(nn.Module):
    """(B, C, h, w) and a condition (B, D) -> (B, C', h, w): three convolutions, the last of them zero at first.

    Kernels of `kernel`, 1 and `kernel` (Kingma & Dhariwal 2018, arXiv 1807.03039, section 4); the condition is added, through
    a linear map, before each nonlinearity.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, kernel: int, cond_dim: int):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, kernel, padding=kernel // 2)
        self.middle = nn.Conv2d(width, width, 1)
        self.last = zero(nn.Conv2d(width, out_channels, kernel, padding=kernel // 2))
        self.cond = nn.Linear(cond_dim, 2 * width) if cond_dim else None

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        x = conv(x, self.first.weight, self.first.bias)
        if self.cond is None:
            x = conv(F.silu(x), self.middle.weight, self.middle.bias)
        else:
            one, two = self.cond(h)[:, :, None, None].chunk(2, dim=1)  # (B, width, 1, 1)
            x = conv(F.silu(x + one), self.middle.weight, self.middle.bias) + two
        return conv(F.silu(x), self.last.weight, self.last.bias)


def _bounded(raw: Tensor) -> Tensor:
    """A log scale within +- `LARGEST_LOG_SCALE`, equal to raw near 0."""
    return LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE)


class AffineCoupling(Invertible):
    """y_a = x_a,  y_b = exp(s(x_a)) x_b + t(x_a);  log |det| = sum of s over all elements.

    (Dinh et al. 2016, arXiv 1605.08803, eq. 4 to 8.) x_a is the first half of the channels, the smaller one where they are odd.
    s and t come from one network that starts at zero, so that the layer starts as the identity.
    """

    def __init__(self, channels: int, width: int, kernel: int, cond_dim: int = 0):
        super().__init__()
        self.kept = channels // 2
        self.network = CouplingNetwork(self.kept, 2 * (channels - self.kept), width, kernel, cond_dim)

    def _affine(self, x_a: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.network(x_a, h).chunk(2, dim=1)
        return _bounded(log_scale), shift

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x_a, x_b = x[:, : self.kept], x[:, self.kept :]
        log_scale, shift = self._affine(x_a, h)
        return torch.cat([x_a, x_b * log_scale.exp() + shift], dim=1), log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor, h: Tensor | None = None) -> Tensor:
        y_a, y_b = y[:, : self.kept], y[:, self.kept :]
        log_scale, shift = self._affine(y_a, h)
        return torch.cat([y_a, (y_b - shift) * (-log_scale).exp()], dim=1)


class SplitPrior(Invertible):
    """y_b = exp(-s(x_a)) (x_b - m(x_a)) under N(0, 1), which is x_b under N(m, exp(s)^2): the half that leaves a scale early.

    (Dinh et al. 2016, arXiv 1605.08803, section 3.6; learned m and s as in Kingma & Dhariwal 2018, arXiv 1807.03039.) The
    whole of [x_a, y_b] is returned; the caller takes the halves apart with `halves`.
    """

    def __init__(self, channels: int, cond_dim: int = 0):
        super().__init__()
        self.kept = channels // 2
        self.network = zero(nn.Conv2d(self.kept, 2 * (channels - self.kept), 3, padding=1))
        self.cond = zero(nn.Linear(cond_dim, 2 * (channels - self.kept))) if cond_dim else None

    def halves(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> what goes on and what is finished."""
        return y[:, : self.kept], y[:, self.kept :]

    def _affine(self, x_a: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        raw = self.network(x_a)
        if self.cond is not None:
            raw = raw + self.cond(h)[:, :, None, None]
        mean, log_std = raw.chunk(2, dim=1)
        return mean, _bounded(log_std)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x_a, x_b = self.halves(x)
        mean, log_std = self._affine(x_a, h)
        return torch.cat([x_a, (x_b - mean) * (-log_std).exp()], dim=1), -log_std.flatten(1).sum(1)

    def inverse(self, y: Tensor, h: Tensor | None = None) -> Tensor:
        y_a, y_b = self.halves(y)
        mean, log_std = self._affine(y_a, h)
        return torch.cat([y_a, y_b * log_std.exp() + mean], dim=1)
