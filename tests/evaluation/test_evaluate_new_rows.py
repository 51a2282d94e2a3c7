"""Rows that a model's kind decides: distances of reconstructions, LPIPS, density and coverage, models that only decode."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sfumato.errors import InputError
from sfumato.evaluation.likelihood import Bits, Kind
from sfumato.evaluation.protocol import Sets, evaluate
from sfumato.evaluation.scoring import Scorer
from sfumato.first_stages.generator import GeneratorFirstStage
from sfumato.generation.pixels import to_bytes, to_unit
from sfumato.losses.perceptual import PerceptualLoss
from sfumato.metrics.frechet import frechet_distance, moments
from sfumato.networks.generator import GeneratorConfig

ONLY = GeneratorConfig(dim=4, widths=(8, 8), mapping_width=8)


def test_the_distance_of_reconstructions_is_theirs_to_their_originals(data: Any, pooling: Any, settings: Any) -> None:
    held = data(20, 0)
    lossless, little, much = (evaluate(pooling(f), Sets(held), settings()).report["reconstruction/fd"] for f in (1, 2, 8))
    assert lossless.value == pytest.approx(0, abs=1e-6)
    assert lossless.high == pytest.approx(0, abs=1e-6)  # pairs are resampled together
    assert 0 < little.value < much.value
    assert little.low < little.value < little.high
    stage, scorer = pooling(2), Scorer(resize=None)
    x = to_unit(held.pixels)
    made = to_bytes(stage.decode(stage.posterior(x).mode()))
    wanted = frechet_distance(moments(scorer(made)), moments(scorer(held.pixels)))
    assert little.value == pytest.approx(wanted, rel=1e-4)
    assert "reconstruction/fd" not in evaluate(pooling(2), Sets(data(7, 0)), settings()).report


def test_lpips_stands_beside_the_embedded_distance(data: Any, pooling: Any, settings: Any) -> None:
    held, stage = data(9, 0), pooling(2)
    loss = PerceptualLoss.embedded(("block1",))  # in the place of VGG16: the row is whatever loss was given
    report = evaluate(stage, Sets(held), settings(lpips=loss)).report
    x = to_unit(held.pixels)
    wanted = loss(to_unit(to_bytes(stage.decode(stage.posterior(x).mode()))), x).mean()
    assert report["reconstruction/lpips"].value == pytest.approx(float(wanted), rel=1e-4)
    assert report["reconstruction/lpips"].value != report["reconstruction/perceptual"].value
    assert "reconstruction/lpips" not in evaluate(stage, Sets(held), settings()).report


def test_density_and_coverage_of_an_oracle_are_the_floors(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, rest = data(24, 0), data(24, 1)
    report = evaluate(pooling(1), Sets(held, rest=rest), settings(), oracle(held)).report
    for key in ("density", "coverage"):
        assert report[key].value == pytest.approx(report[key].floor, rel=1e-6)
        assert report[key].label == f"{key} (k = 5)"
    collapsed = evaluate(
        pooling(1), Sets(held, rest=rest), settings(), lambda prompts, seeds: rest.pixels[:1].expand(len(prompts), -1, -1, -1)
    ).report
    assert collapsed["density"].value > 0
    assert collapsed["coverage"].value < 0.5 < report["coverage"].value


def test_a_model_that_only_decodes(data: Any, oracle: Any, settings: Any) -> None:
    held, rest = data(16, 0), data(16, 1)
    found = evaluate(GeneratorFirstStage(ONLY), Sets(held, rest=rest), settings(), oracle(held))
    assert found.reconstructions is None
    assert not any(row.key.startswith("reconstruction") for row in found.report.rows)
    assert "retrieval_ceiling" not in found.report
    assert found.report["retrieval"].value == 1.0
    assert any("only decodes" in note for note in found.report.notes)
    with pytest.raises(InputError, match="only decodes"):
        evaluate(GeneratorFirstStage(ONLY), Sets(held), settings())


def test_captions_are_repeated_with_other_seeds(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, rest, model = data(9, 0), data(20, 1), oracle(data(9, 0))
    report = evaluate(pooling(1), Sets(held, rest=rest), settings(num=20, repeat=True, seed=50), model).report
    assert [p for prompts, _ in model.calls for p in prompts] == [held.captions[i % 9] for i in range(20)]
    assert [s for _, seeds in model.calls for s in seeds] == list(range(50, 70))
    assert report["fd"].count == 20
    assert [report[key].floor is None for key in ("fd", "recall", "coverage", "precision", "density", "kd")] == [True] * 3 + [
        False
    ] * 3
    assert report["retrieval"].count == 9
    assert report.manifest["counts"] == {"drawn": 9, "generated": 20}


def test_a_singular_covariance_is_said(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, rest = data(16, 0), data(16, 1)
    notes = evaluate(pooling(1), Sets(held, rest=rest), settings(), oracle(held)).report.notes
    assert any("singular covariance of 96 features" in note and "97 or more" in note for note in notes)


@pytest.mark.parametrize(
    ("held", "rest", "num", "repeat", "enough"),
    [
        (7, 30, None, False, False),
        (8, 30, None, False, True),
        (30, 7, None, False, False),
        (30, 30, 7, False, False),
        (6, 30, 40, False, False),
        (6, 30, 40, True, True),
        (15, None, None, False, False),
        (16, None, None, False, True),
    ],
)
def test_the_count_that_a_covariance_needs(
    data: Any, held: int, rest: int | None, num: int | None, repeat: bool, enough: bool
) -> None:
    sets = Sets(data(held, 0), rest=None if rest is None else data(rest, 1))
    if enough:
        sets.check_count(num, repeat)
        return
    with pytest.raises(InputError, match=f"needs at least {16 if rest is None else 8}"):
        sets.check_count(num, repeat)


def test_bits_are_a_row_with_an_interval(data: Any, pooling: Any, settings: Any) -> None:
    values = torch.tensor([3.0, 4.0, 5.0, 6.0], dtype=torch.float64)
    report = evaluate(
        pooling(1), Sets(data(9, 0)), settings(), bits=lambda held: Bits(values, Kind.chain, "Said of the chain.")
    ).report
    row = report["bits_per_dimension"]
    assert (row.value, row.count, row.unit, row.better) == (4.5, 4, "bits", "lower")
    assert row.label == "bits per dimension (bound)"
    assert row.low is not None
    assert 3 <= row.low < 4.5
    assert "Said of the chain." in report.notes
