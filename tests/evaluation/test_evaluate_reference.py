"""Reference features: kept, found again, and never trusted when damaged or of other pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.evaluation.reference import ReferenceCache
from sfumato.evaluation.scoring import Scorer


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of pictures of each run of the network."""
    runs: list[int] = []
    plain = Scorer.__call__

    def call(self: Scorer, pixels: torch.Tensor, *rest: Any) -> torch.Tensor:
        runs.append(len(pixels))
        return plain(self, pixels, *rest)

    monkeypatch.setattr(Scorer, "__call__", call)
    return runs


def test_second_time_comes_from_disk(tmp_path: Path, data: Any, counted: list[int]) -> None:
    held, scorer = data(4, 0), Scorer(resize=None)
    first = ReferenceCache(tmp_path / "new").features(held, scorer)
    again = ReferenceCache(tmp_path / "new").features(data(4, 0), scorer)
    assert torch.equal(first, again)
    assert first.shape == (4, 96)
    assert counted == [4]


def test_other_pictures_order_layer_or_size_are_other_features(tmp_path: Path, data: Any, counted: list[int]) -> None:
    held, cache = data(4, 0), ReferenceCache(tmp_path)
    for pictures, scorer in (
        (held, Scorer(resize=None)),
        (held.take([1, 0, 2, 3]), Scorer(resize=None)),
        (data(4, 1), Scorer(resize=None)),
        (held, Scorer("block9", None)),
        (held, Scorer(resize=64)),
    ):
        torch.testing.assert_close(cache.features(pictures, scorer), scorer(pictures.pixels))
    assert len(list(tmp_path.iterdir())) == 5


def test_damaged_file_is_made_anew(tmp_path: Path, data: Any, counted: list[int]) -> None:
    held, scorer = data(4, 0), Scorer(resize=None)
    first = ReferenceCache(tmp_path).features(held, scorer)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    torch.testing.assert_close(ReferenceCache(tmp_path).features(held, scorer), first)
    assert counted == [4, 4]
    assert torch.equal(ReferenceCache(tmp_path).features(held, scorer), first)
    assert counted == [4, 4]


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path, data: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    features = ReferenceCache(tmp_path / "file").features(data(3, 0), Scorer(resize=None))
    assert features.shape == (3, 96)


def test_batches_change_features_by_rounding_only(data: Any) -> None:
    pixels, scorer = data(5, 0).pixels, Scorer(resize=64)
    torch.testing.assert_close(scorer(pixels, "cpu", 1), scorer(pixels, "cpu", 5), rtol=1e-3, atol=1e-4)
