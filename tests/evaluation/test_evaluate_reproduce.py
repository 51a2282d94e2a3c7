"""Folders of samples, frozen protocols, eta, and reports made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import tiny_models
from sfumato.build import ModelConfig
from sfumato.cli.evaluate import generator
from sfumato.cli.main import main
from sfumato.conditioners.none import NoneConfig
from sfumato.errors import InputError
from sfumato.evaluation import asked as module
from sfumato.evaluation.asked import PRESETS, Asked, Preset, filled, merged
from sfumato.evaluation.report import Report, Row
from sfumato.evaluation.reproduce import agree, compare, read_report
from sfumato.generation.pipeline import load
from sfumato.generation.request import Draft
from sfumato.recipes.families import tiny_family


def paint(folder: Path, part: str, count: int, side: int = 16) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        name = f"{part}{i:03}.png"
        noise = np.random.default_rng([*part.encode(), i]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((side, side)).save(folder / name)
        rows.append({"file_name": name, "text": f"a {part} {i}", "split": part, "style": "abcd"[i % 2]})
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "tiny", tiny_models.text_config())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rows = [row for part, count in (("test", 12), ("validation", 2), ("train", 30)) for row in paint(root, part, count)]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough for a Frechet distance."""
    root = tmp_path_factory.mktemp("many")
    rows = [row for part, count in (("test", 90), ("validation", 9), ("train", 110)) for row in paint(root, part, count)]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("samples")
    paint(root, "sample", 14)
    return root


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*argv: object) -> int:
    return main(["evaluate", *map(str, argv), "--device", "cpu"])


def vgg_sequential() -> nn.Sequential:
    """Convolutions where torchvision's `vgg16().features` has them."""
    places = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
    places |= {17: (256, 512)} | dict.fromkeys((19, 21, 24, 26, 28), (512, 512))
    return nn.Sequential(*[nn.Conv2d(*places[i], 3) if i in places else nn.Identity() for i in range(29)])


def line_of(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert said.err.count("\n") == 1, said.err
    return said.err


def test_a_folder_is_measured_as_samples(many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, samples = tmp_path / "report.json", tmp_path / "samples"
    samples.mkdir()
    paint(samples, "sample", 99)
    assert run(samples, "--data", many, "--out", out) == 0
    printed = capsys.readouterr().out
    report = json.loads(out.read_text("utf-8"))
    assert set(report["results"]) == {"fd", "fd_ratio", "kd", "precision", "recall", "density", "coverage"}
    assert report["results"]["fd"]["count"] == 99  # all samples against as many training pictures
    assert report["results"]["fd"]["floor"] > 0  # of the 90 test and 9 validation pictures
    manifest = report["manifest"]
    assert manifest["model"]["samples"] == samples.name
    assert manifest["model"]["count"] == 99
    assert manifest["data"]["rest"]["count"] == 99
    assert "Retrieval@1 is left out" in printed
    assert "reconstruction" not in printed


def test_training_pictures_as_samples_of_themselves_are_covered(many: Path, tmp_path: Path) -> None:
    """The real pictures it is compared with, as samples: distance 0, everything covered."""
    copies = tmp_path / "copies"
    copies.mkdir()
    for path in many.glob("train*.png"):
        (copies / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "report.json"
    assert run(copies, "--data", many, "--out", out) == 0
    found = json.loads(out.read_text("utf-8"))["results"]
    assert found["fd"]["value"] == pytest.approx(0, abs=1e-6)
    for key in ("precision", "recall", "coverage"):
        assert found[key]["value"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--steps", "3"], "--steps is for a model"),
        (["--eta", "1"], "--eta is for a model"),
        (["--bits", "4"], "--bits is for a model"),
        (["--reconstruction-only"], "--reconstruction-only is for a model"),
        (["--num", "15"], "there are 14 samples"),
        (["--num", "7"], "needs at least 97"),
        (["--protocol", "paper"], "how samples are drawn"),
    ],
)
def test_what_only_a_model_can_be_asked(
    samples: Path, folder: Path, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(samples, "--data", folder, *arguments) == 2
    assert word in line_of(capsys)


def test_samples_of_several_sizes_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paint(tmp_path, "one", 8)
    paint(tmp_path, "two", 8, side=24)
    assert run(tmp_path, "--data", folder) == 2
    assert "several sizes (one" in line_of(capsys)


def test_too_few_pictures_for_a_covariance_name_the_count(
    model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, "--data", folder, "--num", 7, "--steps", 1) == 2
    assert "7 pictures to draw" in (said := line_of(capsys))
    assert "needs at least 97, for a covariance of 96 features" in said
    assert "--no-fd" in said
    assert run(model, "--data", folder, "--num", 1, "--steps", 1, "--no-fd") == 0
    printed = capsys.readouterr().out
    assert "retrieval@1" in printed
    assert "1 pictures a side, and 5 neighbours need 6" in printed


def test_eta_one_of_ddim_is_ancestral(model: Path) -> None:
    """DDIM's update with eta = 1 is DDPM's with the small variance: the same pictures from the same noise."""
    pipeline = load(model, "cpu")
    ancestral = generator(pipeline, Draft(prompts=("",), seed=3, steps=4, sampler="ddpm"))(["a red cat", "a dragon"], [3, 4])
    ddim = Draft(prompts=("",), seed=3, steps=4, sampler="ddim")
    found = generator(pipeline, ddim, 1.0)(["a red cat", "a dragon"], [3, 4])
    assert (found.int() - ancestral.int()).abs().max() <= 1
    zero, plain = generator(pipeline, ddim, 0.0)(["a red cat"], [3]), generator(pipeline, ddim)(["a red cat"], [3])
    assert torch.equal(zero, plain)
    assert not torch.equal(found[:1], zero)
    with pytest.raises(InputError, match="not sampled by ddim"):
        generator(pipeline, Draft(prompts=("",), steps=4, sampler="euler"), 1.0)


def test_protocols_are_frozen() -> None:
    assert PRESETS["paper"] == Preset(PRESETS["paper"].about, 50_000, "ddim", 200, 1.0, True)
    assert PRESETS["paper-imagenet"].steps == 250
    found = filled(Asked(protocol="paper", seed=5, guidance=1.5))
    assert (found.num, found.sampler, found.steps, found.eta, found.seed, found.guidance) == (50_000, "ddim", 200, 1.0, 5, 1.5)
    assert filled(Asked(protocol="paper", steps=200)).steps == 200
    assert filled(Asked(protocol="quick", sampler="euler")).sampler == "euler"
    assert filled(Asked(eta=0.5)).sampler == "ddim"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--protocol", "papers"], "did you mean 'paper'"),
        (["--protocol", "paper", "--steps", "50"], "--steps 50 contradicts --protocol paper, whose steps is 200"),
        (["--protocol", "paper", "--eta", "0"], "--eta 0.0 contradicts"),
        (["--protocol", "paper", "--sampler", "euler"], "--sampler euler contradicts"),
        (["--protocol", "quick", "--num", "9"], "--num 9 contradicts"),
        (["--protocol", "quick", "--reconstruction-only"], "--reconstruction-only contradicts"),
        (["--eta", "2"], "eta"),
        (["--eta", "1", "--sampler", "euler"], "--eta 1 is for the sampler ddim"),
        (["--num", "100001"], "from 1 to 100000"),
        (["--bits-steps", "5"], "--bits"),
        (["--bits", "4"], "undefined for this model: a diffusion prior over a first stage's latents"),
        (["--fidelity", "fidd"], "did you mean 'fid'"),
        (["--inception", "nowhere.pth"], "no such file"),
        (["--lpips", __file__], "--vgg"),
        (["--vgg", __file__], "--vgg is for --lpips"),
        (["--reproduce", "nowhere.json"], "no such file"),
    ],
)
def test_mistakes_get_one_line(
    model: Path, folder: Path, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, "--data", folder, *arguments) == 2
    assert word in line_of(capsys)


def test_a_protocol_draws_captions_again(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """20 pictures of 14 captions, by DDIM with eta 1, and the manifest says so."""
    monkeypatch.setitem(module.PRESETS, "paper", Preset("", 20, "ddim", 2, 1.0, True, 50))
    out = tmp_path / "report.json"
    assert run(model, "--data", folder, "--protocol", "paper", "--no-fd", "--out", out) == 0
    assert "20 generated pictures for 14 held-out ones" in capsys.readouterr().out
    report = json.loads(out.read_text("utf-8"))
    manifest = report["manifest"]
    assert manifest["counts"] == {"drawn": 14, "generated": 20}
    assert manifest["data"]["rest"]["count"] == 20
    assert manifest["sampler"] == {"eta": 1.0, "spacing": "trailing"}
    assert manifest["asked"] == {"protocol": "paper", "no_fd": True}
    assert report["results"]["recall"]["count"] == 20
    assert report["results"]["recall"]["floor"] is None
    assert report["results"]["retrieval"]["count"] == 12


def test_a_report_is_reproduced(model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    given = ["--data", folder, "--steps", 2, "--seed", 5, "--sampler", "ddim", "--eta", "0.5", "--no-fd"]
    assert run(model, *given, "--out", out) == 0
    capsys.readouterr()
    assert run(model, "--data", folder, "--reproduce", out) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("Every number agrees.\n")
    assert "model weights_sha256_10: the same" in printed
    for key in json.loads(out.read_text("utf-8"))["results"]:
        assert f"\n{key}: " in printed
    assert "DIFFERS" not in printed
    assert run(model, "--data", folder, "--reproduce", out, "--steps", 3) == 2
    assert "--steps contradicts --reproduce: the report was made with 2" in line_of(capsys)

    report = json.loads(out.read_text("utf-8"))
    report["results"]["kd"]["value"] += 100
    report["manifest"]["model"]["weights_sha256_10"] = "0000000000"
    out.write_text(json.dumps(report))
    assert run(model, "--data", folder, "--reproduce", out) == 1
    printed = capsys.readouterr().out
    assert printed.endswith("Not every number agrees.\n")
    assert "model weights_sha256_10: DIFFERS, 0000000000 -> " in printed
    assert [line.split(":")[0] for line in printed.splitlines() if "DIFFERS (off" in line] == ["kd"]


def test_what_agrees() -> None:
    """Within a thousandth of the value, or of the interval where that is wider; counts and floors have to be the same."""

    def report(value: float, count: int = 9, floor: float | None = 1.0, key: str = "kd") -> Report:
        row = Row(key, key, value, count, "lower", low=value - 1, high=value + 1, floor=floor)
        return Report([row], {"extractor": {"sha256": "a"}, "made_by": {"commit": "x"}}, {}, [])

    def verdict(before: Report, after: Report) -> bool:
        return agree(compare(before.to_json(), after))

    assert verdict(report(0.0), report(0.0019))  # the interval is 2 wide
    assert not verdict(report(0.0), report(0.0021))
    assert verdict(report(1000.0), report(1000.9))
    assert not verdict(report(1000.0), report(1002.0))
    assert not verdict(report(1.0), report(1.0, count=8))
    assert not verdict(report(1.0), report(1.0, floor=None))
    assert not verdict(report(1.0), report(1.0, key="fd"))


def test_damaged_reports_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    for text, word in (
        ("[]", "no table"),
        ("{}", "no report"),
        ('{"manifest": {}, "results": {}}', "does not say what was asked"),
        ('{"manifest": {"asked": {}}, "results": {"fd": {"value": "1"}}}', "has no value"),
        ('{"manifest": {"asked": {}}, "results": {"fd": {"value": NaN}}}', "has no value"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=word):
            read_report(path)
    for recorded in ({"what": 1}, {"steps": "many"}, {"steps": 10**9}, {"split": "tests"}):
        with pytest.raises(InputError):
            merged(Asked(), recorded)


def test_samples_are_reproduced_or_found_to_be_others(
    samples: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, others = tmp_path / "report.json", tmp_path / "others"
    others.mkdir()
    paint(others, "other", 14)
    assert run(samples, "--data", folder, "--num", 12, "--no-fd", "--out", out) == 0
    capsys.readouterr()
    assert run(samples, "--data", folder, "--reproduce", out) == 0
    assert "model pixels_sha256: the same" in capsys.readouterr().out
    assert run(others, "--data", folder, "--reproduce", out) == 1
    printed = capsys.readouterr().out
    assert "model pixels_sha256: DIFFERS" in printed
    assert "data rest pixels_sha256: the same" in printed


def test_a_gan_is_measured_by_its_samples(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_family("gan")()
    config = ModelConfig(recipe.first_stage.model, recipe.prior.model, NoneConfig(), (16, 16))
    gan, out = tiny_models.write_model(tmp_path / "gan", config), tmp_path / "report.json"
    assert run(gan, "--data", folder, "--no-fd", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "Reconstruction is left out: this first stage only decodes." in printed
    report = json.loads(out.read_text("utf-8"))
    assert not any(key.startswith("reconstruction") for key in report["results"])
    assert report["results"]["coverage"]["count"] == 12
    assert report["manifest"]["sampling"]["sampler"] is None
    assert run(gan, "--data", folder, "--reproduce", out) == 0
    capsys.readouterr()
    assert run(gan, "--data", folder, "--reconstruction-only") == 2
    assert "only decodes" in line_of(capsys)
    assert run(gan, "--data", folder, "--protocol", "paper") == 2
    assert "no diffusion model" in line_of(capsys)


def test_lpips_by_its_files(model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights laid out as published; the formula itself is `test_vgg`'s."""
    vgg, heads, out = tmp_path / "vgg16.safetensors", tmp_path / "heads.pth", tmp_path / "report.json"
    weights = {f"features.{name}": p for name, p in vgg_sequential().state_dict().items()}
    save_file({name: torch.rand_like(p) * 0.02 for name, p in weights.items()}, vgg)
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}, heads)
    argv = [model, "--data", folder, "--vgg", vgg, "--lpips", heads]
    assert run(*argv, "--reconstruction-only", "--out", out) == 0
    report = json.loads(out.read_text("utf-8"))
    assert report["results"]["reconstruction/lpips"]["value"] > 0
    assert set(report["manifest"]["lpips"]) == {"heads_sha256", "vgg16_sha256"}
    capsys.readouterr()
    assert run(*argv, "--reproduce", out) == 0
    assert "lpips heads_sha256: the same" in capsys.readouterr().out
