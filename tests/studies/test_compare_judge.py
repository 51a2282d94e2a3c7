"""The protocol on made-up features whose distances are known on paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.evaluation.scoring import OnBatch, Scorer
from sfumato.studies.judge import FEWEST, Protocol, Reference, judge, nearest

CPU = torch.device("cpu")
DIM, SCALE = 4, 20.0


@dataclass(frozen=True)
class Values(Scorer):
    """A picture's own values are its features: (N, D, 1, 1) uint8 -> (v - 128) / 20."""

    def __call__(
        self, pixels: Tensor, device: torch.device | str = "cpu", batch_size: int = 32, on_batch: OnBatch | None = None
    ) -> Tensor:
        return (pixels.flatten(1).float() - 128) / SCALE


def pictures(count: int, seed: int, shift: float = 0.0, spread: float = 1.0) -> Tensor:
    """Features of N(shift, spread^2) in every dimension, to a twentieth."""
    noise = torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)) * spread + shift
    return (128 + SCALE * noise).round().clamp(0, 255).to(torch.uint8)[..., None, None]


def reference(samples: int = 1500) -> Reference:
    return Reference(pictures(4000, 0), pictures(400, 1), Protocol(samples, num_resamples=50, scorer=Values()), CPU, None)


def test_the_distance_of_known_gaussians() -> None:
    """|shift|^2 D + (spread - 1)^2 D, and next to it what real pictures score: only the bias of a finite number."""
    real = reference()
    for shift, spread in ((0.5, 1.0), (0.0, 1.5), (1.0, 0.5)):
        found = judge(pictures(1500, 2, shift, spread), real, CPU)
        score, expected = found.scores["fd"], DIM * (shift**2 + (spread - 1) ** 2)
        assert score.value == pytest.approx(expected, rel=0.1)
        assert score.low is not None
        assert score.high is not None
        assert score.low < expected < score.high
        assert score.real is not None
        assert score.real < 0.05
        assert found.count == 1500


def test_the_same_distribution_is_as_good_as_real_pictures() -> None:
    found = judge(pictures(1500, 3), reference(), CPU).scores
    for name in ("precision", "recall", "density", "coverage"):
        assert found[name].value == pytest.approx(found[name].real, abs=0.05), name
    assert found["memorised"].value == pytest.approx(1, abs=0.15)
    assert found["copies"].value == pytest.approx(0.05, abs=0.04)


def test_dropped_modes_cost_recall_and_not_precision() -> None:
    half = pictures(3200, 4)
    half = half[half[:, 0, 0, 0] > 128][:1500]  # one side of the first feature
    found = judge(half, reference(), CPU).scores
    assert found["precision"].value == pytest.approx(found["precision"].real, abs=0.05)
    assert found["recall"].value < 0.75 * found["recall"].real
    assert found["coverage"].value < 0.75 * found["coverage"].real


def test_copies_are_found_out() -> None:
    real = reference()
    found = judge(real.training[torch.randperm(4000)[:1500]], real, CPU)
    assert found.scores["memorised"].value == 0
    assert found.scores["copies"].value == 1
    assert bool((found.distances == 0).all())


def test_the_nearest_is_the_nearest() -> None:
    features, gallery = torch.randn(30, 5), torch.randn(700, 5)
    distances, rows = nearest(features, gallery)
    table = (features[:, None].double() - gallery[None].double()).square().sum(-1).sqrt()
    torch.testing.assert_close(distances, table.min(1).values)
    assert rows.tolist() == table.argmin(1).tolist()


def test_fewer_samples_meet_as_few_real_pictures() -> None:
    real = reference()
    found = judge(pictures(200, 5), real, CPU)
    assert found.count == 200
    assert len(real.real(200)) == len(real.other(200)) == 200
    assert {tuple(row) for row in real.real(200).tolist()} <= {tuple(row) for row in real.real(1500).tolist()}
    few = judge(pictures(50, 5), real, CPU)
    assert "fd" not in few.scores
    assert few.missing["fd"] == "50 samples; the covariance of 96 features needs 97."
    assert "recall" in few.scores


def test_reference_and_others_share_no_picture() -> None:
    real = reference(1000)
    assert len(set(real.rows.tolist())) == 1000
    assert len(real.others) == 4000 - 1000 + 400


def test_too_few_pictures_are_refused_naming_the_count() -> None:
    with pytest.raises(InputError, match="samples is 96: expected 97 or more"):
        Protocol(FEWEST - 1)
    with pytest.raises(InputError, match="50 training pictures; a comparison needs 97"):
        Reference(pictures(50, 0), pictures(5, 1), Protocol(200, scorer=Values()), CPU, None)


def test_features_are_kept(tmp_path: Path) -> None:
    protocol = Protocol(100, scorer=Values())
    first = Reference(pictures(150, 0), pictures(20, 1), protocol, CPU, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert torch.equal(Reference(pictures(150, 0), pictures(20, 1), protocol, CPU, tmp_path).others, first.others)


def test_without_held_out_pictures_memory_is_not_judged() -> None:
    real = Reference(pictures(400, 0), pictures(1, 1)[:0], Protocol(150, scorer=Values()), CPU, None)
    found = judge(pictures(150, 2), real, CPU)
    assert "memorised" not in found.scores
    assert found.missing["memorised"] == "no picture is held out."
