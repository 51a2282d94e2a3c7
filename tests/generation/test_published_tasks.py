"""The tasks on checkpoints that others published (small ones, written here): the same pictures as with `inputs` by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.conditioners.layout import Box
from sfumato.conditioners.low_resolution import NoisedImage
from sfumato.conditioners.masked import MaskedImage
from sfumato.generation.pipeline import Pipeline, load
from task_models import led_over

sys.path.insert(0, str(Path(__file__).parents[1] / "interop"))
from published import CARDS, made, state_of, write

SIDE = 16
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
HOLE = np.zeros((SIDE, SIDE), np.uint8)
HOLE[4:12, 2:9] = 255
CLASSES = PIXELS[..., 0] % 5
GUIDED = {"segmentation": 1.0, "layout": 1.0}


def unit(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.transpose(2, 0, 1).copy()).float() / 127.5 - 1


def masked() -> MaskedImage:
    return MaskedImage(unit(PIXELS), torch.from_numpy(HOLE).float() / 255)


Task = Callable[[Pipeline, dict[str, Any]], Image.Image]
TASKS: dict[str, tuple[Task, Any, int]] = {
    "inpainting": (
        lambda pipe, flags: pipe.inpaint(Image.fromarray(PIXELS), Image.fromarray(HOLE), **flags)[0], masked(), SIDE,
    ),
    "sd1 inpainting": (
        lambda pipe, flags: pipe.inpaint(Image.fromarray(PIXELS), Image.fromarray(HOLE), "a cat", **flags)[0],
        {"mask": masked()}, SIDE,
    ),
    "segmentation": (
        lambda pipe, flags: pipe.paint(Image.fromarray(CLASSES), **flags)[0], 
        torch.from_numpy(CLASSES.repeat(2, 0).repeat(2, 1)).long(),  # two halvings before a first stage of factor 2
        SIDE,
    ),
    "layout": (
        lambda pipe, flags: pipe.compose({"boxes": [{"label": 3, "box": [0.1, 0.1, 0.5, 0.5]}]}, **flags)[0],
        (Box(3, 0.1, 0.1, 0.5, 0.5),), SIDE,
    ),
    "upscaler": (
        lambda pipe, flags: pipe.upscale(Image.fromarray(PIXELS), prompt="a cat", **flags)[0],
        {"small": NoisedImage(unit(PIXELS), torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(3 + 2**32)))},
        2 * SIDE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_a_task_tells_what_inputs_tell(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    card = CARDS[name][0]
    pipe = load(write(state_of(made(card), card), tmp_path / "model.safetensors"), "cpu", card=card)
    task, inputs, side = TASKS[name]
    flags = {"seed": 3, "steps": 2, "guidance": GUIDED.get(name, 2.0)}
    prompt = "a cat" if isinstance(inputs, dict) else ""
    [expected] = pipe.generate(prompt, inputs=inputs, size=(side, side), **flags)  # type: ignore[arg-type]
    found = np.asarray(task(pipe, flags))
    kept = HOLE == 0 if "inpainting" in name else np.zeros((side, side), bool)
    shown = np.asarray(expected)
    if kept.any():
        shown = led_over(shown, PIXELS, HOLE, pipe.model.first_stage.latent.factor)  # type: ignore[union-attr]
    assert np.array_equal(found[~kept], shown[~kept])
    assert np.array_equal(found[kept], PIXELS[kept] if kept.any() else found[kept])
