"""The scripts of the results page run on a model small enough for a test, and show what they say they show."""

from __future__ import annotations

import dataclasses
import importlib
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli.evaluate import Extras, measure
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.generation.pipeline import Pipeline, load
from sfumato.generation.request import Draft
from sfumato.noise import PictureNoise
from tiny_models import loaded, text_config, write_model

FOLDER = Path(__file__).resolve().parent.parent / "examples"
HELPERS = ("sheets", "held_out")
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
SCRIPTS = [name for name in NAMES if name not in HELPERS]
CAPTIONS = ("a red dragon", "a blue cat", "dragon", "a cat", "a very long caption of one picture with words")


def rgba_config():
    """The tiny text model with an alpha channel."""
    text = text_config()
    network = dataclasses.replace(text.first_stage.network, image_channels=4)
    return dataclasses.replace(text, first_stage=dataclasses.replace(text.first_stage, network=network))


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "rgb": write_model(root / "rgb", text_config()),
        "rgba": write_model(root / "rgba", rgba_config()),
    }


@pytest.fixture(scope="module")
def pipeline(models) -> Pipeline:
    return load(models["rgb"], "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """12 test, 2 validation and 30 training pictures in two styles and three subjects."""
    root, rows = tmp_path_factory.mktemp("data"), []
    for part, count in (("test", 12), ("validation", 2), ("train", 30)):
        for i in range(count):
            name = f"{part}{i}.png"
            noise = np.random.default_rng(len(rows)).integers(0, 256, (4, 4, 4), dtype=np.uint8)
            Image.fromarray(noise).resize((16, 16)).save(root / name)
            row = {"text": f"{CAPTIONS[i % 5]} {i}", "split": part, "style": "ab"[i % 2], "group": "xyz"[i % 3]}
            rows.append({"file_name": name} | row)
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def run(name: str, out: Path, model: Path, *arguments: object) -> tuple[Image.Image, list[str]]:
    """The sheet and the lines of its text."""
    module = script(name)
    assert module.main([*map(str, arguments), "--model", str(model), "--device=cpu", "--out", str(out)]) == 0
    with Image.open(out) as page:
        page.load()
    assert page.mode == "RGB"
    return page, out.with_suffix(".txt").read_text("utf-8").splitlines()


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_names_the_command(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert stop.value.code == 0
    assert f"python examples/{name}.py" in capsys.readouterr().out


def test_sheet_has_every_picture_at_its_place():
    sheets = script("sheets")
    red, blue = (Image.new("RGB", (20, 10), colour) for colour in ("red", "blue"))
    clear = Image.new("RGBA", (20, 10), (0, 255, 0, 0))
    page = sheets.sheet([sheets.Row([sheets.Tile([red, blue]), sheets.Tile([None, clear])])])
    assert page.getpixel((sheets.GAP, sheets.GAP)) == (255, 0, 0)
    assert page.getpixel((sheets.GAP + 19, sheets.GAP + 12 + 9)) == (0, 0, 255)
    assert page.size == (2 * (20 + sheets.GAP) + sheets.GAP, 10 + 2 + 10 + 2 * sheets.GAP)
    assert page.crop((sheets.GAP + 20, 0, *page.size)).getcolors() == [(36 * 38, (255, 255, 255))]  # transparent is white


def test_words_fit_the_picture_and_are_readable():
    sheets = script("sheets")
    lines = sheets.wrapped("a woman scientist with medium-light skin tone, noto style", 128)
    assert " ".join(lines) == "a woman scientist with medium-light skin tone, noto style"
    assert len(lines) == 3
    assert sheets.wrapped("one\ntwo", 128) == ["one", "two"]
    assert sheets.readable("flag: Côte d’Ivoire, Åland, \u6f22") == "flag: Cote d’Ivoire, Aland, ?"


@pytest.mark.parametrize("kind", ["rgb", "rgba"])
def test_unseen_pairs(kind, models, folder, tmp_path):
    page, lines = run("unseen_pairs", tmp_path / "a.png", models[kind], "--data", folder, "--count", 10)
    order = script("held_out").hash_order([f"test{i}.png" for i in range(12)])[:10]
    assert lines == [f"{n // 8 + 1}.{n % 8 + 1}  {CAPTIONS[i % 5]} {i}" for n, i in enumerate(order)]
    assert page.width == 8 * (16 + 8) + 8
    page, lines = run("unseen_pairs", tmp_path / "b.png", models[kind], "--data", folder, "--by=rank", "--show=3")
    assert [line.split()[0] for line in lines if " of 12 by" in line] == ["best", "median", "worst"]
    shown = [float(line.partition("distance ")[2].partition(",")[0]) for line in lines if "  distance" in line]
    assert len(shown) == 9
    assert shown == sorted(shown)


def test_pairs_by_rank_are_those_that_evaluate_scores(models, folder, tmp_path, pipeline):
    _, lines = run("unseen_pairs", tmp_path / "a.png", models["rgb"], "--data", folder, "--by=rank", "--seed=5")
    without = Extras(distance=False)
    report = measure(pipeline, folder, Draft(prompts=("",), seed=5), "test", None, None, None, extras=without)
    assert f"retrieval@1 {report['retrieval'].value:.3f} of 12 pairs" in "\n".join(lines)
    for style, value in report.groups.items():
        assert f"{style:20} {value:.3f} of 6" in lines
    assert sum(line[:1] in "xyz" and line.endswith(" of 4") for line in lines) == 3  # subjects


def test_what_is_right_ranks_first(folder, pipeline):
    module = script("unseen_pairs")
    held = script("held_out").held_out(pipeline, folder, "test")
    own = list(range(12))
    made = held.pixels.clone()
    made[4] = 255 - made[4]
    rows, lines = module.by_rank(held, own, made, 2, {}, "cpu")
    assert len(rows) == 3
    worst = lines[lines.index(next(line for line in lines if line.startswith("worst"))) + 2]
    assert worst.startswith(f"1.2  {held.captions[4]}")
    assert worst.endswith("not retrieved")
    assert "retrieval@1 0.917 of 12 pairs, chance 0.167" in lines


def test_pictures_are_kept_and_have_the_seeds_of_evaluate(folder, tmp_path, pipeline, monkeypatch):
    module, kept = script("held_out"), tmp_path / "made.safetensors"
    held = module.held_out(pipeline, folder, "test")
    first = module.draw(pipeline, held, [7, 3, 4], 10, kept)
    for pixels, i in zip(first, (7, 3, 4), strict=True):
        [alone] = pipeline.generate(held.captions[i], seed=10 + i)
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(alone))
    asked = []
    real = module.generator
    monkeypatch.setattr(module, "generator", lambda *a: lambda prompts, seeds: asked.extend(seeds) or real(*a)(prompts, seeds))
    again = module.draw(pipeline, held, [3, 5, 7], 10, kept)
    assert asked == [15]
    assert torch.equal(again[[0, 2]], first[[1, 0]])
    with pytest.raises(InputError, match="another model, data set or seed"):
        module.draw(pipeline, held, [3], 11, kept)


def test_grids(models, folder, tmp_path):
    page, lines = run("grids", tmp_path / "a.png", models["rgb"], "--prompts", "cat", "dragon", "--seed=3")
    assert lines[0] == "1.1  cat, noto style, seed 3"
    assert lines[-1] == "5.2  dragon, flat style, seed 12"
    page, lines = run("grids", tmp_path / "b.png", models["rgb"], "--data", folder, "--count=7", "--columns=3")
    assert page.size == (3 * 24 + 8, 3 * 24 + 8)
    subjects = ["xyz"[int(line.partition(",")[0].split()[-1]) % 3] for line in lines]
    assert subjects == list("xyzxyzx")


def test_readme_prompts(models, tmp_path):
    prompts = script("readme_prompts").read_prompts(FOLDER / "readme_prompts.txt")
    assert len(set(prompts)) == len(prompts) == 20
    _, lines = run("readme_prompts", tmp_path / "a.png", models["rgba"])
    assert lines == [f"{prompt}, seed {i}" for i, prompt in enumerate(prompts)]


def test_settings_grid(models, tmp_path):
    arguments = ["--guidance", 1, 3, "--steps", 2, "--prompts", "a cat", "dragon"]
    page, lines = run("settings_grid", tmp_path / "a.png", models["rgb"], *arguments)
    assert lines[-1] == "column 2: dragon, seed 1"
    assert page.width == 96 + 2 * 24 + 8


@pytest.mark.parametrize("kind", ["rgb", "rgba"])
def test_nearest_training(kind, models, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(script("nearest_training"), "CHUNK", 7)
    kept = tmp_path / "made.safetensors"
    page, lines = run(
        "nearest_training", tmp_path / "a.png", models[kind], "--data", folder, "--count=4", "--show=2", "--made", kept
    )
    assert lines[0] == "4 drawn and 12 real held-out pictures against 30 training pictures"
    assert page.width == 7 * 24 + 8
    assert sum(line.startswith("| ") for line in lines) == 8
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n\na dragon\n")
    _, lines = run("nearest_training", tmp_path / "b.png", models[kind], "--data", folder, "--prompts", prompts)
    assert lines[0].startswith("2 drawn")


def test_a_copy_is_found(folder, monkeypatch):
    """Training pictures, a few values changed by a known amount, in chunks of seven."""
    module = script("nearest_training")
    monkeypatch.setattr(module, "CHUNK", 7)
    from sfumato.evaluation.source import read_split

    training = module.Training(read_split(folder).train, (3, 16, 16))
    everything = torch.cat([training.pixels(part) for part in training.chunks()])
    queries = everything[[29, 0, 13]].clone()
    queries[1] = queries[1] ^ 4  # every value by four
    found = module.in_pixels(queries, training, torch.device("cpu"))
    assert found.index[:, 0].tolist() == [29, 0, 13]
    torch.testing.assert_close(found.distance[:, 0], torch.tensor([0.0, 4, 0], dtype=torch.float64))
    exact = (everything[:, None].float() - queries[None].float()).square().flatten(2).mean(2).sqrt().T.sort(1)
    torch.testing.assert_close(found.distance, exact.values[:, :3].double(), atol=1e-4, rtol=0)
    assert torch.equal(found.index, exact.indices[:, :3])
    features = training.features(torch.device("cpu"))
    near = module.in_features(features[[5, 28]], features)
    assert near.index[:, 0].tolist() == [5, 28]
    assert near.distance[:, 0].abs().max() < 1e-6
    assert module.nearer(torch.zeros(5), torch.arange(1.0, 200)) == "5 of 5"
    assert module.nearer(torch.arange(1.0, 200), torch.arange(1.0, 200)) == "2 of 199"


def test_transparency_counts_as_white():
    module = script("nearest_training")
    pixels = torch.tensor([[10, 200], [20, 200], [30, 200], [255, 0]], dtype=torch.uint8).reshape(1, 4, 1, 2)
    assert module.flat(pixels).tolist() == [[10, 255, 20, 255, 30, 255]]


@pytest.mark.parametrize("kind", ["rgb", "rgba"])
def test_interpolation(kind, models, tmp_path):
    arguments = ["--steps=3", "--prompts", "a red dragon", "cat", "--noise", "a cat"]
    page, lines = run("interpolation", tmp_path / "a.png", models[kind], *arguments)
    assert lines == ["a red dragon -> cat, seed 0", "a cat, seed 1 -> 1001"]
    assert page.width == 3 * 24 + 8
    with pytest.raises(SystemExit):
        run("interpolation", tmp_path / "b.png", models[kind], "--prompts", "cat")


@pytest.mark.parametrize("kind", ["rgb", "rgba"])
def test_edit_strengths(kind, models, folder, tmp_path):
    arguments = ["--data", folder, "--count=4", "--show=3", "--strengths", 0.5, 1]
    page, lines = run("edit_strengths", tmp_path / "a.png", models[kind], *arguments)
    assert page.width == 96 + 4 * 24 + 8  # source, two strengths, asked for
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| 0.5", "| 1"]
    assert all(line.endswith(" | 4 |") for line in lines[2:4])


def test_edits_ask_for_another_subject_of_the_same_style(folder, pipeline):
    module, helper = script("edit_strengths"), script("held_out")
    held, subject = helper.held_out(pipeline, folder, "test"), helper.subjects(folder, "test")
    pairs = module.choose_pairs(held, subject, 12)
    assert [source for source, _ in pairs] == helper.hash_order(held.names)
    assert all(held.groups[a] == held.groups[b] for a, b in pairs)
    assert all(subject[held.names[a]] != subject[held.names[b]] for a, b in pairs)
    none = module.choose_pairs(held, dict.fromkeys(held.names, "pairs"), 12)
    assert none == []
    for i, expected in ((0, 0.0), (1, 1.0)):  # the sources themselves, then the pictures asked for
        made = held.pixels[[pair[i] for pair in pairs]]
        assert module.nearer_to_asked(made, held, pairs, "cpu").tolist() == [expected] * 12


@pytest.mark.parametrize("kind", ["rgb", "rgba"])
def test_small_guides(kind, models, folder, tmp_path):
    arguments = ["--data", folder, "--count=2", "--factor=4", "--steps=3"]
    page, lines = run("small_guides", tmp_path / "a.png", models[kind], *arguments)
    assert page.size == (96 + 2 * 24 + 8, 5 * 24 + 8)
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| words", "| words and small", "| small alone"]
    assert lines[-1].startswith("column 2: ")


def test_levels_are_those_of_the_small_picture():
    """Grey pictures stay grey when shrunk: 60 against 50 and 70 differ by ten levels."""
    module = script("small_guides")
    made = torch.full((2, 3, 16, 16), 60, dtype=torch.uint8)
    small = torch.stack([torch.full((3, 4, 4), value, dtype=torch.uint8) for value in (50, 70)])
    assert module.levels(made, small, 4).tolist() == [10, 10]


def test_ends_are_the_pictures_of_generate():
    module, pipeline = script("interpolation"), Pipeline(loaded(text_config()), torch.device("cpu"))
    a, b = "a red dragon", "cat"
    first, middle, last = (module.draw(pipeline, a, b, s, PictureNoise([7])) for s in (0.0, 0.5, 1.0))
    expected = [pipeline.generate(prompt, seed=7)[0].tobytes() for prompt in (a, b)]
    assert [first.tobytes(), last.tobytes()] == expected
    assert middle.tobytes() not in expected
    noises = [module.NoiseBetween(PictureNoise([7]), PictureNoise([8]), s) for s in (0.0, 1.0)]
    ends = [module.draw(pipeline, a, a, 0.0, noise).tobytes() for noise in noises]
    assert ends == [pipeline.generate(a, seed=seed)[0].tobytes() for seed in (7, 8)]


def test_conditions_between():
    """Two of five tokens against three of five: the shorter is stretched, padding counts for nothing."""
    between = script("interpolation").between
    one, other = torch.full((1, 5, 1), 99.0), torch.full((1, 5, 1), -99.0)
    one[0, :2, 0], other[0, :3, 0] = torch.tensor([0.0, 4]), torch.tensor([10.0, 20, 30])
    places = torch.arange(5)[None]
    a, b = Conditioning(one, places < 2, vector=torch.zeros(1, 2)), Conditioning(other, places < 3, vector=torch.ones(1, 2))
    found = between(a, b, 0.25)
    assert found.context[0, :3, 0].tolist() == [2.5, 0.75 * 2 + 5, 3 + 7.5]
    assert found.mask.tolist() == [[True, True, True, False, False]]
    assert found.context.shape == one.shape
    assert found.vector.tolist() == [[0.25, 0.25]]
    assert between(b, a, 0.75).context[0, :3].tolist() == found.context[0, :3].tolist()
    assert between(a, b, 0.0) is a
    assert between(a, b, 1.0) is b


def test_noise_between_is_as_long_as_noise():
    module, like = script("interpolation"), torch.empty(1, 16, 32, 32)
    noise = module.NoiseBetween(PictureNoise([1]), PictureNoise([2]), 0.5)(like)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    [a, b] = [PictureNoise([seed])(like).flatten() for seed in (1, 2)]
    cosine = torch.nn.functional.cosine_similarity
    half = torch.acos(cosine(a, b, 0)) / 2
    assert cosine(noise.flatten(), a, 0).item() == pytest.approx(torch.cos(half).item(), abs=0.01)
