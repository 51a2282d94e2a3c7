"""`sfumato evaluate` on tiny random models: the table, the files, the seeds, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_models
from sfumato.cli.evaluate import generator
from sfumato.cli.main import main
from sfumato.generation.pipeline import load
from sfumato.generation.request import Draft


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "tiny", tiny_models.text_config())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """97 test and 97 training pictures with captions: just enough for the Frechet distance."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for part, count in (("test", 97), ("validation", 2), ("train", 97)):
        for i in range(count):
            name = f"{part}{i}.png"
            noise = np.random.default_rng(len(rows)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((16, 16)).save(root / name)
            rows.append({"file_name": name, "text": f"a {part} {i}", "split": part, "style": "abcd"[i % 2]})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*argv: object) -> int:
    return main(["evaluate", *map(str, argv), "--device", "cpu"])


def test_table_and_files(model: Path, folder: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    assert run(model, "--data", folder, "--steps", 2, "--seed", 5, "--sampler", "ddim", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "| FD-MobileNetV2 ↓ |" in printed
    assert "retrieval@1" in printed
    assert "FID" not in printed.replace("not FID", "")
    assert printed.endswith(f"{out}\n{out.with_suffix('.md')}\n")
    assert out.with_suffix(".md").read_text("utf-8") in printed
    report = json.loads(out.read_text("utf-8"))
    manifest = report["manifest"]
    assert manifest["sampling"] == {"sampler": "ddim", "steps": 2, "guidance": 3.0, "size": [16, 16]}
    assert manifest["seed"] == 5
    assert manifest["model"]["name"] == "tiny"
    assert manifest["dataset"]["split"] == "test"
    assert manifest["counts"] == {"drawn": 97, "generated": 97}
    assert report["results"]["retrieval"]["count"] == report["results"]["fd"]["count"] == 97
    assert report["results"]["fd"]["floor"] > 0
    assert set(report["retrieval_by_group"]) == {"a", "b"}
    assert len(list((cache / "sfumato" / "features").iterdir())) == 2
    assert run(model, "--data", folder, "--out", out) == 2  # it exists
    assert "--overwrite" in capsys.readouterr().err


def test_reconstruction_only(model: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--data", folder, "--reconstruction-only", "--split", "validation") == 0
    printed = capsys.readouterr().out
    assert "reconstruction PSNR" in printed
    assert "FD-MobileNetV2 ↓" not in printed


def test_generated_pictures_are_those_of_generate(model: Path) -> None:
    """Picture i of an evaluation is what `generate` makes from the same caption and seed."""
    pipeline = load(model, "cpu")
    draw = generator(pipeline, Draft(prompts=("",), seed=7, steps=2))
    found = draw(["a red cat", "a blue dragon"], [7, 8])
    (wanted,) = pipeline.generate("a blue dragon", seed=8, steps=2)
    assert torch.equal(found[1], torch.from_numpy(np.array(wanted)).permute(2, 0, 1))


def test_without_prompts(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = tiny_models.write_model(tmp_path / "none", tiny_models.unconditional_config())
    assert run(none, "--data", folder, "--steps", 1, "--num", 9, "--no-fd") == 0
    printed = capsys.readouterr().out
    assert "Retrieval@1 is left out" in printed
    assert "KD-MobileNetV2 ↓" in printed
    assert "FD-MobileNetV2 ↓" not in printed
    assert "The Frechet distance is left out, as asked." in printed


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--num", "0"], "num"),
        (["--num", "many"], "num"),
        (["--steps", "1000000000"], "steps"),
        (["--guidance", "nan"], "guidance"),
        (["--seed", "-1"], "seed"),
        (["--seed", "4294967290"], "seed"),
        (["--sampler", "dimm"], "did you mean 'ddim'"),
        (["--split", "tests"], "did you mean 'test'"),
        (["--batch-size", "0"], "batch_size"),
        (["--out", "report.txt"], ".json"),
        (["--device", "abacus"], "device"),
        (["--unknown"], "--unknown"),
    ],
)
def test_mistakes_get_one_line(
    model: Path, folder: Path, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["evaluate", str(model), "--data", str(folder), *arguments])
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert word in said.err


def test_missing_model_and_data(model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "no-model", "--data", folder) == 2
    assert "no-model" in capsys.readouterr().err
    assert run(model, "--data", tmp_path / "no-data") == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(model, "--data", tmp_path / "empty") == 2
    assert capsys.readouterr().err.count("\n") == 1
