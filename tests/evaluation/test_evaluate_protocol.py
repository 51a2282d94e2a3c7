"""The protocol on models whose quality is known: the oracle, the constant one, and what lies between."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from sfumato.errors import InputError
from sfumato.evaluation.data import EvaluationData
from sfumato.evaluation.protocol import Sets, Settings, evaluate
from sfumato.evaluation.scoring import Scorer


def test_an_oracle_reaches_the_floor(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    """Pictures equal to the truth: retrieval 1, and every distance equal to its real-versus-real floor."""
    held, rest = data(98, 0), data(98, 1)
    found = evaluate(pooling(1), Sets(held, rest=rest), settings(), oracle(held))
    report = found.report
    assert report["retrieval"].value == 1.0
    assert report["retrieval"].floor == 2 / 98
    assert report["retrieval_ceiling"].value == 1.0
    assert report["fd_ratio"].value == pytest.approx(1.0, rel=1e-6)
    for key in ("fd", "kd", "precision", "recall"):
        assert report[key].value == pytest.approx(report[key].floor, rel=1e-6), key
    assert report["fd"].value > 0
    assert report.groups == {"blue": 1.0, "red": 1.0}
    assert found.hits is not None
    assert found.hits.tolist() == [1.0] * 98


def test_a_constant_model_fails(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, rest = data(98, 0), data(98, 1)

    def constant(prompts: list[str], seeds: list[int]) -> torch.Tensor:
        return held.pixels[:1].expand(len(prompts), -1, -1, -1)

    report = evaluate(pooling(1), Sets(held, rest=rest), settings(), constant).report
    assert report["retrieval"].value <= 2 / 98 + 1e-9  # one picture a group at most
    assert report["fd_ratio"].value > 3
    assert report["kd"].value > 10 * abs(report["kd"].floor)
    assert report["recall"].value <= 1 / 98 + 1e-9


def test_a_blurred_model_lies_between(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, rest = data(97, 0), data(97, 1)
    blurred = EvaluationData(
        torch.nn.functional.avg_pool2d(held.pixels.float(), 5, 1, 2).byte(), held.captions, held.groups, held.names
    )
    good, worse = (evaluate(pooling(1), Sets(held, rest=rest), settings(), oracle(source)).report for source in (held, blurred))
    assert worse["fd"].value > good["fd"].value


def test_reconstruction_alone(data: Any, pooling: Any, settings: Any) -> None:
    held = data(5, 0)
    found = evaluate(pooling(1), Sets(held), settings())
    assert found.generated is None
    assert found.report["reconstruction/psnr"].value == 100.0
    assert found.report["reconstruction/ssim"].value == pytest.approx(1.0)
    assert found.report["reconstruction/perceptual"].value == pytest.approx(0.0, abs=1e-6)
    assert "fd" not in found.report
    assert found.report.manifest["counts"] == {"drawn": 5, "generated": 0}


def test_each_picture_has_its_own_seed_across_batches(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, model = data(10, 0), oracle(data(10, 0))
    evaluate(pooling(1), Sets(held), settings(seed=100, batch_size=4, distance=False), model)
    assert [len(prompts) for prompts, _ in model.calls] == [4, 4, 2]
    assert [s for _, seeds in model.calls for s in seeds] == list(range(100, 110))
    assert [p for prompts, _ in model.calls for p in prompts] == held.captions


def test_few_queries_still_meet_the_whole_gallery(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, rest = data(30, 0), data(30, 1)
    model = oracle(held)
    found = evaluate(pooling(1), Sets(held, rest=rest), settings(num=9, distance=False), model)
    assert len(found.drawn) == len(set(found.drawn)) == 9
    assert found.report["retrieval"].count == 9
    assert found.report["retrieval"].floor == 2 / 30
    assert found.report["kd"].count == 9


def test_more_pictures_than_held_come_from_extra_and_not_into_the_gallery(
    data: Any, oracle: Any, pooling: Any, settings: Any
) -> None:
    held, extra, rest = data(12, 0), data(90, 1), data(120, 2)
    found = evaluate(pooling(1), Sets(held, extra, rest), settings(num=100), oracle(held, extra))
    report = found.report
    assert list(found.drawn[:12]) == list(range(12))
    assert len(set(found.drawn)) == 100
    assert report["fd"].count == 100
    assert report["retrieval"].count == report["reconstruction/psnr"].count == 12
    assert report["fd_ratio"].value == pytest.approx(1.0, rel=1e-6)


def test_without_other_pictures_real_ones_are_halved(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held = data(194, 0)
    report = evaluate(pooling(1), Sets(held), settings(), oracle(held)).report
    assert report["fd"].count == 97
    assert report["fd_ratio"].value == pytest.approx(1.0, rel=1e-6)
    assert any("half" in note for note in report.notes)


def test_captions_that_name_classes_have_no_retrieval(data: Any, pooling: Any, settings: Any) -> None:
    held = data(24, 0)
    classes = EvaluationData(held.pixels, held.groups, held.groups, held.names)
    without = settings(distance=False)
    report = evaluate(pooling(1), Sets(classes), without, lambda prompts, seeds: held.pixels[: len(prompts)]).report
    assert "retrieval" not in report
    assert "kd" in report
    assert any("left out" in note for note in report.notes)


def test_same_settings_same_numbers(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, rest = data(120, 0), data(120, 1)
    once, again = (evaluate(pooling(2), Sets(held, rest=rest), settings(num=97), oracle(held)).report for _ in range(2))
    assert once.rows == again.rows
    other = evaluate(pooling(2), Sets(held, rest=rest), settings(num=97, seed=5), oracle(held)).report
    assert other.rows != once.rows


def test_manifest_tells_everything(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, rest = data(16, 0), data(16, 1)
    about = {"model": {"name": "toy"}, "sampling": {"sampler": "ddim", "steps": 3, "guidance": 2.0}}
    report = evaluate(pooling(1), Sets(held, rest=rest), settings(seed=3, distance=False), oracle(held), about=about).report
    manifest = json.loads(json.dumps(report.to_json(), allow_nan=False))["manifest"]
    assert manifest["model"] == {"name": "toy"}
    assert manifest["sampling"]["steps"] == 3
    assert manifest["seed"] == 3
    assert manifest["counts"] == {"drawn": 16, "generated": 16}
    assert len(manifest["extractor"]["sha256"]) == 64
    assert manifest["extractor"]["layer"] == "block10"
    assert manifest["scoring_layer_in_training_loss"] is False
    assert manifest["data"]["held"] == {"count": 16, "pixels_sha256": held.fingerprint}
    assert manifest["data"]["rest"]["pixels_sha256"] != held.fingerprint
    assert manifest["made_by"]["torch"] == torch.__version__


def test_scoring_with_a_training_layer_is_said(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held = data(16, 0)
    report = evaluate(pooling(1), Sets(held), settings(scorer=Scorer("block8", None), distance=False), oracle(held)).report
    assert report.manifest["scoring_layer_in_training_loss"] is True
    assert any("used this layer" in note for note in report.notes)


def test_transparent_and_grey_pictures(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    for channels in (1, 4):
        held = data(16, 0, channels=channels)
        report = evaluate(pooling(1), Sets(held), settings(distance=False), oracle(held)).report
        assert report["retrieval"].value == 1.0
        assert report.manifest["image_size"] == [channels, 32, 32]
        assert ("reconstruction/alpha_psnr" in report) == (channels == 4)
        assert any("measured on white" in note for note in report.notes) == (channels == 4)


def test_transparent_pictures_are_measured_on_white(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    """All numbers that RGB models have are theirs, whatever alpha is."""
    held, rest = data(97, 0, channels=4), data(97, 1, channels=4)
    white, others = (dataclasses.replace(d, pixels=d.pixels[:, :3]) for d in (held, rest))
    four, three = (
        evaluate(pooling(2), Sets(d, rest=r), settings(), oracle(d)).report for d, r in ((held, rest), (white, others))
    )
    assert {"fd", "reconstruction/fd"} <= {row.key for row in three.rows}
    assert "reconstruction/alpha_psnr" not in three
    assert len(four.rows) == len(three.rows) + 1
    for row in three.rows:
        assert four[row.key].value == pytest.approx(row.value, rel=1e-4, abs=1e-6)


def test_progress_reaches_the_end_of_each_part(data: Any, oracle: Any, pooling: Any, settings: Any) -> None:
    held, told = data(16, 0), dict[str, tuple[int, int]]()

    def progress(what: str, done: int, total: int) -> None:
        told[what] = (done, total)

    evaluate(pooling(1), Sets(held), settings(distance=False), oracle(held), progress=progress)
    assert {"reconstruct", "generate", "features of generated", "features of held-out"} <= set(told)
    assert all(done == total == 16 for done, total in told.values())


def test_wrong_settings_and_data_are_refused(data: Any) -> None:
    with pytest.raises(InputError, match="num is 0"):
        Settings(num=0)
    with pytest.raises(InputError, match="at least one picture"):
        EvaluationData(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), [], [], [])
    with pytest.raises(InputError, match="uint8"):
        EvaluationData(torch.zeros(1, 3, 8, 8), ["a"], ["b"], ["c"])
    with pytest.raises(ValueError, match="no layer"):
        Scorer("block11")
