"""`sfumato convert`: other weights on disk, everything else byte for byte; one-line errors, nothing overwritten."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import tiny_models
from sfumato.cli.main import main
from sfumato.io import pretrained
from sfumato.io.files import MANIFEST, sha256
from sfumato.io.pretrained import load_pretrained
from sfumato.io.storage import Storage
from sfumato.io.weights import read_storage, read_stored

OTHERS = ("README.md", "config.json", "tokenizer.json")
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "tiny", tiny_models.text_config())


def convert(model: Path, out: Path, storage: str) -> Path:
    assert main(["convert", str(model), "--out", str(out), "--storage", storage]) == 0
    return out


def size(path: Path) -> str:
    return f"{sum(p.stat().st_size for p in path.iterdir()) / 1e6:.1f} MB"


@pytest.mark.parametrize("storage", [s.value for s in Storage])
def test_the_model_is_the_same_but_for_its_weights(
    model: Path, tmp_path: Path, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = convert(model, tmp_path / "made", storage)
    out, err = capsys.readouterr()
    assert out == f"{made}\n"
    assert err == f"{size(model)} (fp16) -> {size(made)} ({storage})\n"
    assert read_storage(made / WEIGHTS) is Storage(storage)
    assert all((made / name).read_bytes() == (model / name).read_bytes() for name in OTHERS)
    assert sorted(p.name for p in made.iterdir()) == sorted([*OTHERS, WEIGHTS, MANIFEST])
    before, after = load_pretrained(model), load_pretrained(made)  # and its manifest is right
    assert (after.name, after.config, after.defaults) == (before.name, before.config, before.defaults)
    given = before.model.state_dict()
    for name, tensor in after.model.state_dict().items():
        if storage == "int8" and tensor.ndim > 1 and name != "first_stage.preview":
            step = given[name].flatten(1).abs().amax(1, keepdim=True) / 127
            assert ((tensor - given[name]).flatten(1).abs() <= step / 2 * (1 + 1e-4)).all(), name  # 16 bits of step
        else:
            assert torch.equal(tensor, given[name]), name
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_there_and_back(model: Path, tmp_path: Path) -> None:
    """fp32 holds what fp16 held, and quantizing a second time finds the same rows."""
    wide = convert(model, tmp_path / "wide", "fp32")
    assert sha256(convert(wide, tmp_path / "half", "fp16") / WEIGHTS) == sha256(model / WEIGHTS)
    small = convert(model, tmp_path / "small", "int8")
    again = convert(convert(small, tmp_path / "full", "fp32"), tmp_path / "again", "int8")
    assert sha256(again / WEIGHTS) == sha256(small / WEIGHTS)


def test_a_run_is_its_model(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "run" / "model")
    assert sorted(p.name for p in convert(tmp_path / "run", tmp_path / "made", "int8").iterdir()) == sorted(
        [*OTHERS, WEIGHTS, MANIFEST]
    )


def test_an_int8_model_generates(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = convert(model, tmp_path / "small", "int8")
    assert main(["generate", "a cat", "--model", str(small), "--out", str(tmp_path / "cat.png"), "--seed", "1"]) == 0
    assert (tmp_path / "cat.png").is_file()
    assert main(["info", str(small)]) == 0
    assert f"on disk      {size(small)}" in capsys.readouterr().out


def test_a_first_stage_in_common_is_left_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrained, "ASSETS", tmp_path / "assets")
    shutil.copytree(model, tmp_path / "assets" / "shipped")
    made, given = tmp_path / "made", load_pretrained(model).model.state_dict()
    assert main(["convert", str(model), str(made), "--share-first-stage", "shipped"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{made}\n"
    assert err == f"{size(model)} (fp16) -> {size(made)} (fp16)\n"
    assert sorted(read_stored(made / WEIGHTS)) == sorted(name for name in given if not name.startswith("first_stage."))
    for name, tensor in load_pretrained(made).model.state_dict().items():
        assert torch.equal(tensor, given[name]), name
    share = ["--share-first-stage", "shipped"]
    small = convert(model, tmp_path / "small", "int8")
    capsys.readouterr()
    refused([small, tmp_path / "new", *share], "has another first stage than shipped", capsys)
    refused([model, tmp_path / "new", "--share-first-stage", "shiped"], "did you mean 'shipped'", capsys)
    refused([model, tmp_path / "new", *share, "--storage", "int8"], "convert to that first", capsys)
    refused([model, tmp_path / "new", *share, "--to", "native"], "leave out --to", capsys)
    refused([model, tmp_path / "new", *share, "--lora", "x"], "--to native", capsys)
    assert not (tmp_path / "new").exists()


def refused(arguments: list[object], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_what_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    os.symlink("nowhere", tmp_path / "link")
    there = sorted(p.name for p in tmp_path.iterdir())
    for name in there:
        refused([model, "--storage", "int8", "--out", tmp_path / name], "exists; choose another name", capsys)
    refused([model, "--storage", "int8", "--out", model], "exists", capsys)
    refused([model, "--storage", "int8", "--out", tmp_path / "file" / "below"], "is a file", capsys)
    refused([model, "--storage", "int8", "--out", tmp_path / ("x" * 5000)], "no possible path", capsys)
    refused([model, "--storage", "int8", "--out", ""], "expected the path", capsys)
    refused([model, "--storage", "int4", "--out", tmp_path / "new"], "invalid choice: 'int4'", capsys)
    refused([model, "--storage", "int8"], "--out", capsys)
    refused([model, "--out", tmp_path / "new"], "--storage", capsys)
    refused(["emojo", "--storage", "int8", "--out", tmp_path / "new"], "did you mean 'emoji'", capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == there
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_model_is_not_converted(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"name": "other"}))
    refused([copy, "--storage", "int8", "--out", tmp_path / "new"], "config.json does not match its hash", capsys)
    assert not (tmp_path / "new").exists()
