"""How close two pictures are, place by place.

PSNR = 10 log10(1 / mean squared error) in dB, for a range of 1. SSIM compares local means, variances and covariance
under a Gaussian window (Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality assessment", eq. 13):

    ssim = (2 mu_x mu_y + C1)(2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1)(s_x^2 + s_y^2 + C2)),  C1 = 0.01^2, C2 = 0.03^2,

window 11 x 11 with sigma 1.5, averaged over the places where the window fits and over channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW, SIGMA = 11, 1.5
MAX_PSNR = 100.0
"""What equal pictures, whose PSNR is infinite, count in a mean."""
C1, C2 = 0.01**2, 0.03**2


def _exact(x: Tensor) -> torch.dtype:
    """fp64 where the device has it: variances are differences of large numbers."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """(B, C, H, W) pictures in [0, 1] -> (B,) dB; infinite where they are equal."""
    exact = _exact(x)
    error = (x.to(exact) - y.to(exact)).square().flatten(1).mean(1)
    return -10 * torch.log10(error)


def _window(dtype: torch.dtype, device: torch.device) -> Tensor:
    offsets = torch.arange(WINDOW, dtype=dtype, device=device) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def _blur(x: Tensor, window: Tensor) -> Tensor:
    """Gaussian mean at every place where the window fits; (N, 1, H, W) -> (N, 1, H - 10, W - 10)."""
    return F.conv2d(F.conv2d(x, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """(B, C, H, W) pictures in [0, 1], sides of at least 11 -> (B,) in [-1, 1], 1 where they are equal."""
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs sides of at least {WINDOW} pixels, not {tuple(x.shape[-2:])}.")
    batch = x.shape[0]
    exact = _exact(x)
    window = _window(exact, x.device)
    a, b = (v.to(exact).flatten(0, 1).unsqueeze(1) for v in (x, y))  # (B * C, 1, H, W)
    mean_a, mean_b = _blur(a, window), _blur(b, window)
    var_a = _blur(a * a, window) - mean_a**2
    var_b = _blur(b * b, window) - mean_b**2
    cov = _blur(a * b, window) - mean_a * mean_b
    light = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * cov + C2) / (var_a + var_b + C2)
    return (light * structure).unflatten(0, (batch, -1)).flatten(1).mean(1)
