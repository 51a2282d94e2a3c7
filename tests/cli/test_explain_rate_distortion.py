"""`sfumato explain rate-distortion` of several models: tiny ones of every kind on one folder of pictures."""

from __future__ import annotations

import dataclasses
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.build import ModelConfig, build_model
from sfumato.cli.analyses.rate_distortion import MOST_MODELS
from sfumato.cli.main import main
from sfumato.conditioners.none import NoneConfig
from sfumato.explain.plane import COLOURS
from sfumato.first_stages.identity import IdentityConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.io.pretrained import SamplingDefaults, save_pretrained
from sfumato.networks.generator import GeneratorConfig
from sfumato.networks.pixelcnn import PixelCNNConfig
from sfumato.priors.autoregressive import AutoregressiveConfig
from sfumato.priors.normal import NormalConfig
from tiny_models import text_config, unconditional_config, write_model

LATENT = unconditional_config()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for index in range(40):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def pixel_config() -> ModelConfig:
    network = dataclasses.replace(LATENT.prior.network, in_channels=3, out_channels=3)
    return dataclasses.replace(LATENT, first_stage=IdentityConfig(), prior=dataclasses.replace(LATENT.prior, network=network))


def vae_config() -> ModelConfig:
    return dataclasses.replace(LATENT, prior=NormalConfig())


def vqvae_config() -> ModelConfig:
    network = dataclasses.replace(LATENT.first_stage.network, double_moments=False)
    prior = AutoregressiveConfig(PixelCNNConfig(16, dim=8, depth=1))
    return ModelConfig(VQConfig(network, codebook_size=16), prior, NoneConfig(), (16, 16))


def gan_config() -> ModelConfig:
    return ModelConfig(GeneratorConfig(3, dim=4, widths=(8, 8, 8), mapping_width=8), NormalConfig(), NoneConfig(), (16, 16))


def large_config() -> ModelConfig:
    return dataclasses.replace(LATENT, image_size=(32, 32))


def explain(models: list[Path], data: Path, out: Path, *more: str) -> int:
    common = ["--data", str(data), "--num", "3", "--steps", "5", "--device", "cpu", "--split", "validation"]
    return main(["explain", "rate-distortion", *map(str, models), *common, "--out", str(out), *more])


def texts(path: Path) -> list[str]:
    return [element.text or "" for element in ET.parse(path).getroot().iter()]


def test_every_kind_of_model_on_one_pair_of_axes(data, tmp_path, capsys):
    """Curves of two latent models and a pixel model, rings of their first stages, squares of two priors."""
    first = write_model(tmp_path / "first", LATENT, name="latent")
    models = [first, Path(shutil.copytree(first, tmp_path / "again"))]
    for name, config in (("pixels", pixel_config()), ("vae", vae_config()), ("vqvae", vqvae_config())):
        models.append(write_model(tmp_path / name, config, name=name))
    assert explain(models, data, tmp_path / "plane.svg") == 0, capsys.readouterr().err
    tags = [element.tag.rpartition("}")[2] for element in ET.parse(tmp_path / "plane.svg").getroot().iter()]
    assert (tags.count("polyline"), tags.count("circle")) == (3, 3)
    words = texts(tmp_path / "plane.svg")
    assert any(line.startswith("latent (first) and latent (again): first stage") for line in words)  # one name, two places
    assert "vae: its normal prior" in words
    assert "vqvae: its autoregressive prior" in words
    assert any("held-out pictures of 16 x 16 x 3" in line for line in words)
    assert "vqvae, pictures of 16 x 16 x 3" in capsys.readouterr().out

    assert explain(models, data, tmp_path / "plane.json") == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "plane.json").read_text())["models"]
    assert [one["model"]["name"] for one in found] == ["latent", "latent", "pixels", "vae", "vqvae"]
    assert [one["curve"] is not None for one in found] == [True, True, True, False, False]
    assert [one["first_stage"] is not None for one in found] == [True, True, False, True, True]
    assert [one["prior"] is not None for one in found] == [False, False, False, True, True]
    assert found[0]["curve"] == found[1]["curve"]
    vae, vqvae = found[3:]
    assert vae["prior"]["rate"] >= vae["first_stage"]["rate"] > 0  # N(0, 1) is no better than the Gaussian that was fitted
    assert vqvae["first_stage"]["rate"] <= 4 * 64 / (3 * 16 * 16) + 1e-9  # 4 bits a code at most
    for one in (vae, vqvae):
        assert one["first_stage"]["rmse"] == pytest.approx(one["prior"]["rmse"], rel=1e-4)


def test_a_model_without_a_chain_alone(data, tmp_path, capsys):
    model = write_model(tmp_path / "vae", vae_config())
    assert explain([model], data, tmp_path / "plane.json") == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "plane.json").read_text())
    assert found["curve"] is None
    assert found["prior"]["under"] == "its normal prior"
    assert "the same, under its normal prior" in capsys.readouterr().out


def test_models_of_two_sizes_say_so(data, tmp_path, capsys):
    models = [write_model(tmp_path / name, config) for name, config in (("a", LATENT), ("b", large_config()))]
    assert explain(models, data, tmp_path / "plane.svg") == 0, capsys.readouterr().err
    words = texts(tmp_path / "plane.svg")
    assert any("each model's own size; rates of different sizes do not compare" in line for line in words)
    assert any("(32 x 32 x 3): diffusion" in line for line in words)


def test_a_gan_is_refused_in_a_line_that_says_why(data, tmp_path, capsys):
    gan = tmp_path / "gan"
    save_pretrained(gan, build_model(gan_config()), gan_config(), defaults=SamplingDefaults(), name="gan", card="# A GAN\n")
    models = [write_model(tmp_path / "latent", LATENT), gan]
    assert explain(models, data, tmp_path / "plane.svg") == 2
    err = capsys.readouterr().err
    assert "'gan' is a GAN" in err
    assert "nothing leads from a picture back to its noise" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "plane.svg").exists()


@pytest.mark.parametrize(
    ("names", "more", "words"),
    [
        (("a", "b"), ("--stream", "3"), "stream: got 2 models, expected one"),
        (("vae",), ("--stream", "3"), "stream: 'tiny' has no diffusion prior"),
        (("a", "a"), (), "is named twice"),
        (tuple("abcdefghi"), (), "model: got 9, expected at most 8"),
        (("a", "nowhere"), (), "nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(names, more, words, data, tmp_path, capsys):
    write_model(tmp_path / "a", text_config())
    write_model(tmp_path / "vae", vae_config())
    assert explain([tmp_path / name for name in names], data, tmp_path / "plane.svg", *more) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_a_model_that_needs_more_than_data_is_named_before_anything_is_measured(data, tmp_path, capsys):
    model = write_model(tmp_path / "latent", LATENT)
    assert explain([model, Path("emoji-upscale")], data, tmp_path / "plane.svg") == 2
    found = capsys.readouterr()
    assert "model: 'emoji-upscale': this model needs a small picture" in found.err
    assert found.err.count("\n") == 1
    assert found.out == ""


def test_as_many_models_as_colours():
    assert len(COLOURS) == MOST_MODELS
