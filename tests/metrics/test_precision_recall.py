"""Precision and recall: against plain loops and on sets where both are known."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.distance import cdist

from sfumato.metrics import precision_recall as module
from sfumato.metrics.precision_recall import precision_recall, radii


def normal(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) + shift


def test_agrees_with_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    real, fake = normal(40, 0), normal(30, 1, 0.5)

    def manifold(queries: torch.Tensor, features: torch.Tensor) -> list[bool]:
        own = cdist(features.double(), features.double())
        own.sort(axis=1)
        return (cdist(queries.double(), features.double()) <= own[:, 3][None]).any(1).tolist()

    precise, covered = precision_recall(real, fake)
    assert precise.tolist() == manifold(fake, real)
    assert covered.tolist() == manifold(real, fake)
    assert 0 < precise.float().mean() < 1


def test_known_cases() -> None:
    real = normal(50, 0)
    same = precision_recall(real, real.clone())
    assert same[0].all()
    assert same[1].all()
    far = precision_recall(real, real + 100)
    assert not far[0].any()
    assert not far[1].any()
    collapsed = precision_recall(real, real[:1] + 1e-3 * normal(50, 1))
    assert collapsed[0].all()
    assert collapsed[1].float().mean() < 0.1


def test_k_needs_more_features() -> None:
    with pytest.raises(ValueError, match="more than 3"):
        radii(normal(3, 0))
