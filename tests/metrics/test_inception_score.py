"""The inception score: its two ends, SciPy's divergence, and what the parts cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from sfumato.metrics.inception_score import inception_interval, inception_score


def logits(n: int, classes: int = 5, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def test_the_two_ends() -> None:
    sure = 1e4 * torch.eye(7).repeat(10, 1)
    assert inception_score(sure, 1)[0] == pytest.approx(7, rel=1e-6)
    assert inception_score(sure, 10) == pytest.approx((7, 0), rel=1e-6, abs=1e-6)
    assert inception_score(logits(1).repeat(30, 1), 3) == pytest.approx((1, 0), rel=1e-6, abs=1e-6)
    one = torch.zeros(30, 7)
    one[:, 2] = 1e4
    assert inception_score(one, 1)[0] == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("splits", [1, 3])
def test_agrees_with_scipy(splits: int) -> None:
    given = logits(32)
    scores = []
    for part in np.array_split(softmax(given.double().numpy(), axis=1), [i * 32 // splits for i in range(1, splits)]):
        scores.append(np.exp(rel_entr(part, part.mean(0)).sum(1).mean()))
    assert inception_score(given, splits) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-9)


def test_parts_score_lower_than_the_whole() -> None:
    given = logits(60)
    assert 1 < inception_score(given, 10)[0] < inception_score(given, 1)[0] < 5


def test_interval_lies_around_the_value_and_shrinks_with_pictures() -> None:
    few, many = (inception_interval(logits(n), torch.Generator().manual_seed(0), splits=1) for n in (40, 640))
    for found in (few, many):
        assert found.low < found.value < found.high
    assert many.value == inception_score(logits(640), 1)[0]
    assert many.high - many.low == pytest.approx((few.high - few.low) / 4, rel=0.5)  # 1 / sqrt(16)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="10 inception scores"):
        inception_score(logits(9))
