"""`sfumato explain rate-distortion`: a tiny latent model and a tiny pixel model on a folder of pictures."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.build import ModelConfig
from sfumato.cli.main import main
from sfumato.first_stages.identity import IdentityConfig
from tiny_models import text_config, unconditional_config, write_model

COUNT = 40


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def pixel_config() -> ModelConfig:
    config = unconditional_config()
    network = dataclasses.replace(config.prior.network, in_channels=3, out_channels=3)
    return dataclasses.replace(config, first_stage=IdentityConfig(), prior=dataclasses.replace(config.prior, network=network))


def explain(model: Path, data: Path, out: Path, *more: str) -> int:
    common = ["--data", str(data), "--num", "3", "--steps", "5", "--device", "cpu", "--split", "validation"]
    return main(["explain", "rate-distortion", str(model), *common, "--out", str(out), *more])


@pytest.mark.parametrize("kind", ["text", "unconditional", "pixels"])
def test_a_model_has_a_curve(kind, data, tmp_path, capsys):
    config = {"text": text_config, "unconditional": unconditional_config, "pixels": pixel_config}[kind]()
    model = write_model(tmp_path / "model", config)
    assert explain(model, data, tmp_path / "plane.json") == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "plane.json").read_text())
    curve = found["curve"]
    assert len(curve["times"]) == len(curve["rate"]) == len(curve["rmse"]) == 5
    assert curve["rate"] == sorted(curve["rate"])
    assert (curve["lossless"] is None) == (kind != "pixels")
    assert (found["first_stage"] is None) == (kind == "pixels")
    assert "bits/value" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["unconditional", "pixels"])
def test_a_real_stream_beside_the_curve(kind, data, tmp_path, capsys):
    """Costs more than the KL divergences of its levels, is received bit for bit, and is a line of the figure."""
    pytest.importorskip("constriction", reason="an optional extra: pip install sfumato[stream]")
    model = write_model(tmp_path / "model", {"unconditional": unconditional_config, "pixels": pixel_config}[kind]())
    assert explain(model, data, tmp_path / "plane.json", "--stream", "3") == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "plane.json").read_text())["stream"]
    assert found["received"] is True
    assert len(found["times"]) == len(found["rate"]) == len(found["rmse"]) == 4
    assert all(rate > ideal for rate, ideal in zip(found["rate"], found["ideal"], strict=True))
    assert found["num_bytes"] * 8 == pytest.approx(found["rate"][-1] * found["num_pictures"] * 3 * 16 * 16)
    assert "received bit for bit" in capsys.readouterr().out
    assert explain(model, data, tmp_path / "plane.svg", "--stream", "2") == 0, capsys.readouterr().err
    assert (tmp_path / "plane.svg").read_text().count("<polyline") == 2


def test_the_figure_is_an_svg(data, tmp_path, capsys):
    model = write_model(tmp_path / "model", unconditional_config(), name="a <tiny> one")
    out = tmp_path / "plane.svg"
    assert explain(model, data, out) == 0, capsys.readouterr().err
    root = ET.parse(out).getroot()
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert tags.count("polyline") == 1
    assert tags.count("circle") == 1
    assert any("a <tiny> one" in (element.text or "") for element in root.iter())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--steps", "1"), "1 steps: expected 2 or more"),
        (("--num", "0"), "num"),
        (("--stream", "17"), "stream"),
        (("--out", "plane.txt"), ".svg, .json"),
        (("--split", "train"), "unknown split"),
        (("--data", "nowhere"), "no such folder"),
    ],
)
def test_what_is_wrong_is_one_line(more, words, data, tmp_path, capsys):
    model = write_model(tmp_path / "model", unconditional_config())
    assert explain(model, data, tmp_path / "plane.svg", *more) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
