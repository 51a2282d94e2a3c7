"""The embedded perceptual distance: its formula, its zero, its order, its gradient, its precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from sfumato.features.mobilenet import load_mobilenet
from sfumato.losses.perceptual import EMBEDDED_LAYERS, PerceptualLoss


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    coarse = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.interpolate(coarse, (64, 64), mode="bicubic").clamp(-1, 1)


def noisy(x: torch.Tensor, std: float) -> torch.Tensor:
    return x + std * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def test_equals_one_minus_cosine(x: torch.Tensor) -> None:
    """|u - v|^2 = 2 - 2 cos for unit vectors: the mean over layers and places of that."""
    y = noisy(x, 0.1)
    network = load_mobilenet()
    a, b = network(x, EMBEDDED_LAYERS), network(y, EMBEDDED_LAYERS)
    wanted = torch.stack([2 - 2 * F.cosine_similarity(a[k], b[k], dim=1).mean((1, 2)) for k in EMBEDDED_LAYERS]).mean(0)
    torch.testing.assert_close(PerceptualLoss.embedded()(y, x), wanted, rtol=1e-4, atol=1e-5)


def test_zero_for_equal_and_growing_with_damage(x: torch.Tensor) -> None:
    loss = PerceptualLoss.embedded()
    torch.testing.assert_close(loss(x, x), torch.zeros(4))
    distances = torch.stack([loss(noisy(x, s), x) for s in (0.01, 0.03, 0.1, 0.3)])
    assert (distances.diff(dim=0) > 0).all()


def test_gradient_goes_to_the_first_argument_only(x: torch.Tensor) -> None:
    a, b = noisy(x, 0.1).requires_grad_(), x.clone().requires_grad_()
    PerceptualLoss.embedded()(a, b).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert a.grad.abs().sum() > 0
    assert b.grad is None


def test_descending_it_brings_pictures_nearer(x: torch.Tensor) -> None:
    loss = PerceptualLoss.embedded()
    y = noisy(x, 0.3).requires_grad_()
    before = loss(y, x).mean()
    (slope,) = torch.autograd.grad(before, y)
    after = loss(y - 0.1 * slope / slope.abs().max(), x).mean()
    assert after < before


def test_flat_pictures_have_a_finite_gradient() -> None:
    flat = torch.ones(1, 3, 32, 32).requires_grad_()
    PerceptualLoss.embedded()(flat, -torch.ones(1, 3, 32, 32)).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_bf16_autocast_stays_close(x: torch.Tensor) -> None:
    loss, y = PerceptualLoss.embedded(), noisy(x, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(y, x)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(y, x), rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_any_number_of_channels(channels: int) -> None:
    a = torch.rand(2, channels, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    distance = PerceptualLoss.embedded()(noisy(a, 0.2), a)
    assert distance.shape == (2,)
    assert (distance > 0).all()


def test_transparency_is_left_to_the_other_terms(x: torch.Tensor) -> None:
    """The picture on white is compared; what it is opaque where it is white, only L1 and the discriminator see."""
    loss, y = PerceptualLoss.embedded(), noisy(x, 0.1)
    opaque, clear = (torch.cat([x, torch.full_like(x[:, :1], a)], 1) for a in (1.0, -1.0))
    assert loss(opaque, clear).abs().max() < 1e-6
    torch.testing.assert_close(loss(torch.cat([y, clear[:, 3:]], 1), opaque), loss(y, x))


def test_has_no_state_and_never_the_scoring_layer() -> None:
    loss = PerceptualLoss.embedded()
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
    assert "block10" not in EMBEDDED_LAYERS
    assert copy.deepcopy(loss).layers == loss.layers
