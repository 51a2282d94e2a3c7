"""The discretized logistic: its probabilities are differences of sigmas, sum to one, and keep their digits."""

from __future__ import annotations

import pytest
import torch

from sfumato.nn.logistic import discretized_logistic, to_unit


@pytest.mark.parametrize("vocabulary", [2, 3, 16, 256])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 4.0])
def test_probabilities_sum_to_one(vocabulary: int, log_scale: float) -> None:
    """Of all values, for means inside and far outside; fp32."""
    mean = torch.tensor([-30.0, -1.0, -0.3, 0.0, 0.999, 1.0, 5.0])[:, None]
    p = discretized_logistic(torch.arange(vocabulary), mean, torch.tensor(log_scale), vocabulary).double().exp()
    torch.testing.assert_close(p.sum(1), torch.ones(7, dtype=torch.float64), atol=2e-5, rtol=0)


def test_it_is_the_difference_of_sigmas() -> None:
    codes, mean, log_scale = torch.arange(256), torch.tensor(0.2).double(), torch.tensor(-2.0).double()
    edges = (2 * torch.arange(257).double() - 1) / 255 - 1  # of the bins
    cumulated = torch.sigmoid((edges - mean) / log_scale.exp())
    cumulated[0], cumulated[-1] = 0, 1
    found = discretized_logistic(codes, mean, log_scale, 256)
    torch.testing.assert_close(found.exp(), cumulated.diff(), atol=1e-9, rtol=1e-6)


def test_it_keeps_its_digits_in_the_tails() -> None:
    """Ten and more scales away P falls by e a scale on both sides alike, where a difference of sigmas in fp32 is 0."""
    mean, log_scale = torch.tensor(0.0), torch.tensor(-4.0)
    codes = torch.tensor([20, 21, 235, 234])
    found = discretized_logistic(codes, mean, log_scale, 256)
    assert found.isfinite().all()
    assert found[0] < -45
    torch.testing.assert_close(found[:2], found[2:], rtol=1e-4, atol=1e-3)
    slope = 2 / 255 * torch.exp(-log_scale)
    torch.testing.assert_close(found[1] - found[0], slope, rtol=1e-3, atol=1e-3)


def test_gradients_are_finite_everywhere() -> None:
    mean = torch.tensor([-40.0, 0.0, 40.0], requires_grad=True)
    log_scale = torch.tensor([-7.0, 0.0, 5.0], requires_grad=True)
    found = discretized_logistic(torch.tensor([0, 3, 127, 255])[:, None, None], mean[:, None], log_scale, 256)
    found.sum().backward()
    assert mean.grad is not None
    assert log_scale.grad is not None
    assert mean.grad.isfinite().all()
    assert log_scale.grad.isfinite().all()


def test_values_lie_as_pixels_do() -> None:
    torch.testing.assert_close(to_unit(torch.tensor([0, 51, 255]), 256), torch.tensor([-1.0, -0.6, 1.0]))
