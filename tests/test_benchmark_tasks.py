"""`benchmarks/tasks.py`: every action on tiny models, and the numbers that are known beforehand.

A model that returned the true pictures would be at no distance from them and would agree with its conditions as they do.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from made_emoji import write_emoji
from sfumato.build import ModelConfig
from sfumato.conditioners.label import LabelConfig
from sfumato.conditioners.layout import LayoutConfig
from sfumato.conditioners.masked import MaskedImageConfig
from sfumato.conditioners.retrieved import RetrievedConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.data.scene_classes import NAMES
from sfumato.data.scenes import build_scenes
from sfumato.evaluation.scoring import Scorer
from sfumato.evaluation.tasks.recovery import RecoveryTraining
from task_models import CONTEXT, mask_config, small_config, with_conditioner, with_text
from test_benchmarks import script
from tiny_models import text_config, unconditional_config, write_model
from tiny_runs import COLOURS, picture

TEST, TRAIN = 8, 16
SETTINGS = ("--device=cpu", "--batch-size=8", "--where=style=plain", "--label=colour")


def words_config() -> ModelConfig:
    """Text and a mask, by the names that `sfumato train inpaint` gives them."""
    return with_conditioner(with_text("mask", MaskedImageConfig()), concat=5, context=True)


def boxes_config() -> ModelConfig:
    things = LayoutConfig(CONTEXT, 1, 512, 4, len(NAMES) - 1, 2, 16, names=NAMES[1:])
    return with_conditioner(things, context=True)


MODELS: dict[str, Callable[[], ModelConfig]] = {
    "text": text_config,
    "nothing": unconditional_config,
    "small": small_config,
    "mask": mask_config,
    "words": words_config,
    "class": lambda: with_conditioner(LabelConfig(tuple(COLOURS), CONTEXT), context=True),
    "near": lambda: with_conditioner(RetrievedConfig(2, 1, width=CONTEXT), context=True),
    "map": lambda: with_conditioner(SegmentationConfig(len(NAMES), 3, 1, names=NAMES), concat=3),
    "boxes": boxes_config,
}
ACTIONS = {
    "upscale": ("small",), "inpaint": ("mask", "words", "text"), "words": ("words",), "guidance": ("class",),
    "style": ("nothing",), "retrieval": ("near",), "semantic": ("map",), "layout": ("boxes",), "relations": ("text",),
}  # fmt: skip
SCENES = ("semantic", "layout", "relations")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models by their names, and the data: `emoji` with its metadata, `scenes` with maps and boxes."""
    root = tmp_path_factory.mktemp("benchmark")
    for name, config in MODELS.items():
        write_model(root / name, config())
    rows = []
    (root / "emoji").mkdir()
    for index in range(TRAIN + TEST):
        page, caption = picture(index, 16)
        Image.fromarray(page).save(root / "emoji" / f"{index:02d}.png")
        row = {"file_name": f"{index:02d}.png", "text": caption, "colour": caption.split()[1], "style": "plain"}
        rows.append(row | {"split": "train" if index < TRAIN else "test", "group": "pairs" if index % 8 == 7 else "objects"})
    (root / "emoji" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = write_emoji(root / "drawings", 32)
    build_scenes(root / "scenes", 12, 12, 1, size=32, max_objects=2, sources=sources, workers=1)
    return root


def narrow(pixels: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Three features of a picture: a covariance of them needs but four pictures."""
    return Scorer()(pixels, device)[:, :3]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with few resamples for its intervals and few pictures a step for its segmenter."""
    found = script("tasks")
    monkeypatch.setattr(found, "RecoveryTraining", lambda steps, batch_size: RecoveryTraining(steps, 8))
    for name in ("agreement", "box_overlap", "closeness", "found_in_boxes", "frechet_interval", "guidance_curve", "inpainting",
                 "relational", "super_resolution", "thing_overlap"):  # fmt: skip
        monkeypatch.setattr(found, name, functools.partial(getattr(found, name), num_resamples=10))
    monkeypatch.setattr(found, "SCORER", narrow)
    monkeypatch.setattr(found, "inpainting", functools.partial(found.inpainting, scorer=narrow))
    return found


def measured(module: ModuleType, action: str, made: Path, out: Path) -> dict[str, Any]:
    """The rows that an action writes, its segmenter trained once for all."""
    data = made / ("scenes" if action in SCENES else "emoji")
    models = [f"{name}={made / name}" for name in ACTIONS[action]]
    segmenter = [f"--segmenter={made / 'segmenter.safetensors'}", "--segmenter-steps=2"]
    module.main([action, "--data", str(data), "--models", *models, "--out", str(out), *SETTINGS, *segmenter])
    return json.loads((out / f"{action}.json").read_text())


ROWS = {
    "upscale": ["small", "reconstruction", "bicubic", "small, FD", "reconstruction, FD", "bicubic, FD"],
    "inpaint": [
        f"{share} {model}"
        for share in ("25%", "50%")
        for model in ("mask", "words, told", "words, not told", "text, told", "text, not told")
    ],
    "words": ["words: true", "words: none", "words: another's"],
    "guidance": ["floor: training pictures", *(f"guidance {scale}" for scale in ("1", "1.5", "2", "3", "4", "6"))],
    "style": ["floor: the other half", "nothing"],
    "retrieval": ["neighbours: nearest", "neighbours: by chance", "neighbours: none"],
    "semantic": ["maps: true pictures", "maps: model", "semantic: FD", "training scenes: FD"],
    "layout": ["maps: true pictures", "boxes: true pictures", "boxes: model", "layout: FD", "training scenes: FD"],
    "relations": ["maps: true pictures", "relations: true pictures", "relations: model"],
}


def values(row: dict[str, Any]) -> list[float]:
    """All numbers of a row; an interval holds its value's bounds in order."""
    found = []
    for value in row.values():
        if isinstance(value, dict):
            assert value["low"] <= value["high"]
            found += [value["value"], value["low"], value["high"]]
        elif value is not None:
            found.append(value)
    return found


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_writes_its_rows(
    action: str, module: ModuleType, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(module, action, made, tmp_path)
    about = found.pop("about")
    assert list(found) == ROWS[action]
    assert list(about["models"]) == list(ACTIONS[action])
    assert all(math.isfinite(value) for row in found.values() for value in values(row))
    told = capsys.readouterr().out.splitlines()
    assert [line[:28].rstrip() for line in told if line[:28].rstrip() in found] == ROWS[action]
    assert any(tmp_path.glob("*.png"))


def test_boxes_by_a_segmenter_that_tells_things_from_background(module: ModuleType, made: Path, tmp_path: Path) -> None:
    """Two classes instead of the maps' own, in a file of its own."""
    kept = tmp_path / "things.safetensors"
    arguments = ["--data", str(made / "scenes"), "--models", f"boxes={made / 'boxes'}", "--out", str(tmp_path), *SETTINGS]
    module.main(["layout", *arguments, "--things", f"--segmenter={kept}", "--segmenter-steps=2"])
    assert load_file(kept)["head.2.weight"].shape[0] == 2
    found = json.loads((tmp_path / "layout.json").read_text())
    assert all(0 <= found[f"boxes: {name}"]["iou"]["value"] <= 1 for name in ("true pictures", "model"))


def the_truth(bench: Any, loaded: Any, prepared: Any, guidance: Any = None, change: Any = None) -> torch.Tensor:
    """In place of `Bench.sample`: the true pictures of the test split."""
    return bench.records().load_all()


@pytest.mark.parametrize("action", ["upscale", "inpaint", "retrieval", "semantic", "layout"])
def test_true_pictures_are_at_no_distance_from_themselves(
    action: str, module: ModuleType, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.Bench, "sample", the_truth)
    found = measured(module, action, made, tmp_path)
    own = {name: row for name, row in found.items() if name not in ("about", "reconstruction") and "bicubic" not in name}
    for name, row in own.items():
        if not name.startswith(("reconstruction", "training")):
            assert row.get("perceptual", {"value": 0})["value"] == pytest.approx(0, abs=1e-6), name
            assert row.get("fd", {"value": 0})["value"] == pytest.approx(0, abs=1e-3), name
    if action == "upscale":
        assert (own["small"]["psnr"]["value"], own["small"]["ssim"]["value"]) == (100, pytest.approx(1))
    if action == "inpaint":
        assert all(row["share"] == pytest.approx(int(name[:2]) / 100, abs=0.03) for name, row in own.items())
    for pair in (("maps: true pictures", "maps: model"), ("boxes: true pictures", "boxes: model")):
        if pair[1] in own:
            assert values_of(own[pair[0]]) == values_of(own[pair[1]])


def values_of(row: dict[str, Any]) -> dict[str, float]:
    """A row without its intervals, which are drawn anew."""
    return {name: value["value"] if isinstance(value, dict) else value for name, value in row.items()}
