"""`sfumato train-classifier`: from labelled pictures to a classifier that `generate --guide` takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli.main import main
from sfumato.data.dataset import ImageDataset
from sfumato.data.folder import scan
from sfumato.io.classifier import load_classifier
from sfumato.io.pretrained import load_pretrained
from sfumato.training.classifier import accuracy, labelled_latents
from tiny_models import unconditional_config, write_model

SHADES = {"dark": 20, "light": 235}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model", unconditional_config())


@pytest.fixture
def kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve pictures of noise around one of two shades, by subfolder; the same in a table, under another field."""
    monkeypatch.chdir(tmp_path)
    rng, rows = np.random.default_rng(0), []
    for name, shade in SHADES.items():
        (tmp_path / "kinds" / name).mkdir(parents=True)
        for index in range(12):
            page = (shade + rng.integers(-15, 16, (16, 16, 3))).astype(np.uint8)
            Image.fromarray(page).save(tmp_path / "kinds" / name / f"{index}.png")
            split = "validation" if index < 4 else "train"
            rows.append({"file_name": f"{name}/{index}.png", "shade": name, "split": split, "text": "noise"})
    (tmp_path / "table").mkdir()
    for name in SHADES:
        (tmp_path / "kinds" / name).rename(tmp_path / "table" / name)
    (tmp_path / "table" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in SHADES:  # the folders without the table
        (tmp_path / "kinds" / name).mkdir()
        for picture in (tmp_path / "table" / name).iterdir():
            (tmp_path / "kinds" / name / picture.name).write_bytes(picture.read_bytes())
    return tmp_path


def train(model: Path, *argv: str) -> int:
    return main(["train-classifier", str(model), "--steps", "60", "--device", "cpu", *argv])


@pytest.mark.parametrize("source", [("kinds",), ("table", "--label", "shade")], ids=["folders", "field"])
def test_trains_what_guides(model: Path, kinds: Path, source: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert train(model, "--data", *source, "--out", "shades") == 0
    out, err = capsys.readouterr()
    assert out == "shades\n"
    assert "2 classes; encoding" in err
    assert "step 60/60: loss" in err
    assert "50.0% would be chance" in err
    loaded = load_pretrained(model)
    found = load_classifier(Path("shades"))
    assert found.network.config.names == ("dark", "light")
    assert found.latents == loaded.hash
    data = ImageDataset(scan(kinds / "kinds").records, loaded.model.image_size, loaded.model.first_stage.channels)
    seen = labelled_latents(loaded.model, data, found.network.config.names)
    assert seen.z.shape == (24, 4, 8, 8)
    assert accuracy(found.network, seen) == 1.0  # black and white: nothing else tells the two apart
    flags = ["generate", "--model", str(model), "--seed", "1", "--steps", "2", "--device", "cpu", "--out", "x.png"]
    assert main([*flags, "--guide", "shades", "--guide-class", "light"]) == 0


def test_says_only_the_path_when_quiet(model: Path, kinds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(model, "--data", "kinds", "--out", "shades", "--quiet", "--steps", "1") == 0
    assert capsys.readouterr() == ("shades\n", "")
    assert train(model, "--data", "kinds", "--out", "shades", "--quiet", "--steps", "1", "--overwrite") == 0


def test_labels_are_indices_into_the_names(model: Path, kinds: Path) -> None:
    """Pictures of other classes than those named are passed over."""
    loaded = load_pretrained(model)
    data = ImageDataset(scan(kinds / "kinds").records, loaded.model.image_size, loaded.model.first_stage.channels)
    both = labelled_latents(loaded.model, data, ("light", "dark"), batch_size=5)
    expected = [("light", "dark").index(record.label or "") for record in data.records]
    assert both.labels.tolist() == expected
    some = labelled_latents(loaded.model, data, ("light",))
    rows = [i for i, label in enumerate(expected) if label == 0]
    assert torch.allclose(some.z, both.z[rows], atol=1e-5)  # batches of another size
    assert len(labelled_latents(loaded.model, data, ("none of them",)).z) == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--data", "nowhere", "--out", "x"), "data: no such folder"),
        (("--data", "table", "--out", "x"), "0 classes by 'label'"),
        (("--data", "kinds/dark", "--out", "x"), "0 classes"),
        (("--data", "table", "--label", "shad", "--out", "x"), "Known: shade, text"),
        (("--data", "table", "--label", "text", "--out", "x"), "1 classes by 'text'"),
        (("--data", "kinds", "--out", "x", "--steps", "0"), "steps: got 0"),
        (("--data", "kinds", "--out", "x", "--noise", "nan"), "noise: got nan"),
        (("--data", "kinds", "--out", "x", "--seed", "-1"), "seed: got -1"),
        (("--data", "kinds", "--out", "x", "--train-batch", "many"), "train-batch: got 'many'"),
        (("--data", "kinds", "--out", "table"), "exists and is no classifier"),
        (("--data", "kinds", "--out", "table", "--overwrite"), "exists and is no classifier"),
        (
            (
                "--data",
                "kinds",
            ),
            "--out",
        ),
    ],
)
def test_what_is_wrong_is_one_line(
    model: Path, kinds: Path, argv: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(model, *argv) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert said in err
    assert not Path("x").exists()
    assert (kinds / "table" / "metadata.jsonl").is_file()


def test_keeps_a_classifier_that_is_there(model: Path, kinds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(model, "--data", "kinds", "--out", "shades", "--quiet", "--steps", "1") == 0
    before = Path("shades/model.safetensors").read_bytes()
    capsys.readouterr()
    assert train(model, "--data", "kinds", "--out", "shades") == 2
    assert "exists; choose another name" in capsys.readouterr().err
    assert Path("shades/model.safetensors").read_bytes() == before
    assert main(["train-classifier", "nothing", "--data", "kinds", "--out", "x", "--device", "cpu"]) == 2
