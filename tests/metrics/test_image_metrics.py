"""PSNR by hand, SSIM against an implementation with scipy's filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from sfumato.metrics.image import psnr, ssim


def pictures(count: int, channels: int, side: int, seed: int) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def test_psnr_by_hand() -> None:
    x = torch.zeros(2, 3, 4, 4)
    y = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.01)])
    torch.testing.assert_close(psnr(x, y), torch.tensor([20.0, 40.0], dtype=torch.float64), rtol=0, atol=1e-5)
    assert psnr(x, x).tolist() == [float("inf")] * 2


def scipy_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al.'s definition; `truncate` makes scipy's window 11 wide, the crop keeps what the window fits."""

    def blur(v: np.ndarray) -> np.ndarray:
        return gaussian_filter(v, sigma=1.5, truncate=3.5)[5:-5, 5:-5]

    values = []
    for a, b in zip(x.astype(np.float64), y.astype(np.float64)):
        ma, mb = blur(a), blur(b)
        va, vb, c = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
        values.append((2 * ma * mb + 1e-4) * (2 * c + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_agrees_with_scipy(channels: int) -> None:
    x = pictures(3, channels, 24, 0)
    y = (0.7 * x + 0.3 * pictures(3, channels, 24, 1)).clamp(0, 1)
    wanted = torch.tensor([scipy_ssim(a.numpy(), b.numpy()) for a, b in zip(x, y)], dtype=torch.float64)
    torch.testing.assert_close(ssim(x, y), wanted, rtol=0, atol=1e-6)


def test_ssim_of_equal_and_of_constant_pictures() -> None:
    x = pictures(2, 3, 16, 0)
    torch.testing.assert_close(ssim(x, x), torch.ones(2, dtype=torch.float64))
    black, grey = torch.zeros(1, 1, 11, 11), torch.full((1, 1, 11, 11), 0.5)
    torch.testing.assert_close(ssim(black, grey), torch.tensor([1e-4 / (0.25 + 1e-4)], dtype=torch.float64))


def test_ssim_refuses_pictures_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="11"):
        ssim(torch.zeros(1, 1, 10, 32), torch.zeros(1, 1, 10, 32))
