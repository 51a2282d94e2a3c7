"""Rows that a model's kind decides: distances of reconstructions, LPIPS, density and coverage, models that only decode."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sfumato.errors import InputError
from sfumato.evaluation.likelihood import Bits, Kind
from sfumato.evaluation.protocol import Sets, evaluate
from sfumato.evaluation.scoring import Scorer
from sfumato.features.mobilenet import MobileNetV2Features
from sfumato.first_stages.generator import GeneratorFirstStage
from sfumato.generation.pixels import to_bytes, to_unit
from sfumato.losses.perceptual import PerceptualLoss
from sfumato.metrics.frechet import frechet_distance, moments
from sfumato.networks.generator import GeneratorConfig

ONLY = GeneratorConfig(dim=4, widths=(8, 8), mapping_width=8)


def test_the_distance_of_reconstructions_is_theirs_to_their_originals(data: Any, pooling: Any, settings: Any) -> None:
    held = data(97, 0)
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
    few = evaluate(pooling(2), Sets(data(96, 0)), settings()).report
    assert "reconstruction/fd" not in few
    assert any("reconstructions is left out: 96 pictures, and a covariance of 96 features needs 97." in n for n in few.notes)
    chosen = evaluate(pooling(2), Sets(held), settings(distance=False)).report
    assert "reconstruction/fd" not in chosen
    assert "reconstruction/psnr" in chosen


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
    held, rest, without = data(24, 0), data(24, 1), settings(distance=False)
    report = evaluate(pooling(1), Sets(held, rest=rest), without, oracle(held)).report
    for key in ("density", "coverage"):
        assert report[key].value == pytest.approx(report[key].floor, rel=1e-6)
        assert report[key].label == f"{key} (k = 5)"
    collapsed = evaluate(
        pooling(1), Sets(held, rest=rest), without, lambda prompts, seeds: rest.pixels[:1].expand(len(prompts), -1, -1, -1)
    ).report
    assert collapsed["density"].value > 0
    assert collapsed["coverage"].value < 0.5 < report["coverage"].value


def test_a_model_that_only_decodes(data: Any, oracle: Any, settings: Any) -> None:
    held, rest = data(16, 0), data(16, 1)
    found = evaluate(GeneratorFirstStage(ONLY), Sets(held, rest=rest), settings(distance=False), oracle(held))
    assert found.reconstructions is None
    assert not any(row.key.startswith("reconstruction") for row in found.report.rows)
    assert "retrieval_ceiling" not in found.report
    assert found.report["retrieval"].value == 1.0
    assert any("only decodes" in note for note in found.report.notes)
    with pytest.raises(InputError, match="only decodes"):
        evaluate(GeneratorFirstStage(ONLY), Sets(held), settings())


def test_captions_are_repeated_with_other_seeds(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, rest, model = data(9, 0), data(97, 1), oracle(data(9, 0))
    report = evaluate(pooling(1), Sets(held, rest=rest), settings(num=97, repeat=True, seed=50), model).report
    assert [p for prompts, _ in model.calls for p in prompts] == [held.captions[i % 9] for i in range(97)]
    assert [s for _, seeds in model.calls for s in seeds] == list(range(50, 147))
    assert report["fd"].count == 97
    assert [report[key].floor is None for key in ("fd", "recall", "coverage", "precision", "density", "kd")] == [True] * 3 + [
        False
    ] * 3
    assert report["retrieval"].count == 9
    assert report.manifest["counts"] == {"drawn": 9, "generated": 97}


def test_a_singular_covariance_is_refused_before_anything_is_drawn(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, rest = data(96, 0), data(97, 1)
    model, told = oracle(held), list[str]()
    with pytest.raises(
        InputError, match=r"needs at least 97, for a covariance of 96 features; give more \(--data: only 96 are held out\)"
    ) as error:
        evaluate(pooling(1), Sets(held, rest=rest), settings(), model, progress=lambda what, done, total: told.append(what))
    assert "\n" not in str(error.value)
    assert model.calls == told == []


def test_what_needs_no_covariance_is_measured_with_few_pictures(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    """Six a side for five neighbours; retrieval for a single one."""
    held, rest, without = data(6, 0), data(6, 1), settings(distance=False)
    report = evaluate(pooling(1), Sets(held, rest=rest), without, oracle(held)).report
    keys = {row.key for row in report.rows if not row.key.startswith("reconstruction")}
    assert keys == {"kd", "precision", "recall", "density", "coverage", "retrieval", "retrieval_ceiling"}
    assert "The Frechet distance is left out, as asked." in report.notes
    one = evaluate(pooling(1), Sets(held, rest=rest), settings(distance=False, num=1), oracle(held)).report
    assert "kd" not in one
    assert one["retrieval"].value == 1.0
    assert any("1 pictures a side, and 5 neighbours need 6" in note for note in one.notes)


@pytest.mark.parametrize(
    ("held", "rest", "num", "repeat", "enough"),
    [
        (96, 120, None, False, False),
        (97, 120, None, False, True),
        (120, 96, None, False, False),
        (120, 120, 96, False, False),
        (6, 120, 140, False, False),
        (6, 120, 140, True, True),
        (193, None, None, False, False),
        (194, None, None, False, True),
    ],
)
def test_the_count_that_a_covariance_needs(
    data: Any, settings: Any, held: int, rest: int | None, num: int | None, repeat: bool, enough: bool
) -> None:
    sets = Sets(data(held, 0), rest=None if rest is None else data(rest, 1))
    asked = settings(num=num, repeat=repeat)
    sets.check_count(settings(num=num, repeat=repeat, distance=False))
    if enough:
        sets.check_count(asked)
        return
    with pytest.raises(InputError, match="needs at least " + ("194, 97 a half" if rest is None else "97")) as error:
        sets.check_count(asked)
    assert ("--protocol quick" in str(error.value)) == (not repeat)
    narrow = settings(num=num, repeat=repeat, scorer=Scorer("block2", None))
    if min(held, 120 if rest is None else rest) >= 25:
        sets.check_count(narrow)  # 24 features


def test_the_number_of_features_is_the_layers(data: Any) -> None:
    for name in MobileNetV2Features.names:
        scorer = Scorer(name, None)
        assert scorer(data(1, 0).pixels).shape == (1, scorer.dims)
        assert scorer.fewest == scorer.dims + 1


def test_bits_are_a_row_with_an_interval(data: Any, pooling: Any, settings: Any) -> None:
    values = torch.tensor([3.0, 4.0, 5.0, 6.0], dtype=torch.float64)
    report = evaluate(
        pooling(1),
        Sets(data(9, 0)),
        settings(),
        bits=lambda held: [Bits(values, Kind.chain, "Said of the chain."), Bits(values / 2, Kind.codes, "And of codes.")],
    ).report
    assert report["bits_per_code"].value == 2.25
    row = report["bits_per_dimension"]
    assert (row.value, row.count, row.unit, row.better) == (4.5, 4, "bits", "lower")
    assert row.label == "bits per dimension (bound)"
    assert row.low is not None
    assert 3 <= row.low < 4.5
    assert {"Said of the chain.", "And of codes."} <= set(report.notes)
