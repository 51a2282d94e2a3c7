"""log p(x | z) of a decoder's answer, with its constants: densities of pixels, in nats.

    Gaussian   log p = - sum ( (x - x_hat)^2 / (2 exp(s)) + s / 2 + log(2 pi) / 2 ),   s the log-variance
    Laplace    log p = - sum ( |x - x_hat| / exp(s) + s + log 2 ),                     s the log-scale

(Kingma & Welling 2013, arXiv 1312.6114, appendix C.2, for the first.) `ReconstructionLoss` without a perceptual distance is
the second up to the constant for l1, and twice the first up to the constant for l2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Likelihood(Protocol):
    """(x, x_hat), both (B, ...) -> log p(x | x_hat) summed over dimensions, (B,) nats."""

    def __call__(self, x: Tensor, x_hat: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class GaussianLikelihood:
    """N(x; x_hat, exp(log_variance)), every pixel alike."""

    log_variance: float = 0.0

    def __call__(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """See `Likelihood`."""
        error = (x - x_hat).square() * math.exp(-self.log_variance)
        return -0.5 * (error + self.log_variance + math.log(2 * math.pi)).flatten(1).sum(1)


@dataclass(frozen=True)
class LaplaceLikelihood:
    """Laplace(x; x_hat, exp(log_scale)), every pixel alike."""

    log_scale: float = 0.0

    def __call__(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """See `Likelihood`."""
        error = (x - x_hat).abs() * math.exp(-self.log_scale)
        return -(error + self.log_scale + math.log(2)).flatten(1).sum(1)
