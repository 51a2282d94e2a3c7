"""-log p(x | z): how badly a decoder explains the picture.

With a Laplace (or Gaussian) likelihood of one learned log-variance s for all pixels, up to constants,

    nll = sum over dimensions of ( e / exp(s) + s ),   e = |x - x_hat|  (or (x - x_hat)^2)  +  w_p d(x_hat, x),

averaged over the batch (Dai & Wipf 2019, arXiv 1903.05789, section 5, for the learned variance; Rombach et al. 2021,
arXiv 2112.10752, appendix G, for the sum with a perceptual distance d, which joins every pixel's error). Sums, not
means, over dimensions: a KL weight of 1e-6 means what it means only under this unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from sfumato.errors import InputError


class PixelError(Enum):
    """What a pixel's error is."""

    L1 = "l1"
    L2 = "l2"

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Elementwise error, fp32, shape of x."""
        difference = x_hat.float() - x.float()
        return difference.abs() if self is PixelError.L1 else difference.square()


@dataclass(frozen=True)
class Reconstruction:
    """nll: scalar to descend. error: mean |x - x_hat| or square a pixel, (B,), detached. perceptual: (B,), detached."""

    nll: Tensor
    error: Tensor
    perceptual: Tensor


class ReconstructionLoss(nn.Module):
    """The nll above. Its one parameter, the log-variance, has to be in an optimizer.

    `pixel` is what a pixel's error is; `perceptual` maps (x_hat, x) to (B,) distances and is weighted by `perceptual_weight`.
    `learn=False` keeps the log-variance where it starts.
    """

    def __init__(
        self,
        pixel: PixelError = PixelError.L1,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        log_variance: float = 0.0,
        learn: bool = True,
    ) -> None:
        super().__init__()
        if perceptual_weight < 0:
            raise InputError(f"perceptual weight {perceptual_weight} is negative; give 0 or more.")
        self.pixel = pixel
        self.perceptual = perceptual if perceptual_weight > 0 else None
        self.perceptual_weight = perceptual_weight
        self.log_variance = nn.Parameter(torch.tensor(float(log_variance)), requires_grad=learn)

    def forward(self, x_hat: Tensor, x: Tensor) -> Reconstruction:
        """x_hat, x: (B, C, H, W) in [-1, 1]."""
        error = self.pixel(x_hat, x).flatten(1)  # (B, D)
        if self.perceptual is None:
            distance = error.new_zeros(len(x))
        else:
            distance = self.perceptual(x_hat, x)  # (B,)
        joined = error + self.perceptual_weight * distance[:, None]
        log_variance = self.log_variance.float()
        nll = (joined * torch.exp(-log_variance) + log_variance).sum(1).mean()
        return Reconstruction(nll, error.mean(1).detach(), distance.detach())
