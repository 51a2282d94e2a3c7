"""A whole comparison: two families in seconds, of which one diverges; what is there is kept, and brought together."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from sfumato.data.dataset import ImageDataset
from sfumato.errors import InputError
from sfumato.io.weights import read_weights
from sfumato.recipes import RECIPES
from sfumato.studies import families as table
from sfumato.studies.compare import Comparison, Settings
from sfumato.studies.families import choose
from sfumato.studies.judge import Protocol
from sfumato.studies.results import DIVERGED, DONE, NEIGHBOURS, RESULT, SAMPLES, read_result, read_results
from sfumato.training.config import RunConfig
from sfumato.training.loop import CLOCK
from tiny_runs import small_config, write_folder

CPU = torch.device("cpu")
SETTINGS = Settings(0.005, 16, 50, 5.0, 20, Protocol(100, num_resamples=20, bits=4))


def wild() -> RunConfig:
    """A learning rate at which nothing stays finite."""
    config = small_config("prior.train.max_bad_steps=3", "prior.train.warmup_steps=0")
    train = dataclasses.replace(config.prior.train, learning_rate=1e30)
    return dataclasses.replace(config, prior=dataclasses.replace(config.prior, train=train))


@pytest.fixture(scope="module")
def recipes() -> dict[str, Callable[[], RunConfig]]:
    return {"good": small_config, "wild": wild}


@pytest.fixture(autouse=True)
def few(recipes: dict[str, Callable[[], RunConfig]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "RECIPES", recipes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "pictures", 130)


@pytest.fixture(scope="module")
def finished(
    data: Path, recipes: dict[str, Callable[[], RunConfig]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    out, lines = tmp_path_factory.mktemp("compare") / "out", list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "RECIPES", recipes)
        Comparison(data, out, SETTINGS, CPU, True, lines.append).run(choose(["wild", "good"]))
    return out, lines


def test_one_diverges_and_the_other_goes_on(finished: tuple[Path, list[str]]) -> None:
    out, lines = finished
    wild_one, good = read_result(out / "wild"), read_result(out / "good")
    assert wild_one is not None
    assert good is not None
    assert (wild_one.status, good.status) == (DIVERGED, DONE)
    assert "3 steps in a row were not finite" in wild_one.reason
    assert [curve.stage for curve in wild_one.curves][:1] == ["first_stage"]
    assert any("1 to go" in line for line in lines)
    assert not any("/" in str(value) for value in good.data.values())  # no place of this machine


def test_what_is_kept_of_a_family(finished: tuple[Path, list[str]]) -> None:
    out, _ = finished
    good = read_result(out / "good")
    assert good is not None
    clocks = {s: json.loads((out / "good" / s / CLOCK).read_text()) for s in ("first_stage", "prior")}
    for stage, share in (("first_stage", 0.4), ("prior", 0.6)):
        assert good.stages[stage].seconds == clocks[stage]["seconds"] >= share * 0.3
        assert good.stages[stage].rate == pytest.approx(clocks[stage]["steps"] * 4 / clocks[stage]["seconds"])
    assert set(good.scores) == {"fd", "precision", "recall", "density", "coverage", "memorised", "copies"}
    assert good.bits_kind.startswith("a diffusion prior over a first stage's latents bounds their density")
    assert good.bits_kind.endswith(".")
    assert (good.num_samples, good.minutes, good.batch_size) == (100, 0.005, 50)
    assert read_weights(out / "good" / "samples" / "samples.safetensors")["pixels"].shape == (100, 3, 16, 16)
    assert (out / "good" / SAMPLES).is_file()
    assert (out / "good" / NEIGHBOURS).is_file()
    assert set(good.parameters) == {"first stage", "prior"}


def test_what_is_there_is_not_made_again(finished: tuple[Path, list[str]], data: Path) -> None:
    out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.suffix != ".lock"}
    lines: list[str] = []
    found = Comparison(data, out, SETTINGS, CPU, True, lines.append).run(choose(["good", "wild"]))
    assert [result.family for result in found] == ["good", "wild"]
    assert lines == [lines[0], "[2/2] wild: kept, diverged."]
    assert "kept, FD" in lines[0]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_another_protocol_judges_anew_without_training(finished: tuple[Path, list[str]], data: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    weights = (out / "good" / "model" / "model.safetensors").read_bytes()
    other = dataclasses.replace(SETTINGS, protocol=Protocol(101, num_resamples=20, bits=4))
    found = Comparison(data, out, other, CPU, True).run(choose(["good"]))
    assert found[0].num_samples == 101
    assert (out / "good" / "model" / "model.safetensors").read_bytes() == weights


def test_a_shorter_budget_than_what_was_trained_is_refused(finished: tuple[Path, list[str]], data: Path) -> None:
    """Else five minutes of training would be shown as one."""
    kept = (finished[0] / "good" / RESULT).read_bytes()
    with pytest.raises(InputError, match=r"good: its first_stage was trained for 0\.12 s, and 0\.096 s are asked for"):
        Comparison(data, finished[0], dataclasses.replace(SETTINGS, minutes=0.004), CPU, True).run(choose(["good"]))
    assert (finished[0] / "good" / RESULT).read_bytes() == kept


def test_a_family_in_other_hands_is_left_alone(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    with FileLock(tmp_path / ".good.lock"):
        found = Comparison(data, tmp_path, SETTINGS, CPU, True, lines.append).run(choose(["good"]))
    assert found == []
    assert lines == ["[1/1] good: another process is at work on it; left to it."]
    assert not (tmp_path / "good").exists()


def test_results_are_brought_together_by_copying(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    for name in ("good", "wild"):
        (tmp_path / name).mkdir()
        shutil.copy(finished[0] / name / RESULT, tmp_path / name)
    assert [r.family for r in read_results(tmp_path, ["wild"])] == ["wild", "good"]
    assert read_results(tmp_path, []) == sorted(read_results(finished[0], []), key=lambda r: r.family)


def test_damaged_results_are_named(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    path = tmp_path / "good" / RESULT
    path.parent.mkdir()
    whole = json.loads((finished[0] / "good" / RESULT).read_text())
    for text, words in (
        (json.dumps(whole | {"format": 99}), "not a result of this release"),
        (json.dumps({k: v for k, v in whole.items() if k != "title"}), "no whole result"),
        (json.dumps(whole | {"scores": {"fd": {"worth": 3}}}), "no whole result"),
        (json.dumps(whole | {"curves": [{"stage": "prior"}]}), "no whole result"),
        ("[1, 2]", "holds no table"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_result(path.parent)


def test_the_data_are_asked_before_anything_is_trained(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "few", 30)
    with pytest.raises(InputError, match="a comparison needs 97 or more"):
        Comparison(data, tmp_path / "out", SETTINGS, CPU, True).run(choose(["good"]))
    assert not (tmp_path / "out" / "good").exists()
    with pytest.raises(InputError, match="lies inside --data"):
        Comparison(data, data / "out", SETTINGS, CPU, True).run(choose(["good"]))


def test_pictures_are_read_once_for_all_families(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    load_all, hashed = ImageDataset.load_all, ImageDataset._hashed
    monkeypatch.setattr(ImageDataset, "load_all", lambda self: (calls.append(len(self)), load_all(self))[1])
    monkeypatch.setattr(ImageDataset, "_hashed", lambda self: (calls.append(-len(self)), hashed(self))[1])
    monkeypatch.setattr(table, "RECIPES", {"good": small_config, "other": small_config})
    comparison = Comparison(data, tmp_path, SETTINGS, CPU, True)
    assert all(result.done for result in comparison.run(choose(["good", "other"])))
    train, held = len(comparison.prepared.train), len(comparison.prepared.held_out)
    assert sorted(calls) == sorted([-train, train, held])


def test_shipped_recipes_are_families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "RECIPES", RECIPES)
    assert choose(["vq-tiny"])[0].recipe == "vq-tiny"
