"""A model trained by a task's recipe, through the task's verb: what one writes the other reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import go
from test_task_runs import annotated, shared, task_config

from sfumato.cli.main import main

__all__ = ["annotated", "shared"]  # fixtures

FACTOR = 4  # of the recipe `upscale-tiny`
VERBS = {
    "inpaint": ["inpaint", "a.png", "--mask", "mask.png"],
    "upscale": ["upscale", "a.png"],
    "semantic": ["paint", "map.png"],
    "layout": ["compose", "boxes.json"],
    "class": ["generate", "--class", "red"],
    "unconditional": ["edit", "a.png", "--strength", "0.5"],
}


@pytest.mark.parametrize("task", VERBS)
def test_a_recipe_and_its_verb(
    task: str,
    annotated: Path,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    go(task_config(task, f"first_stage.frozen={shared}"), annotated, tmp_path / "run")
    first = sorted((annotated / "images").rglob("*.png"))[0]
    monkeypatch.chdir(tmp_path)
    with Image.open(first) as image:
        given = image.convert("RGB").crop((0, 0, 15, 19))
    given.save("a.png")
    with Image.open(annotated / "maps" / first.relative_to(annotated / "images")) as classes:
        classes.crop((0, 0, 15, 19)).save("map.png")
    mask = np.zeros((19, 15), np.uint8)
    mask[4:12, 3:9] = 255
    Image.fromarray(mask).save("mask.png")
    Path("boxes.json").write_text(json.dumps({"boxes": [{"label": "disc", "box": [0.1, 0.2, 0.5, 0.5]}]}))
    capsys.readouterr()
    argv = [*VERBS[task], "--model", "run", "--seed", "1", "--steps", "2", "--device", "cpu", "--out", "out.png"]
    assert main(argv) == 0
    assert capsys.readouterr() == ("out.png\n", "")
    with Image.open("out.png") as made:
        if task in ("inpaint", "semantic", "unconditional"):
            assert made.size == (15, 19)
        if task == "inpaint":
            assert np.array_equal(np.asarray(made)[mask == 0], np.asarray(given)[mask == 0])
        if task == "upscale":
            assert made.size == (15 * FACTOR, 19 * FACTOR)
