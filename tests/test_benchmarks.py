"""The benchmarks run, on a model small enough for a test, and notice what they are there to notice."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.cli.evaluate import Extras, measure
from sfumato.errors import InputError
from sfumato.evaluation import scoring
from sfumato.generation.pipeline import Pipeline, load
from sfumato.generation.request import Draft
from sfumato.interop import choose
from sfumato.interop.cards import find_card
from sfumato.latent import Grid
from sfumato.posterior import DiagonalGaussian
from sfumato.recipes import RECIPES
from sfumato.training.run import train
from tiny_models import loaded, text_config, unconditional_config, write_model
from tiny_runs import SMALL, small_config, write_folder

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "common.py")


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    sys.modules.pop("common", None)


@pytest.fixture
def directory(tmp_path) -> Path:
    return write_model(tmp_path / "tiny", text_config())


def script(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbers(module: ModuleType, out: Path, *arguments: str) -> dict[str, Any]:
    """What a script writes with --out."""
    module.main([*arguments, "--out", str(out)])
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_names_the_command(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    assert stop.value.code == 0
    assert f"python benchmarks/{name}" in capsys.readouterr().out


def test_startup(directory, tmp_path, capsys):
    found = numbers(script("startup"), tmp_path / "out.json", "--model", str(directory), "--device=cpu", "--repeats=1")
    assert 0 < found["import"]["median_s"] < found["load"]["median_s"]  # PyTorch is in one of them only
    assert capsys.readouterr().out.count("\n| ") == 5  # header, line, three rows


def test_startup_tells_of_a_process_that_fails():
    with pytest.raises(SystemExit, match="code 3"):
        script("common").until_line(["-c", "raise SystemExit(3)"], "ready")
    with pytest.raises(SystemExit, match="code 4"):
        script("common").until_end(["-c", "raise SystemExit(4)"])


def test_generation_speed(directory, tmp_path):
    arguments = ["--model", str(directory), "--device=cpu", "--repeats=2", "--steps=2", "--num=3", "--sampler=ddim"]
    asked, default = numbers(script("generation_speed"), tmp_path / "out.json", *arguments)["results"]
    assert (asked["steps"], asked["sampler"], asked["num"], asked["size"]) == (2, "ddim", 3, [16, 16])
    assert [default["steps"], default["sampler"]] == default["defaults"] == [3, "dpmpp_2m"]
    assert len(asked["times_s"]) == 2
    assert min(asked["times_s"]) <= asked["median_s"] <= max(asked["times_s"])
    assert 0.05 < asked["peak_gb"] < 4  # Python and PyTorch alone take more than 50 MB


def test_storage(directory, tmp_path):
    """The file holds fp16, so that fp16 and fp32 change nothing; int8 rounds within steps of a 127th of a row's largest."""
    found = numbers(script("storage"), tmp_path / "out.json", "--model", str(directory), "--num=1", "--steps=2")["storages"]
    assert found["int8"]["bytes"] < found["fp16"]["bytes"] < found["fp32"]["bytes"]
    assert found["fp32"]["all"] == found["fp16"]["all"] == 0
    assert found["fp32"]["psnr"] == found["fp16"]["psnr"] == np.inf
    worst = np.sqrt(576) / 254  # half a step everywhere, were a row of 576 one large weight and nothing beside it
    assert all(0 <= error < worst for error in found["int8"]["tensors"].values())
    # most rows are 288 Gaussian numbers, the largest of which is near 3 sigma; the step's uniform error is s / sqrt(12)
    assert found["int8"]["all"] == pytest.approx(3 / 127 / np.sqrt(12), rel=0.2)
    assert 20 < found["int8"]["psnr"] < np.inf


def test_loading_speed(tmp_path, monkeypatch, capsys):
    """The peak of one format only: each takes two fresh processes (`interop/test_foreign_assign.py` measures all)."""
    module = script("loading_speed")
    peak = module.peak
    monkeypatch.setattr(module, "peak", lambda path, *what: peak(path, *what) if path.suffix == ".zip" else 0)
    found = numbers(module, tmp_path / "out.json", "--gigabytes=0.05", "--repeats=1", f"--folder={tmp_path}")
    assert capsys.readouterr().out.count("\n| ") == 5  # header, line, three formats
    for kind in ("safetensors", "zip", "legacy"):
        numbers_of = found[kind]
        assert numbers_of["size"] > found["layers"] * 4 * 2**20
        assert 0 < numbers_of["median_s"]["open"] < numbers_of["median_s"]["load"] * 2
    assert all(0.9 < of_weights < 2 for of_weights in found["zip"]["peak"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_published_loading(tmp_path, monkeypatch, capsys):
    """On a narrowed model, and without the fresh processes, which would not know it."""
    monkeypatch.syspath_prepend(str(FOLDER.parent / "tests" / "interop"))
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    published, module = importlib.import_module("published"), script("published_loading")
    card = published.CARDS["sd1"][0]
    monkeypatch.setattr(module, "find_card", lambda name: card)
    monkeypatch.setattr(choose, "find_card", lambda name: card)
    monkeypatch.setattr(module, "fresh", lambda what, path, name, dtype: 1.0)
    found = numbers(module, tmp_path / "out.json", "small", "--repeats=1", f"--folder={tmp_path}", "--stored", *module.TYPES)
    assert capsys.readouterr().out.count("\n| ") == 6  # header, line, two files of two types
    sizes = {name: one["size"] for name, one in found["files"].items()}
    parameters = sum(p.numel() for p in published.made(card).parameters())
    assert sizes["safetensors, float16"] == pytest.approx(2 * parameters, rel=0.2)
    assert sizes["ckpt, float32"] == pytest.approx(4 * parameters, rel=0.2)
    for one in found["files"].values():
        assert 0 < one["median_s"]["call"] <= one["median_s"]["load"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json"]


@pytest.mark.parametrize("config", [text_config, unconditional_config], ids=["text", "unconditional"])
def test_determinism(config, tmp_path, capsys):
    model = write_model(tmp_path / "tiny", config())
    arguments = ["--model", str(model), "--device=cpu", "--samplers", "dpmpp_2m", "ddpm"]
    module = script("determinism")
    assert module.main([*arguments, "--out", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr().out.count("| equal") == 10  # five ways, two samplers
    found = json.loads((tmp_path / "out.json").read_text())["samplers"]
    assert found["ddpm"]["digest"] != found["dpmpp_2m"]["digest"]


def test_determinism_sees_a_picture_that_depends_on_its_place(monkeypatch):
    """One value of one picture is changed by four, in the call where the picture stands at another place."""
    module, pipeline = script("determinism"), Pipeline(loaded(text_config()), torch.device("cpu"))
    make = module.make

    def wrong(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        if len(made.pixels) == 5:  # the call that starts at the fourth
            made.pixels[0, 0, 0, 0] ^= 4
        return made

    assert module.check_cpu(pipeline, "ddim", 0, steps=1)["good"]
    assert module.check_gpu(pipeline, pipeline, "ddim", 0, steps=1)["good"]
    monkeypatch.setattr(module, "make", wrong)
    found = module.check_cpu(pipeline, "ddim", 0, steps=1)
    assert not found["good"]
    assert [way for way, equal in found["equal"].items() if not equal] == ["from the 4th"]
    found = module.check_gpu(pipeline, pipeline, "ddim", 0, steps=1)
    assert (found["among"], found["against_cpu"], found["good"]) == (4, 4, False)


def test_determinism_sees_latents_that_round_to_equal_pictures():
    module = script("determinism")
    pixels, latents = np.zeros((2, 4, 4, 3), np.uint8), np.ones((2, 1, 2, 2), np.float32)
    a, b = module.Pictures(pixels, latents), module.Pictures(pixels, np.nextafter(latents, 2))
    assert a.difference(b) == 0
    assert a.equal(a)
    assert not a.equal(b)


def test_tiny_run(tmp_path):
    """In a process of its own: it narrows the cores that its process may use."""
    out = tmp_path / "out.json"
    command = [sys.executable, FOLDER / "tiny_run.py", "--pictures=24", *(f"--set={change}" for change in SMALL)]
    subprocess.run([*command, "--out", out], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE)
    found = json.loads(out.read_text())
    assert found["seconds"] > 0
    assert found["made"] == [16, 16]


def test_against_diffusers(tmp_path):
    pytest.importorskip("diffusers")
    found = numbers(script("against_diffusers"), tmp_path / "out.json", "--quick", "--rounds=1")
    found.pop("machine")
    assert len(found) == 3
    assert all(row["outputs_differ_by"] < 1e-3 and row["ratio"] > 0 for row in found.values())


def test_published_parity(tmp_path):
    pytest.importorskip("diffusers")
    found = numbers(script("published_parity"), tmp_path / "out.json", "sd2-x4-upscaler", "--quick", "--pixels=32")
    (row,) = found["models"].values()
    assert found["against"] == "diffusers"
    assert all(0 <= row[part] <= 1e-4 for part in ("unet", "encoder", "decoder"))
    assert row["parameters"] > 10**7


def test_published_parity_sees_another_network():
    pytest.importorskip("diffusers")
    module = script("published_parity")
    card = module.narrow(find_card("sd1"))
    other = module.diffusers_side()
    wrong = dataclasses.replace(card.unet, num_heads=4)
    wrong_card = dataclasses.replace(card, prior=dataclasses.replace(card.prior, network=wrong))
    right_unet = other.unet
    assert module.measure(card, other, 32)["unet"] <= 1e-4
    swapped = other._replace(unet=lambda _: right_unet(card))
    assert module.measure(wrong_card, swapped, 32)["unet"] > 0.1


def test_clip_parity(tmp_path):
    """A vision tower in a process of its own, as the command has it, and a text tower in this one."""
    module = script("clip_parity")
    found = numbers(module, tmp_path / "out.json", "unclip-l", "--quick")
    assert found["against"] == "transformers"
    texts = module.measure("sd2", module.transformers_side, quick=True)
    assert 0 <= texts["tokens"] <= 1e-4
    assert all(0 <= row["vector"] <= 1e-4 for row in (texts, *found["towers"].values()))
    assert list(found["towers"]) == ["unclip-l"]


@pytest.mark.parametrize("change", [{"activation": "gelu"}, {"heads": 8}], ids=str)
def test_clip_parity_sees_another_tower(change, monkeypatch):
    module = script("clip_parity")
    assert module.measure("sd1", module.transformers_side, quick=True)["tokens"] <= 1e-4
    monkeypatch.setitem(module.TOWERS, "sd1", module.TOWERS["sd1"]._replace(**change))
    assert module.measure("sd1", module.transformers_side, quick=True)["tokens"] > 1e-3


def test_sampling_sweep(directory, tmp_path, monkeypatch, capsys):
    """Cells are measured once, by what `sfumato evaluate` measures; a file of another model is refused."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = write_folder(tmp_path / "data", 40)
    module = script("sampling_sweep")
    arguments = ["--data", str(data), "--model", str(directory), "--device=cpu", "--steps", "2", "--guidance", "1", "3"]
    arguments.append("--no-fd")
    out = tmp_path / "sweep.json"
    found = numbers(module, out, *arguments)["cells"]
    assert list(found) == ["dpmpp_2m, 2 steps, guidance 1, everywhere", "dpmpp_2m, 2 steps, guidance 3, everywhere"]
    measured = []
    evaluate = module.measure
    monkeypatch.setattr(module, "measure", lambda *a, **k: measured.append(k["guidance"]) or evaluate(*a, **k))
    found = numbers(module, out, *arguments, "--intervals", "none", "0.3-0.9")["cells"]
    assert measured == [1.0, 3.0]  # in the interval; everywhere was there
    last = found["dpmpp_2m, 2 steps, guidance 3, 0.3-0.9"]
    assert last["asked"]["interval"] == [0.3, 0.9]
    assert last["found"]["seconds_a_picture"] > 0
    assert out.with_suffix(".md").read_text().count("\n| dpmpp_2m") == 4
    again = module.page(json.loads(out.read_text()))
    assert again == out.with_suffix(".md").read_text()
    capsys.readouterr()
    with pytest.raises(InputError, match="is a sweep of"):
        module.main([*arguments, "--seed=1", "--out", str(out)])


def test_sweep_measures_what_evaluate_does(directory, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = write_folder(tmp_path / "data", 200)  # 10 for validation
    pipeline = load(directory, "cpu")
    arguments = ["--data", str(data), "--model", str(directory), "--device=cpu", "--steps=2", "--guidance=3", "--num=9"]
    arguments.append("--no-fd")
    [cell] = numbers(script("sampling_sweep"), tmp_path / "sweep.json", *arguments)["cells"].values()
    draft = Draft(prompts=("",), seed=0, steps=2, guidance=3.0, batch_size=64)
    report = measure(pipeline, data, draft, "validation", 9, None, None, extras=Extras(distance=False))
    assert cell["found"]["fd_ratio"] is None
    for key in ("retrieval", "precision", "recall"):
        row = report[key]
        assert cell["found"][key] == pytest.approx([row.value, row.low, row.high])
    assert cell["found"]["pictures"] == 9


def test_training_speed_gives_the_first_stage_as_many_channels_as_the_pictures(monkeypatch):
    module = script("training_speed")
    monkeypatch.setattr(module, "PICTURES", 2)
    config, cpu = RECIPES["emoji"](), torch.device("cpu")
    task = module.first_stage_task(config, cpu, gan=False)
    small = dataclasses.replace(config.first_stage.train, batch_size=2)
    assert task.batch(0, small, torch.Generator())["x"].shape[1] == task.first_stage.channels == config.data.channels == 4


def test_prior_variants_compares_on_one_first_stage_and_spares_the_run(tmp_path):
    module, data, run = script("prior_variants"), write_folder(tmp_path / "data", 12), tmp_path / "run"
    train(small_config("prior.train.steps=1"), data, run, torch.device("cpu"), quiet=True)
    before = {path: path.read_bytes() for path in (run / "first_stage").rglob("*") if path.is_file()}
    network = '{"kind":"hourglass","in_channels":4,"out_channels":4,"widths":[16],"depths":[1],"head_channels":8}'
    arguments = [str(run), "--data", str(data), "--device", "cpu", f"--set=prior.model.network={network}", "--images", "48"]
    found = numbers(module, tmp_path / "out.json", *arguments, "--save", str(tmp_path / "model"))
    assert len(found["losses"]) == 10
    assert all(0 < loss < 10 for loss in found["losses"])
    assert found["images"] == 16  # 4 steps of 4 after the 8 steps of warm-up
    assert load(tmp_path / "model", "cpu").model.prior.config.network.kind == "hourglass"
    with pytest.raises(SystemExit, match="there already"):
        module.main([*arguments, "--save", str(tmp_path / "model")])
    with pytest.raises(SystemExit, match="only fields of the prior"):
        module.main([*arguments, "--set=first_stage.loss.kl_weight=3"])
    write_folder(tmp_path / "other", 16)
    with pytest.raises(SystemExit, match="only fields of the prior"):
        module.main([str(run), "--data", str(tmp_path / "other"), "--device", "cpu"])
    assert all(path.read_bytes() == content for path, content in before.items())


def test_training_speed_counts_the_losses_and_not_the_optimizer(monkeypatch):
    module, counts = script("training_speed"), []
    monkeypatch.setattr(module, "PICTURES", 8)
    for optimizer in ("adamw", "muon"):
        config = small_config(f"prior.train.optimizer={optimizer}", "prior.condition=text")
        task = module.prior_task(config, torch.device("cpu"))
        counts.append(module.measure(task, config.prior.train, torch.device("cpu"), 0.0, False)["gflop_per_image"])
    assert counts[0] == counts[1] > 0


def test_distortions(tmp_path, monkeypatch):
    """Small noise has no order to keep, which is exit code 1; the numbers are there. 24 features want 25 pictures."""
    monkeypatch.setattr(scoring, "Scorer", functools.partial(scoring.Scorer, "block2", None))
    folder, out = write_folder(tmp_path / "data", 60, kind="none"), tmp_path / "out.json"
    rows = [{"file_name": path.name, "split": ("test", "train")[i % 2]} for i, path in enumerate(sorted(folder.glob("*.png")))]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with contextlib.suppress(SystemExit):
        script("distortions").main(["--data", str(folder), "--size=16", "--num=25", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["num"] == 25
    assert [one["distortion"] for one in found["rankings"]] == ["blur", "noise", "JPEG", "mosaic"]
    assert all(len(one["fd"]) == len(one["kd"]) == 5 for one in found["rankings"])
    assert len({one["fd"][0] for one in found["rankings"]}) == 1


class Identity:
    """Latents that are the pictures, with noise of 0.1."""

    channels, latent = 3, Grid(3, 1)

    def posterior(self, x: torch.Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(x, torch.full_like(x, 2 * math.log(0.1)))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z


def test_latent_noise_of_pictures_as_their_own_latents():
    """Noise of 0.05 in [0, 1] is 26.02 dB, half of it 32.04, the mean of eight 35.05; mid-grey is not clipped."""
    pixels = torch.full((12, 3, 32, 32), 128, dtype=torch.uint8)
    pixels[:, 0] += 20
    found = script("latent_noise").measured(Identity(), pixels, 0, "cpu")
    psnr = [row["psnr"] for row in found["decoded"].values()]
    assert psnr == pytest.approx([100, 32.04, 26.02, 35.05], abs=0.1)
    assert found["spread"] == pytest.approx([0.1] * 3)
    assert found["colour"] == pytest.approx(2 * 20 / 255 * (2 / 3 + 1 / 3 + 1 / 3) / 3)
    assert found["decoded"]["the means"]["colour"] == pytest.approx(found["colour"])
    assert found["decoded"]["a draw"]["colour"] > found["colour"]


def test_latent_noise_prints_its_table(tmp_path, capsys):
    folder, out = write_folder(tmp_path / "data", 8, kind="none"), tmp_path / "out.json"
    rows = [{"file_name": path.name, "split": ("test", "train")[i % 2]} for i, path in enumerate(sorted(folder.glob("*.png")))]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = write_model(tmp_path / "model", unconditional_config())
    script("latent_noise").main([str(model), "--data", str(folder), "--size=16", "--num=4", "--out", str(out)])
    assert "| the means |" in capsys.readouterr().out
    assert json.loads(out.read_text())["num"] == 4


def test_word_order_exchanges_the_things_and_writes_what_it_found(tmp_path):
    module = script("word_order")
    row = {
        "objects": {"bbox": [[0, 0, 64, 64], [64, 64, 64, 64]], "categories": [1, 2], "names": ["apple", "zebra"]},
        "said": [{"subject": 1, "relation": "right of", "object": 0}],
        "texts": ["a zebra right of an apple", "an apple left of a zebra"],
    }
    assert [module.caption(row), module.caption(row, exchanged=True)] == [
        "a zebra right of an apple",
        "an apple right of a zebra",
    ]
    codes = torch.arange(3 * 16.0).view(3, 16)
    wanted = torch.zeros(16, 6, 6)
    wanted[:, :3, :3], wanted[:, 3:, 3:] = codes[1].view(16, 1, 1), codes[2].view(16, 1, 1)  # quarters of the picture
    assert torch.equal(module.picture(row, codes), wanted)
    above = row | {"said": [{"subject": 0, "relation": "above", "object": 1}]}
    lines = [json.dumps(r | {"split": split}) for split in ("train", "test") for r in (row, above)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    module.main(
        ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--reach=1", "--steps=2", "--every=1", "--batch-size=2"]
    )
    found = json.loads((tmp_path / "out" / "word_order.json").read_text())
    assert [r["step"] for r in found["rows"]] == [1, 2]
    assert found["rows"][0]["own"] == found["rows"][0]["exchanged"] > 0  # the last layer begins at zero, and moves once


def test_guidance_curve_draws_every_value_and_interval_where_it_belongs(tmp_path):
    row = {
        "fd": {"value": 2.0, "low": 1.0, "high": 4.0},
        "precision": {"value": 0.75, "low": 0.5, "high": 1.0},
        "recall": {"value": 0.25, "low": 0.0, "high": 0.5},
    }
    numbers = {
        "floor: training pictures": {"fd": {"value": 0.5}},
        "guidance 3": row,
        "guidance 1.5": row,
        "about": {"seconds": 1},
    }
    (tmp_path / "guidance.json").write_text(json.dumps(numbers))
    module, out = script("guidance_curve"), tmp_path / "curve.svg"
    module.main([str(tmp_path / "guidance.json"), "--out", str(out)])
    assert "FD-MobileNetV2" in out.read_text()
    top, height = module.TOP, module.HEIGHT
    drawn = [[(round(y - top, 6) / height) for _, y in line.points] for line in module.curve_figure(numbers).lines]
    for value, low, high in ((0.5, 0.75, 0.0), (0.25, 0.5, 0.0), (0.75, 1.0, 0.5)):  # shares of the height, from above
        start = drawn.index([value, value])
        assert drawn[start + 1 : start + 3] == [[low, high]] * 2
    assert [0.875, 0.875] in drawn  # the floor, on an axis to 4
