"""The verbs edit, inpaint, upscale, paint, compose and `generate --class`: files, paths, one line for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import task_models
import tiny_models
from sfumato.cli.main import main
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.data.maps import UNLABELLED
from sfumato.data.scene_classes import NAMES
from sfumato.data.scenes import palette
from sfumato.generation.metadata import TaskParameters, read_parameters
from sfumato.generation.pipeline import load

MODELS = {
    "text": tiny_models.text_config,
    "rgba": tiny_models.rgba_config,
    "mask": task_models.mask_config,
    "mask4": lambda: task_models.mask_config(4),
    "hole": task_models.mask_text_config,
    "small": lambda: task_models.small_config(4),
    "map": task_models.map_config,
    "layout": lambda: task_models.layout_config(text=True),
    "label": task_models.label_config,
    "both": lambda: task_models.label_config(text=True),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, config in MODELS.items():
        tiny_models.write_model(root / name, config())
    return root


@pytest.fixture(autouse=True)
def here(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with inputs in it; models are called by their name in `models`."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (13, 18, 3), dtype=np.uint8)).save("cat.png")
    Image.fromarray(rng.integers(0, 256, (13, 18, 4), dtype=np.uint8)).save("clear.png")
    Image.fromarray(rng.integers(0, 256, (13, 18), dtype=np.uint8)).save("grey.png")
    mask = np.zeros((13, 18), np.uint8)
    mask[3:9, 4:12] = 255
    Image.fromarray(mask).save("mask.png")
    Image.new("L", (18, 13)).save("empty.png")
    Image.new("L", (18, 13), 255).save("full.png")
    Image.new("L", (13, 18), 255).save("turned.png")
    classes = Image.fromarray(rng.integers(0, 4, (13, 18), dtype=np.uint8), "P")
    classes.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    classes.save("map.png")
    Image.fromarray(rng.integers(0, 6, (13, 18), dtype=np.uint8)).save("unknown.png")
    Path("layout.json").write_text(json.dumps({"boxes": [{"label": "apple", "box": [0, 0, 0.5, 0.5]}]}))
    Path("outside.json").write_text(json.dumps({"size": [8, 8], "boxes": [{"label": "apple", "box": [0, 0, 9, 5]}]}))
    Path("label.json").write_text(json.dumps({"boxes": [{"label": "aple", "box": [0, 0, 1, 1]}]}))
    Path("broken.json").write_text('{"boxes": [')
    Path("cut.png").write_bytes(Path("cat.png").read_bytes()[:300])
    Path("text.png").write_text("no picture")
    return place


@pytest.fixture
def inputs(here: Path) -> set[str]:
    return {path.name for path in here.iterdir()}


def run(models: Path, *argv: object) -> int:
    words = [str(word) for word in argv]
    if "--model" in words:
        place = words.index("--model") + 1
        words[place] = str(models / words[place])
    return main([*words, "--device", "cpu"])


def opened(path: str | Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def test_edit(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "text", "--num", 2, "--seed", 7, "--strength", "0.5", "--steps", 2]
    flags += ["--guidance", 2, "--sampler", "ddim"]
    assert run(models, "edit", "cat.png", "a blue cat", *flags, "--grid", "g.png") == 0
    out, err = capsys.readouterr()
    assert (out.splitlines(), err) == (["cat-edit-7.png", "cat-edit-8.png", "g.png"], "")
    expected = load(models / "text", "cpu").edit(
        opened("cat.png"), "a blue cat", 2, 7, strength=0.5, steps=2, guidance=2, sampler="ddim"
    )
    for seed, image in zip((7, 8), expected, strict=True):
        found = opened(f"cat-edit-{seed}.png")
        assert found.tobytes() == image.tobytes()
        assert found.info["parameters"] == image.info["parameters"]
    assert "Task: edit, Denoising strength: 0.5, Source: cat.png" in found.info["parameters"]
    parameters = read_parameters("cat-edit-8.png")
    assert isinstance(parameters, TaskParameters)
    assert (parameters.source, parameters.strength, parameters.seed) == ("cat.png", 0.5, 8)


def test_from_an_edited_picture(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(models, "edit", "cat.png", "a cat", "--model", "text", "--seed", 7) == 0
    assert run(models, "generate", "--from", "cat-edit-7.png", "--model", "text", "--out", "again.png") == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "`sfumato edit` from 'cat.png'" in err
    assert opened("again.png").size == (20, 16)


def test_edit_keeps_alpha(models: Path) -> None:
    assert run(models, "edit", "clear.png", "a cat", "--model", "rgba", "--out", "a.png") == 0
    assert run(models, "edit", "clear.png", "a cat", "--model", "rgba", "--out", "b.png", "--background", "white") == 0
    assert run(models, "edit", "clear.png", "a cat", "--model", "rgba", "--out", "c.png", "--size", "8x12") == 0
    assert [opened(name).mode for name in ("a.png", "b.png", "c.png")] == ["RGBA", "RGB", "RGBA"]
    assert [opened(name).size for name in ("a.png", "b.png", "c.png")] == [(18, 13), (18, 13), (12, 8)]


@pytest.mark.parametrize("model", ["mask", "mask4", "hole"])
@pytest.mark.parametrize("name", ["cat", "clear", "grey"])
def test_inpaint_keeps_the_rest(models: Path, name: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = ["a hat"] if model == "hole" else []
    assert run(models, "inpaint", f"{name}.png", *prompt, "--mask", "mask.png", "--model", model, "--seed", 3, "--num", 2) == 0
    assert capsys.readouterr() == (f"{name}-inpaint-3.png\n{name}-inpaint-4.png\n", "")
    kind = "RGBA" if name == "clear" else "RGB"
    given, mask = np.asarray(opened(f"{name}.png").convert(kind)), np.asarray(opened("mask.png"))
    for seed in (3, 4):
        found = opened(f"{name}-inpaint-{seed}.png")
        assert found.mode == kind
        assert np.array_equal(np.asarray(found)[mask == 0], given[mask == 0])
        assert "Task: inpaint, Source: " in found.info["parameters"]
    assert opened(f"{name}-inpaint-3.png").tobytes() != opened(f"{name}-inpaint-4.png").tobytes()


def test_inpaint_all_of_it_over_the_picture_itself(models: Path) -> None:
    assert run(models, "inpaint", "cat.png", "--mask", "full.png", "--model", "mask", "--out", "cat.png", "--overwrite") == 0
    assert "Task: inpaint" in opened("cat.png").info["parameters"]


def test_inpaint_with_any_model(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which model it is is said in one line, unless --quiet."""
    flags = ["inpaint", "clear.png", "a hat", "--mask", "mask.png", "--model", "text", "--seed", 3]
    assert run(models, *flags, "--resampling", 2) == 0
    assert run(models, *flags, "--quiet") == 0
    out, err = capsys.readouterr()
    assert out == "clear-inpaint-3.png\nclear-inpaint-3-2.png\n"
    assert err == "sfumato: the model 'tiny' was not trained to inpaint; it is held to what is kept.\n"
    given, mask = np.asarray(opened("clear.png")), np.asarray(opened("mask.png"))
    for name in out.splitlines():
        assert np.array_equal(np.asarray(opened(name))[mask == 0], given[mask == 0])


@pytest.mark.parametrize("shipped", [["emoji"], ["emoji", "emoji-inpaint"]])
def test_the_model_that_ships_for_masks_comes_first(
    models: Path, shipped: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def load_what(name: str, device: str, **options: object) -> object:
        asked.append(name)
        return load(models / "text", "cpu")

    monkeypatch.setattr("sfumato.io.pretrained.shipped_models", lambda: shipped)
    monkeypatch.setattr("sfumato.generation.pipeline.load", load_what)
    assert run(models, "inpaint", "cat.png", "--mask", "mask.png") == 0
    assert asked == shipped[-1:]


def test_upscale(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(models, "upscale", "cat.png", "--factor", 4, "--model", "small", "--seed", 1) == 0
    assert run(models, "upscale", "clear.png", "--model", "small", "--seed", 1) == 0
    assert capsys.readouterr() == ("cat-upscale-1.png\nclear-upscale-1.png\n", "")
    assert (opened("cat-upscale-1.png").size, opened("cat-upscale-1.png").mode) == ((72, 52), "RGB")
    assert (opened("clear-upscale-1.png").size, opened("clear-upscale-1.png").mode) == ((72, 52), "RGBA")


def test_paint(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(models, "paint", "map.png", "--model", "map", "--seed", 1) == 0
    assert run(models, "paint", "--list-classes", "--model", "map") == 0
    assert capsys.readouterr() == ("map-paint-1.png\n0\tsky\n1\tgrass\n2\tapple\n3\tzebra\n", "")
    assert opened("map-paint-1.png").size == (18, 13)


def test_paint_by_colours(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened("map.png").convert("RGB").save("coloured.png")
    assert run(models, "paint", "map.png", "--model", "map", "--seed", 1, "--out", "a.png") == 0
    assert run(models, "paint", "coloured.png", "--palette", "map.png", "--model", "map", "--seed", 1, "--out", "b.png") == 0
    assert opened("a.png").tobytes() == opened("b.png").tobytes()
    scenes = (NAMES[3], NAMES[0], NAMES[5])
    colours = np.array([palette()[3 * i : 3 * i + 3] for i in (3, 0, 5)], dtype=np.uint8)
    part = SegmentationConfig(4, channels=3, halvings=1, names=(*scenes, UNLABELLED))
    tiny_models.write_model(models / "scenes", task_models.with_conditioner(part, concat=3))
    classes = np.random.default_rng(0).integers(0, 3, (8, 8), dtype=np.uint8)
    Image.fromarray(classes).save("numbers.png")
    Image.fromarray(colours[classes]).save("scene.png")
    assert run(models, "paint", "numbers.png", "--model", "scenes", "--seed", 1, "--out", "c.png") == 0
    assert run(models, "paint", "scene.png", "--model", "scenes", "--seed", 1, "--out", "d.png") == 0
    assert opened("c.png").tobytes() == opened("d.png").tobytes()
    assert capsys.readouterr() == ("a.png\nb.png\nc.png\nd.png\n", "")


def test_compose(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(models, "compose", "layout.json", "a cat", "--model", "layout", "--seed", 1, "--size", "15x22") == 0
    assert run(models, "compose", "--list-classes", "--model", "layout") == 0
    assert capsys.readouterr() == ("layout-compose-1.png\n0\tsky\n1\tgrass\n2\tapple\n3\tzebra\n", "")
    found = opened("layout-compose-1.png")
    assert found.size == (22, 15)
    assert found.info["parameters"].startswith("a cat\n")


def test_classes(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(models, "generate", "--class", "apple", "--class", "ZEBRA", "--num", 2, "--seed", 1, "--model", "label") == 0
    assert run(models, "generate", "apple", "--seed", 1, "--model", "label", "--out", "b.png") == 0
    assert run(models, "generate", "a cat", "--class", "apple", "--seed", 1, "--model", "both") == 0
    assert run(models, "generate", "--class", "apple", "--seed", 1, "--model", "both") == 0
    names = ["apple-1.png", "apple-2.png", "zebra-3.png", "zebra-4.png", "b.png", "a-cat-1.png", "apple-1-2.png"]
    assert capsys.readouterr() == ("\n".join(names) + "\n", "")
    assert opened("apple-1.png").tobytes() == opened("b.png").tobytes()
    told = load(models / "both", "cpu").generate("a cat", seed=1, inputs={"label": "apple"})[0]
    assert opened("a-cat-1.png").tobytes() == told.tobytes()


MASKED = ["inpaint", "cat.png", "--model", "mask", "--mask"]
WRONG = [
    ([*MASKED, "turned.png"], "mask: got 18x13 pixels (height x width), expected the picture's 13x18"),
    ([*MASKED, "empty.png"], "nothing in it is white"),
    ([*MASKED, "none.png"], "mask: 'none.png': the file is not there"),
    ([*MASKED, "cut.png"], "mask: 'cut.png': damaged or truncated"),
    ([*MASKED, "mask.png", "--size", "5000x8"], "height: got 5000"),
    ([*MASKED, "mask.png", "a hat"], "reads no text"),
    ([*MASKED, "mask.png", "--resampling", "2"], "takes the mask itself"),
    (["inpaint", "cat.png", "--mask", "mask.png", "--model", "text", "--resampling", "x"], "resampling: got 'x'"),
    (["inpaint", "cat.png", "--mask", "mask.png", "--model", "map"], "needs a segmentation map, so it cannot inpaint"),
    (["inpaint", "cat.png", "--model", "mask"], "--mask"),
    (["inpaint", "text.png", "--mask", "mask.png", "--model", "mask"], "image: 'text.png': not a picture"),
    (["edit", "none.png", "cat", "--model", "text"], "image: 'none.png': the file is not there"),
    (["edit", ".", "cat", "--model", "text"], "which is a directory"),
    (["edit", "cat.png", "--model", "text"], "prompt: got none"),
    (["edit"], "IMAGE"),
    *[
        (["edit", "cat.png", "cat", "--model", "text", "--strength", s], "strength: got")
        for s in ("0", "1.1", "nan", "-1", "x", "")
    ],
    (["edit", "cat.png", "cat", "--model", "text", "--background", "transparent"], "draws no transparency"),
    (["edit", "cat.png", "cat", "--model", "text", "--out", "cat.png"], "cat.png' exists"),
    (["edit", "cat.png", "cat", "--model", "text", "--steps", "0"], "steps: got 0"),
    *[(["upscale", "cat.png", "--model", "small", "--factor", f], "factor: got") for f in ("2", "0", "4.5", "x", "1000")],
    (["upscale", "cat.png", "--model", "text"], "takes no small picture"),
    (["upscale", "cut.png", "--model", "small"], "image: 'cut.png': damaged or truncated"),
    (["upscale", "cat.png", "--size", "8x8", "--model", "small"], "unknown argument '--size'"),
    (["paint", "unknown.png", "--model", "map"], "is unknown, expected 0 to 3"),
    (["paint", "cat.png", "--model", "map"], "coloured"),
    (["paint", "cat.png", "--model", "map", "--palette", "map.png"], "is none of the palette's"),
    (["paint", "cat.png", "--model", "map", "--palette", "cat.png"], "palette: got a picture of mode RGB"),
    (["paint", "cut.png", "--model", "map"], "map: 'cut.png': damaged or truncated"),
    (["paint", "text.png", "--model", "map"], "map: 'text.png': not a picture"),
    (["paint", "--model", "map"], "map: got none"),
    (["paint", "map.png", "--model", "text"], "takes no map of classes"),
    (["paint", "--list-classes", "--model", "text"], "takes no map of classes"),
    (["compose", "outside.json", "--model", "layout"], "outside of the picture, 8x8 pixels"),
    (["compose", "label.json", "--model", "layout"], "unknown label 'aple': did you mean 'apple'?"),
    (["compose", "broken.json", "--model", "layout"], "'broken.json' is not valid JSON"),
    (["compose", "none.json", "--model", "layout"], "No such file"),
    (["compose", "cat.png", "--model", "layout"], "not valid JSON"),
    (["compose", "--model", "layout"], "layout: got none"),
    (["compose", "layout.json", "--model", "map"], "takes no layout of boxes"),
    (["generate", "a cat", "--model", "hole"], "'tiny' needs a picture and a mask; use `sfumato inpaint`"),
    (["generate", "--model", "small"], "needs a small picture; use `sfumato upscale`"),
    (["generate", "--model", "map"], "needs a segmentation map; use `sfumato paint`"),
    (["generate", "a cat", "--model", "layout"], "needs a layout of boxes; use `sfumato compose`"),
    (["edit", "cat.png", "a cat", "--model", "hole"], "use `sfumato inpaint`"),
    (["generate", "--class", "aple", "--model", "label"], "unknown class 'aple': did you mean 'apple'?"),
    (["generate", "--class", "apple", "--class", "dog", "--model", "label"], "unknown class 'dog'"),
    (["generate", "--class", "apple", "--model", "text"], "knows no classes"),
    (["generate", "--model", "label"], "makes pictures of classes; name one with --class, such as 'sky'"),
    (["generate", "a cat", "--class", "apple", "--model", "label"], "reads classes only"),
    (["generate", "a cat", "--class", "apple", "--class", "zebra", "--model", "both"], "one by one"),
]


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    models: Path, inputs: set[str], here: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    assert run(models, *argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
    assert {path.name for path in here.iterdir()} == inputs


@pytest.mark.parametrize("task", ["upscale", "paint", "compose"])
def test_no_model_ships_for_it(
    models: Path, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sfumato.io.pretrained.shipped_models", lambda: ["emoji"])
    given = {"upscale": "cat.png", "paint": "map.png", "compose": "layout.json"}[task]
    assert run(models, task, given) == 2
    assert f"none that can {task} ships with this release; name one with --model" in capsys.readouterr().err


def test_help_is_cheap() -> None:
    """The verbs' modules bring no PyTorch and no NumPy: `--help` and a mistyped flag are answered at once."""
    verbs = ", ".join(f"sfumato.cli.{verb}" for verb in ("edit", "inpaint", "upscale", "paint", "compose"))
    code = f"import sys, {verbs}; print([m for m in ('torch', 'numpy', 'tokenizers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_an_orientation_is_applied(models: Path) -> None:
    """What is inpainted is the picture as it is shown: turned as its EXIF data says."""
    exif = Image.Exif()
    exif[0x0112] = 6
    opened("cat.png").save("turned_cat.png", exif=exif)
    assert run(models, "inpaint", "turned_cat.png", "--mask", "turned.png", "--model", "mask", "--out", "a.png") == 0
    assert opened("a.png").size == (13, 18)
