"""Histograms, arcs and directions against SciPy, NumPy and geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sfumato.errors import InputError
from sfumato.explain.latents import (
    BetweenNoise,
    channel_directions,
    histogram,
    histogram_figure,
    principal_directions,
    slerp,
)
from sfumato.noise import PictureNoise


def test_moments_are_scipys():
    z = torch.stack([torch.randn(6, 8, 8), torch.rand(6, 8, 8) ** 3 * 9 - 1], 1)  # (6, 2, 8, 8), the second with outliers
    found = histogram(z)
    for channel in range(2):
        values = z[:, channel].flatten().double().numpy()
        assert float(found.mean[channel]) == pytest.approx(values.mean())
        assert float(found.std[channel]) == pytest.approx(values.std())
        assert float(found.skew[channel]) == pytest.approx(stats.skew(values))
        assert float(found.kurtosis[channel]) == pytest.approx(stats.kurtosis(values))
        counts, _ = np.histogram(values.clip(-4, 4), found.edges.numpy())
        np.testing.assert_allclose(found.density[channel].numpy() * len(values) * 0.2, counts, atol=1e-6)
    torch.testing.assert_close(found.density.sum(1) * 0.2, torch.ones(2, dtype=torch.float64))
    assert histogram_figure(found, "a title").svg().count("<polyline") == 4  # a density and two axes, twice


def test_a_channel_of_noise_says_so():
    """A channel of variance 4, of which 1 is the encoder's, has a quarter of noise."""
    z = torch.cat([torch.full((1, 1, 4, 4), -2.0), torch.full((1, 1, 4, 4), 2.0)])
    found = histogram(z, torch.tensor([1.0]))
    assert found.noise.tolist() == [0.25]
    assert "noise 25%" in histogram_figure(found, "a title").svg()
    assert "noise" not in histogram_figure(histogram(z), "a title").svg()


def test_a_constant_channel_has_a_histogram():
    found = histogram(torch.ones(2, 1, 2, 2))
    assert found.std.item() == 0
    assert math.isfinite(found.kurtosis.item())
    with pytest.raises(InputError, match="2 values"):
        histogram(torch.ones(1, 3, 1, 1))


def test_the_arc():
    """Between right-angled vectors of one length it keeps the length and turns evenly; the ends are the vectors."""
    a, b = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 3.0, 0.0])
    third = slerp(a, b, 1 / 3)
    torch.testing.assert_close(third, torch.tensor([3 * math.cos(math.pi / 6), 3 * math.sin(math.pi / 6), 0.0]))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)
    assert bool(torch.isfinite(slerp(a, -a, 0.3)).all())


def test_noise_between_two_seeds_is_still_noise():
    like = torch.empty(1, 4, 64, 64)
    for draw in range(2):
        del draw
        between = BetweenNoise(3, 9, 0.5)
        values = between(like)
        assert float(values.std()) == pytest.approx(1, abs=0.02)
    assert torch.equal(BetweenNoise(3, 9, 0.0)(like), PictureNoise([3])(like))
    assert torch.equal(BetweenNoise(3, 9, 1.0)(like), PictureNoise([9])(like))


def test_principal_directions_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(12, 2, 2, 3)) * np.arange(1, 13).reshape(2, 2, 3))
    values, vectors = np.linalg.eigh(np.cov(z.flatten(1).numpy(), rowvar=False))
    found = principal_directions(z, 3)
    for index, direction in enumerate(found):
        step = direction.step.flatten().numpy()
        assert np.linalg.norm(step) == pytest.approx(math.sqrt(values[-1 - index]))
        assert abs(step @ vectors[:, -1 - index]) == pytest.approx(np.linalg.norm(step))
        assert direction.share == pytest.approx(values[-1 - index] / values.sum())
    with pytest.raises(InputError, match="13 pictures or more"):
        principal_directions(z, 12)


def test_a_channel_moves_alone():
    (step,) = channel_directions((3, 2, 2), [1], torch.zeros(1))
    assert step.step.sum(dim=(1, 2)).tolist() == [0, 4, 0]
    with pytest.raises(InputError, match="from 0 to 2"):
        channel_directions((3, 2, 2), [3], torch.zeros(1))
