"""`sfumato explain` beside rate and distortion: each analysis on a tiny model writes what it names, or says why not."""

from __future__ import annotations

import dataclasses
import json
import types
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.build import ModelConfig
from sfumato.cli.analyses.common import encoder_of
from sfumato.cli.main import main
from sfumato.conditioners.label import LabelConfig
from sfumato.errors import InputError
from sfumato.first_stages.identity import IdentityConfig
from sfumato.networks.hourglass import HourglassConfig
from sfumato.priors.regression import RegressionConfig
from tiny_models import text_config, unconditional_config, write_model

PROMPT = "a red dragon"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data and a model of every sort that the tests name."""
    root = tmp_path_factory.mktemp("explain")
    (root / "data").mkdir()
    rng = np.random.default_rng(0)
    for index in range(120):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / "data" / f"{index}.png")
    for name, config in {
        "text": text_config(),
        "hourglass": hourglass_config(),
        "plain": unconditional_config(),
        "pixels": pixel_config(),
        "class": class_config(),
        "regression": regression_config(),
    }.items():
        write_model(root / name, config, name=name)
    return root


def hourglass_config() -> ModelConfig:
    config = text_config()
    network = HourglassConfig(4, 4, (16, 32), (1, 2), head_channels=8, condition_channels=16, context_dim=32)
    return dataclasses.replace(config, prior=dataclasses.replace(config.prior, network=network))


def pixel_config() -> ModelConfig:
    config = unconditional_config()
    network = dataclasses.replace(config.prior.network, in_channels=3, out_channels=3)
    return dataclasses.replace(config, first_stage=IdentityConfig(), prior=dataclasses.replace(config.prior, network=network))


def class_config() -> ModelConfig:
    return dataclasses.replace(text_config(), conditioner=LabelConfig(("cat", "dog"), dim=32))


def regression_config() -> ModelConfig:
    config = unconditional_config()
    return dataclasses.replace(config, prior=RegressionConfig(config.prior.network))


def explain(place: Path, out: Path, *words: str) -> int:
    """Run it; `DATA` and names of models stand for their paths, `OUT` for the place of output."""
    models = {path.name: str(path) for path in place.iterdir()}
    given = [models.get(word, word).replace("DATA", models["data"]).replace("OUT", str(out)) for word in words]
    return main(["explain", *given, "--device", "cpu"])


SHOWN = [
    ("forward text --data DATA --split validation --times 4 --num 2", 2 * 4),
    ("forward pixels --image DATA/3.png --times 5", 5),
    ("denoise text PROMPT --seed 1 --columns 2", 2 * 3),
    ("denoise pixels --seed 1 --steps 2", 2 * 3),
    ("loss text --data DATA --split validation --num 3 --parts 4", 0),
    ("loss pixels --data DATA --split validation --num 3 --parts 4", 0),
    ("interpolate text --seeds 1 2 --prompt PROMPT --count 3", 3),
    ("interpolate plain --images DATA/1.png DATA/2.png --count 3", 6),
    ("traverse text --data DATA --split validation --num 4 --directions 2 --count 3", 6),
    ("traverse text --image DATA/1.png --channels 0 3 1 --count 3", 9),
    ("histogram text --data DATA --split validation --num 3", 0),
    ("attention text PROMPT --seed 1", 4),
    ("attention hourglass PROMPT --seed 1 --by steps", 3 * 3),
    ("attention hourglass PROMPT --seed 1 --by layers --words red,dragon", 2 * 4),
    ("attention hourglass PROMPT --seed 1 --by heads --words red", 2 + 4 + 4 + 2),
]


@pytest.mark.parametrize(("words", "pictures"), SHOWN, ids=[words.replace(" --", " ")[:40] for words, _ in SHOWN])
def test_a_figure_has_its_pictures(words, pictures, place, tmp_path, capsys):
    out = tmp_path / "figure.svg"
    words = [word.replace("PROMPT", PROMPT) for word in words.split()]
    assert explain(place, tmp_path, *words, "--out", "OUT/figure.svg") == 0, capsys.readouterr().err
    root = ET.parse(out).getroot()
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert tags.count("image") == pictures
    assert tags.count("text") > 1
    assert str(out) in capsys.readouterr().out
    if not pictures:
        assert tags.count("polyline") >= 2


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_a_figure_is_pixels_too(suffix, place, tmp_path):
    assert explain(place, tmp_path, "histogram", "text", "--data", "DATA", "--split", "validation", "--num", "3",
                   "--out", f"OUT/figure.{suffix}") == 0  # fmt: skip
    image = Image.open(tmp_path / f"figure.{suffix}").convert("RGB")
    assert min(image.size) > 100
    assert len(set(image.resize((64, 64)).getdata())) > 5


@pytest.mark.parametrize("words", ["denoise text", "attention hourglass"])
@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_films_have_a_frame_a_step(words, suffix, place, tmp_path):
    assert explain(place, tmp_path, *words.split(), PROMPT, "--steps", "3", "--seed", "1", "--film", f"OUT/film.{suffix}") == 0
    film = Image.open(tmp_path / f"film.{suffix}")
    assert film.n_frames == 4  # and the finished picture


NUMBERS = {
    "forward text --data DATA --split validation --times 3": lambda f: len(f["strips"][0]["snr"]) == 3,
    "denoise text PROMPT --seed 1": lambda f: f["times"] == sorted(f["times"], reverse=True) and len(f["times"]) == 3,
    "loss pixels --data DATA --split validation --num 2 --parts 3": lambda f: (
        f["decoder"] is not None and f["total"] == pytest.approx(sum(f["bits"]) + f["prior"] + f["decoder"])
    ),
    "histogram text --data DATA --split validation --num 2": lambda f: len(f["histogram"]["mean"]) == 4,
    "traverse text --data DATA --split validation --num 4 --directions 2": lambda f: len(f["directions"]) == 2,
    "attention text PROMPT --seed 1": lambda f: sum(f["shares"]) == pytest.approx(1, abs=1e-5),
}


@pytest.mark.parametrize("words", NUMBERS, ids=[words.split()[0] for words in NUMBERS])
def test_numbers_are_json(words, place, tmp_path):
    given = [word.replace("PROMPT", PROMPT) for word in words.split()]
    assert explain(place, tmp_path, *given, "--out", "OUT/numbers.json") == 0
    found = json.loads((tmp_path / "numbers.json").read_text())
    assert found["model"]["name"] in ("text", "pixels")
    assert NUMBERS[words](found)


WRONG = [
    ("forward regression --data DATA", "no diffusion prior"),
    ("forward text", "none of --image or --data"),
    ("forward text --data DATA --image DATA/1.png", "all of --image or --data"),
    ("forward text --image DATA/1.png --times 1", "times"),
    ("forward text --data nowhere", "no such folder"),
    ("denoise regression --seed 1", "no diffusion prior"),
    ("denoise text", "prompt: got none"),
    ("denoise text x --sampler dimm", "did you mean"),
    ("loss regression --data DATA", "no diffusion prior"),
    ("loss text --data DATA --parts 1", "parts"),
    ("loss text --data DATA --split train", "unknown split"),
    ("interpolate text --prompt x", "none of --seeds or --images"),
    ("interpolate text --prompt x --seeds 1 -1", "seed"),
    ("interpolate regression --seeds 1 2", "no noise"),
    ("interpolate text --prompt x --seeds 1 2 --count 1", "count"),
    ("traverse text --image DATA/1.png", "--channels"),
    ("traverse text --image DATA/1.png --channels 4", "from 0 to 3"),
    ("traverse text --data DATA --split validation --num 3 --directions 3", "4 pictures or more"),
    ("histogram text --data DATA --num 0", "num"),
    ("attention plain x", "told no words"),
    ("attention class cat", "told no words"),
    ("attention regression x", "no diffusion prior"),
    ("attention text !?", "no words"),
    ("attention text x --by hats", "unknown view"),
    ("attention text PROMPT --words cat", "unknown word"),
    ("attention text x --film OUT/film.mp4", "film"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[f"{words[:30]}-{i}" for i, (words, _) in enumerate(WRONG)])
def test_what_is_wrong_is_one_line_and_no_file(words, message, place, tmp_path, capsys):
    given = [word.replace("PROMPT", PROMPT) for word in words.split()]
    assert explain(place, tmp_path, *given, "--out", "OUT/figure.svg") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("attention text x --out OUT/figure.txt", ".svg, .png"),
        ("attention text x", "none of --out, --film and --json"),
        ("denoise text x", "neither --out nor --film"),
        ("interpolate text --prompt x --seeds 1 2 --out OUT/a.json", "no numbers"),
    ],
)
def test_outputs_are_checked_before_the_model(words, message, place, tmp_path, capsys):
    assert explain(place, tmp_path, *words.split()) == 2
    assert message in capsys.readouterr().err


def test_a_taken_name_is_refused(place, tmp_path, capsys):
    (tmp_path / "figure.svg").write_text("mine")
    words = ("forward", "text", "--image", "DATA/1.png", "--out", "OUT/figure.svg")
    assert explain(place, tmp_path, *words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "figure.svg").read_text() == "mine"
    assert explain(place, tmp_path, *words, "--overwrite") == 0
    assert (tmp_path / "figure.svg").read_text().startswith("<svg")


def test_a_decoder_alone_has_no_latents_of_pictures():
    """As of a GAN, whose first stage is a generator."""
    pipeline = types.SimpleNamespace(name="gan", model=types.SimpleNamespace(first_stage=torch.nn.Identity()))
    with pytest.raises(InputError, match="gan has no encoder"):
        encoder_of(pipeline)
