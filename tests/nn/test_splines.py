"""Rational-quadratic splines against another library, numeric derivatives and their own inverse; and the coupling of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfumato.nn.invertible import CouplingNetwork
from sfumato.nn.splines import LEAST_SIDE, SplineCoupling, inverse_spline, knots, spline

BOUND, BINS = 3.0, 7


def drawn(count: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """raw (count, 3 K - 1) and points (count,) from inside and outside of the bound, float64."""
    rng = torch.Generator().manual_seed(0)
    raw = scale * torch.randn(count, 3 * BINS - 1, generator=rng, dtype=torch.float64)
    return raw, 4 * torch.rand(count, 2, generator=rng, dtype=torch.float64).diff(dim=-1)[:, 0]


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_spline_and_inverse_are_zukos(scale: float) -> None:
    """`MonotonicRQSTransform`, given the same knots."""
    transforms = pytest.importorskip("zuko.transforms")
    raw, x = drawn(3000, scale)
    at = knots(raw, BOUND)
    oracle = transforms.MonotonicRQSTransform(raw[:, :BINS], raw[:, :BINS], raw[:, 1 - BINS :], bound=BOUND)
    oracle.horizontal, oracle.vertical, oracle.derivatives = at.x, at.y, at.slope
    y, log_slope = oracle.call_and_ladj(x)
    torch.testing.assert_close(spline(x, at), (y, log_slope), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(inverse_spline(x, at), oracle.inv(x), atol=1e-12, rtol=1e-12)


def test_the_inverse_undoes_it_and_it_rises() -> None:
    raw, x = drawn(3000)
    at = knots(raw, BOUND)
    y, log_slope = spline(x, at)
    torch.testing.assert_close(inverse_spline(y, at), x, atol=1e-9, rtol=0)
    numeric = (spline(x + 1e-6, at)[0] - spline(x - 1e-6, at)[0]) / 2e-6
    assert float((log_slope.exp() / numeric - 1).abs().median()) < 1e-8
    within = (log_slope.exp() / numeric - 1).abs() < 1e-3  # all but those with a knot, where curvature jumps, right beside
    assert float(within.double().mean()) > 0.999
    rng = torch.Generator().manual_seed(1)
    gentle = knots(0.3 * torch.randn(3000, 3 * BINS - 1, generator=rng), BOUND)
    x = x.float()
    torch.testing.assert_close(inverse_spline(spline(x, gentle)[0], gentle), x, atol=1e-5, rtol=0)


def test_it_goes_through_its_knots_with_their_slopes() -> None:
    raw, _ = drawn(200)
    at = knots(raw, BOUND)
    assert at.x.shape == at.y.shape == at.slope.shape == (200, BINS + 1)
    assert float(at.x.diff(dim=-1).min()) >= 2 * BOUND * LEAST_SIDE * 0.999
    for k in range(1, BINS):
        for side in (-1e-11, 1e-11):
            y, log_slope = spline(at.x[:, k] + side, at)
            torch.testing.assert_close(y, at.y[:, k], atol=1e-8, rtol=0)
            torch.testing.assert_close(log_slope.exp(), at.slope[:, k], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("end", [-BOUND, BOUND])
def test_value_and_slope_are_continuous_at_the_tails(end: float) -> None:
    raw, _ = drawn(200)
    at = knots(raw, BOUND)
    for by in (-1e-9, 0.0, 1e-9, end):
        x = torch.full((200,), end + by, dtype=torch.float64)
        y, log_slope = spline(x, at)
        torch.testing.assert_close(y, x, atol=1e-8, rtol=0)
        torch.testing.assert_close(inverse_spline(y, at), x, atol=1e-8, rtol=0)
        torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-5, rtol=0)


def test_zeros_are_the_identity() -> None:
    _, x = drawn(100)
    y, log_slope = spline(x, knots(torch.zeros(100, 3 * BINS - 1, dtype=torch.float64), BOUND))
    torch.testing.assert_close(y, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-12, rtol=0)
    layer = SplineCoupling(5, 8, 3, bins=BINS, bound=BOUND)
    z = 2 * torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    y, log_det = layer(z)
    torch.testing.assert_close(y, z, atol=1e-5, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros(2), atol=1e-4, rtol=0)


def test_gradients_are_finite_far_outside_and_at_knots() -> None:
    raw = torch.zeros(5, 3 * BINS - 1, requires_grad=True)
    x = torch.tensor([-1e30, -BOUND, 0.0, BOUND, 1e30], requires_grad=True)
    y, log_slope = spline(x, knots(raw, BOUND))
    (y.sum() + log_slope.sum()).backward()
    assert x.grad is not None
    assert raw.grad is not None
    torch.testing.assert_close(x.grad, torch.ones(5), atol=1e-5, rtol=0)
    assert bool(raw.grad.isfinite().all())
    assert raw.grad[[0, 1, 3, 4]].abs().max() == 0  # the identity there, whatever the knots


def test_a_network_of_single_places_is_the_convolution() -> None:
    torch.manual_seed(0)
    network = CouplingNetwork(3, 4, 16, 1, cond_dim=5)
    torch.nn.init.normal_(network.last.weight)
    x, h = torch.randn(6, 3, 1, 1), torch.randn(6, 5)
    padded = torch.nn.functional.pad(x, (0, 1))  # two places: no longer a single one
    torch.testing.assert_close(network(x, h), network(padded, h)[..., :1], atol=1e-5, rtol=1e-5)
