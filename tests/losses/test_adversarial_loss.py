"""GAN losses against their definitions, the adaptive weight on a known gradient, and the start by step or plateau."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from sfumato.errors import InputError
from sfumato.losses.adversarial import Game, GanStart, GanStartConfig, adaptive_weight, gauges, gradient_penalty

REAL = torch.tensor([2.0, 0.5, -1.0])
FAKE = torch.tensor([-2.0, -0.5, 1.0])


def test_hinge_by_hand() -> None:
    # relu(1 - real) = 0, 0.5, 2; relu(1 + fake) = 0, 0.5, 2
    torch.testing.assert_close(Game.HINGE.d(REAL, FAKE), torch.tensor(2.5 / 3))
    torch.testing.assert_close(Game.HINGE.g(FAKE), torch.tensor(0.5))


def test_non_saturating_is_binary_cross_entropy() -> None:
    bce = nn.BCEWithLogitsLoss()
    wanted = 0.5 * (bce(REAL, torch.ones(3)) + bce(FAKE, torch.zeros(3)))
    torch.testing.assert_close(Game.NON_SATURATING.d(REAL, FAKE), wanted)
    torch.testing.assert_close(Game.NON_SATURATING.g(FAKE), bce(FAKE, torch.ones(3)))


def test_gauges_by_hand() -> None:
    found = gauges(REAL.requires_grad_(), FAKE)
    torch.testing.assert_close(found["logit_gap"], torch.tensor(0.5 + 0.5))
    torch.testing.assert_close(found["d_accuracy"], torch.tensor(2 / 3))
    assert not any(v.requires_grad for v in found.values())


def test_adaptive_weight_is_the_ratio_of_gradients() -> None:
    layer = nn.Parameter(torch.tensor([1.0, 1.0]))
    nll, gan = 6 * layer[0] + 8 * layer[1], 5 * layer[0]
    weight = adaptive_weight(nll, gan, layer)
    torch.testing.assert_close(weight, torch.tensor(10 / (5 + 1e-4)))
    assert not weight.requires_grad
    (nll + weight * gan).backward()
    torch.testing.assert_close(layer.grad, torch.tensor([6 + 5 * weight.item(), 8.0]))


def test_adaptive_weight_is_clamped() -> None:
    layer = nn.Parameter(torch.tensor([1.0]))
    assert adaptive_weight((1e6 * layer).sum(), (0 * layer).sum(), layer).item() == 1e4
    assert adaptive_weight((0 * layer).sum(), layer.sum(), layer).item() == 0.0


def test_gradient_penalty_of_a_linear_discriminator() -> None:
    """D(x) = w.x has the slope w everywhere: the penalty is |w|^2 / 2."""
    w, x = torch.randn(12, generator=torch.Generator().manual_seed(0)), torch.randn(5, 3, 2, 2, requires_grad=True)
    penalty = gradient_penalty(x.flatten(1) @ w, x)
    torch.testing.assert_close(penalty, 0.5 * w.square().sum())


def test_gradient_penalty_is_descended_through_the_slope() -> None:
    """D(x) = a |x|^2 / 2 has the slope a x: the penalty is a^2 E|x|^2 / 2, and its own derivative a E|x|^2."""
    a = torch.tensor(3.0, requires_grad=True)
    x = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    square = x.detach().flatten(1).square().sum(1)
    penalty = gradient_penalty(a * x.flatten(1).square().sum(1) / 2, x)
    torch.testing.assert_close(penalty.detach(), 4.5 * square.mean())
    penalty.backward()
    torch.testing.assert_close(a.grad, 3 * square.mean())


def test_relativistic_pairs_by_hand() -> None:
    """real - fake = 4, 1, -2: log(1 + exp(-(real - fake))), and for the generator with the signs turned."""
    gap = [4.0, 1.0, -2.0]
    torch.testing.assert_close(Game.RELATIVISTIC.d(REAL, FAKE), torch.tensor(sum(math.log1p(math.exp(-v)) for v in gap) / 3))
    wanted = torch.tensor(sum(math.log1p(math.exp(v)) for v in gap) / 3)
    torch.testing.assert_close(Game.RELATIVISTIC.g(FAKE, REAL), wanted)


def test_start_by_step_and_ramp() -> None:
    start = GanStart(GanStartConfig(step=10, ramp=4))
    assert [start.factor(s) for s in (0, 9, 10, 11, 13, 100)] == [0, 0, 0.25, 0.5, 1, 1]
    assert GanStart(GanStartConfig(step=0)).factor(0) == 1


def run(start: GanStart, errors: list[float], first: int = 0) -> int | None:
    for i, error in enumerate(errors):
        start.update(first + i, error)
    return start.started_at


FALLING_THEN_FLAT = [max(1.0 - 0.01 * i, 0.4) for i in range(200)]  # flat from step 60


def test_start_waits_until_reconstruction_has_settled() -> None:
    started = run(GanStart(GanStartConfig(window=10, tolerance=0.02)), FALLING_THEN_FLAT)
    assert started is not None
    assert 60 <= started <= 90


def test_bounds_of_the_start() -> None:
    assert run(GanStart(GanStartConfig(window=10, earliest=150)), FALLING_THEN_FLAT) == 159
    assert run(GanStart(GanStartConfig(window=10, latest=30)), FALLING_THEN_FLAT) == 30
    never = GanStart(GanStartConfig(window=10, tolerance=0.02))
    assert run(never, [0.5**i for i in range(100)]) is None
    assert never.factor(10**6) == 0


def test_not_a_number_is_not_a_reading() -> None:
    start = GanStart(GanStartConfig(window=2))
    assert run(start, [float("nan"), float("inf")] * 10) is None
    assert start.state_dict()["count"] == 0


def test_resumed_start_goes_on_exactly() -> None:
    config = GanStartConfig(window=10, tolerance=0.02)
    whole = GanStart(config)
    wanted = run(whole, FALLING_THEN_FLAT)
    for cut in (0, 7, 33, 65, 150):
        first = GanStart(config)
        run(first, FALLING_THEN_FLAT[:cut])
        second = GanStart(config)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert run(second, FALLING_THEN_FLAT[cut:], cut) == wanted
        assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("wrong", [{"step": -1}, {"window": 0}, {"tolerance": 1.0}, {"ramp": -1}])
def test_wrong_configs_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="GAN start"):
        GanStartConfig(**wrong)  # type: ignore[arg-type]
