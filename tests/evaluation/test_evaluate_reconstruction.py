"""Reconstruction scores of a first stage whose loss is known in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sfumato.evaluation.reconstruction import reconstruction


def test_scores_of_pooling(data: Any, pooling: Any) -> None:
    """Averages of 4 x 4 pixels, rounded to 8 bits: PSNR from numpy."""
    pixels = data(6, 0).pixels
    found = reconstruction(pooling(4), pixels, batch_size=4)
    blocks = pixels.numpy().astype(np.float64).reshape(6, 3, 8, 4, 8, 4).mean((3, 5)).repeat(4, 2).repeat(4, 3)
    assert np.abs(found.pixels.numpy() - blocks).max() <= 0.5 + 1e-3
    error = ((found.pixels.numpy() / 255 - pixels.numpy() / 255) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(found.psnr.numpy(), -10 * np.log10(error), rtol=1e-5)
    assert found.ssim is not None
    assert (found.ssim < 1).all()
    assert (found.perceptual > 0).all()


def test_transparent_pictures_are_scored_on_white_and_alpha_apart(data: Any, pooling: Any) -> None:
    pixels = data(5, 0, channels=4).pixels
    found, plain = (reconstruction(pooling(4), p, batch_size=2) for p in (pixels, pixels[:, :3]))
    assert found.pixels.shape == pixels.shape
    for ours, theirs in ((found.psnr, plain.psnr), (found.ssim, plain.ssim), (found.perceptual, plain.perceptual)):
        torch.testing.assert_close(ours, theirs)
    assert plain.alpha_psnr is None
    assert found.alpha_psnr is not None
    error = ((found.pixels[:, 3].double() - pixels[:, 3].double()) / 255).square().mean((1, 2))
    torch.testing.assert_close(found.alpha_psnr, -10 * error.log10())
    lossless = reconstruction(pooling(1), pixels)
    assert lossless.alpha_psnr is not None
    assert (lossless.alpha_psnr == 100).all()


def test_coarser_is_worse(data: Any, pooling: Any) -> None:
    pixels = data(4, 0).pixels
    fine, coarse = (reconstruction(pooling(f), pixels) for f in (2, 8))
    assert (fine.psnr > coarse.psnr).all()
    assert (fine.perceptual < coarse.perceptual).all()


def test_batches_change_nothing(data: Any, pooling: Any) -> None:
    pixels = data(5, 0).pixels
    one, all_ = (reconstruction(pooling(2), pixels, batch_size=b) for b in (1, 5))
    assert torch.equal(one.pixels, all_.pixels)
    torch.testing.assert_close(one.psnr, all_.psnr)


def test_pictures_smaller_than_the_window_have_no_ssim(data: Any, pooling: Any) -> None:
    found = reconstruction(pooling(2), data(2, 0).pixels[:, :, :8, :8])
    assert found.ssim is None
    assert found.psnr.isfinite().all()
