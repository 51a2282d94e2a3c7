"""`sfumato evaluate --bits`: a pixel model by the command, a VAE by hand, captions that reach the prior."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_models
from sfumato.build import ModelConfig
from sfumato.cli.evaluate import Extras, measure
from sfumato.cli.evaluate_bits import AskedBits, condition, decoder_of
from sfumato.cli.main import main
from sfumato.conditioners.none import NoneConfig, Unconditional
from sfumato.errors import InputError
from sfumato.evaluation.decoder import DecoderLoss, fitted_variance
from sfumato.evaluation.likelihood import BitSettings, Kind, measure_bits
from sfumato.evaluation.source import read_split
from sfumato.first_stages.identity import IdentityConfig
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.generation.pipeline import Pipeline, load
from sfumato.generation.request import Draft
from sfumato.io.pretrained import save_pretrained
from sfumato.model import LatentModel
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.priors.normal import NormalConfig, NormalPrior
from sfumato.recipes import families
from sfumato.recipes.families import tiny_family
from sfumato.studies.bits import held_out_bits
from sfumato.training.card import card, config_of
from sfumato.training.config import FirstStageLossConfig

PIXELS = ModelConfig(
    IdentityConfig(3),
    DiffusionConfig(UNetConfig(3, 3, channels=32, multipliers=(1,), num_res_blocks=1, attention_factors=())),
    NoneConfig(),
    (8, 8),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rows = tmp_path_factory.mktemp("data"), []
    for part, count in (("test", 5), ("train", 6)):
        for i in range(count):
            noise = np.random.default_rng(len(rows)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / f"{part}{i}.png")
            rows.append({"file_name": f"{part}{i}.png", "split": part, "text": f"a {part} {i}"})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def test_a_pixel_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tiny_models.write_model(tmp_path / "pixels", PIXELS), tmp_path / "report.json"
    argv = ["evaluate", str(model), "--data", str(folder), "--device", "cpu", "--cache", str(tmp_path / "cache")]
    given = ["--reconstruction-only", "--bits", "3", "--bits-steps", "4", "--seed", "2"]
    assert main([*argv, *given, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| bits per dimension (bound) ↓ |" in printed
    assert "chain of 4 steps" in printed
    row = json.loads(out.read_text("utf-8"))["results"]["bits_per_dimension"]
    assert row["count"] == 3
    assert row["value"] > 8  # a random network on noise of 8 bits
    assert main([*argv, "--reproduce", str(out)]) == 0
    assert "bits_per_dimension: " in capsys.readouterr().out
    assert main([*argv, "--reconstruction-only", "--bits", "0"]) == 2
    assert "bits" in capsys.readouterr().err


def vae() -> Pipeline:
    torch.manual_seed(0)
    network = AutoencoderConfig(channels=32, multipliers=(1, 1), num_res_blocks=1, mid_attention=False, latent_channels=4)
    stage = KLFirstStage(KLConfig(network)).eval()
    model = LatentModel(stage, NormalPrior(NormalConfig(), stage.latent), Unconditional(NoneConfig()), (8, 8))
    return Pipeline(dataclasses.replace(tiny_models.loaded(PIXELS), model=model, name="vae"), torch.device("cpu"))


def report_of(pipeline: Pipeline, folder: Path, **extras: Any) -> Any:
    draft = Draft(prompts=("",), seed=0)
    return measure(pipeline, folder, draft, None, None, None, None, False, Extras(**extras))


def pictures(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The training pictures, one of the six of which validates, and those of the test."""
    parts, found = read_split(folder), []
    for records in (parts.train, parts.test):
        each = [torch.from_numpy(np.array(Image.open(folder / r.name))).permute(2, 0, 1) for r in records]
        found.append(torch.stack(each))
    return found[0], found[1]


def test_a_vae_is_measured_with_the_variance_of_training_pictures(folder: Path) -> None:
    pipeline = vae()
    report = report_of(pipeline, folder, bits=AskedBits(5))
    row = report["bits_per_dimension"]
    assert row.count == 5
    assert "importance-weighted bound of 64 draws" in " ".join(report.notes)
    assert "it was trained in a way that is not known" in " ".join(report.notes)
    train, test = pictures(folder)
    stage, prior = pipeline.model.first_stage, pipeline.model.prior
    settings = BitSettings(variance=fitted_variance(stage, train))
    wanted = measure_bits(stage, prior, test, lambda part: condition(pipeline, [""] * len(test[part])), settings)
    assert row.value == pytest.approx(float(wanted.values.mean()), rel=1e-6)
    assert report.manifest["fit"]["count"] == 5
    draft = Draft(prompts=("",), seed=0)
    few = measure(pipeline, folder, draft, None, 2, None, None, False, Extras(bits=AskedBits(5)))
    assert few.manifest["fit"]["count"] == 5  # all training pictures, however few are drawn
    assert few.manifest["data"]["rest"]["count"] == 2
    assert few["bits_per_dimension"].value == row.value


def test_evaluate_and_compare_have_the_same_bits(folder: Path) -> None:
    pipeline = vae()
    train, test = pictures(folder)
    same = held_out_bits(pipeline.model, test, train, DecoderLoss.unknown, batch_size=16)
    row = report_of(pipeline, folder, bits=AskedBits(5))["bits_per_dimension"]
    assert float(same.values.mean()) == pytest.approx(row.value, rel=1e-6)


def test_what_is_undefined_or_has_no_chain_is_refused_before_anything_runs(folder: Path) -> None:
    with pytest.raises(InputError, match="--bits-steps is for a diffusion chain, and these bits are a bound, importance"):
        report_of(vae(), folder, bits=AskedBits(5, steps=9))
    latent = Pipeline(tiny_models.loaded(tiny_models.text_config()), torch.device("cpu"))
    with pytest.raises(InputError, match="undefined for this model"):
        report_of(latent, folder, bits=AskedBits(5))
    pixels = Pipeline(tiny_models.loaded(PIXELS), torch.device("cpu"))
    with pytest.raises(
        InputError, match="--bits-gaussian is for the decoder of a KL or VQ first stage, and these bits are a b"
    ):
        report_of(pixels, folder, bits=AskedBits(5, gaussian=True))


def written(name: str, folder: Path, loss: FirstStageLossConfig | None = None) -> Path:
    """A random model of a tiny family with the card that its training would have written."""
    recipe = tiny_family(name)()
    if loss is not None:
        recipe = dataclasses.replace(recipe, first_stage=dataclasses.replace(recipe.first_stage, loss=loss))
    config = ModelConfig(recipe.first_stage.model, recipe.prior.model, NoneConfig(), (16, 16))
    counts = {"num_train": 6, "num_held_out": 3, "num_bad": 0, "num_duplicates": 0}
    stage = {"steps": 1, "images_per_second": 1.0}
    told = card(recipe, counts, {"first_stage": stage, "prior": stage, "device": "cpu"}, {"prior": 1})
    assert config_of(told) == recipe
    save_pretrained(folder, tiny_models.random_model(config), config, card=told)
    return folder


def test_a_card_tells_how_the_decoder_was_trained(larger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--data", str(larger), "--device", "cpu", "--cache", str(tmp_path / "cache"), "--reconstruction-only"]
    argv += ["--bits", "2"]
    plain, out = written("vqvae", tmp_path / "vqvae"), tmp_path / "report.json"
    assert main(["evaluate", str(plain), *argv, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    results = json.loads(out.read_text("utf-8"))["results"]
    assert results["bits_per_code"]["count"] == results["bits_per_dimension"]["count"] == 2
    assert "| bits per dimension (bound) ↓ |" in printed
    assert "it was trained by squared error alone." in printed
    assert main(["evaluate", str(plain), *argv[:-2], "--reproduce", str(out)]) == 0
    assert "\nbits_per_dimension: " in capsys.readouterr().out

    sharp = written("vqgan", tmp_path / "vqgan")
    assert decoder_of(load(sharp, "cpu")) is DecoderLoss.other
    assert main(["evaluate", str(sharp), *argv]) == 0
    printed = capsys.readouterr().out
    assert "bits per dimension (bound)" not in printed
    assert "the decoder learned from more than squared error" in printed
    assert main(["evaluate", str(sharp), *argv, "--bits-gaussian", "--out", str(out), "--overwrite"]) == 0
    assert "it was taken for the mean of a Gaussian as asked." in capsys.readouterr().out
    assert json.loads(out.read_text("utf-8"))["manifest"]["asked"]["bits_gaussian"] is True

    pleasing = written("vae", tmp_path / "vae", FirstStageLossConfig())
    assert main(["evaluate", str(pleasing), *argv]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "undefined for this model: the decoder learned from more than squared error" in said
    assert "--bits-gaussian" in said
    assert main(["evaluate", str(pleasing), *argv, "--bits-gaussian"]) == 0
    assert main(["evaluate", str(pleasing), *argv[:-2], "--bits-gaussian"]) == 2
    assert "give --bits too" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# A model\n",
        "\n## Config\n\n```json\n{",
        "\n## Config\n\n```json\n{}\n```\n",
        "\n## Config\n\n```json\n" + "[" * 10**5,
    ],
)
def test_a_card_that_tells_of_no_run_leaves_it_unknown(text: str, tmp_path: Path) -> None:
    assert config_of(text) is None
    model = tmp_path / "model"
    save_pretrained(model, tiny_models.random_model(PIXELS), PIXELS, card=text)
    assert decoder_of(load(model, "cpu")) is DecoderLoss.unknown
    assert decoder_of(load(model, "cpu"), asked=True) is DecoderLoss.asked


FAMILIES = {
    "gan": "a generator gives pictures and no density",
    "vae": Kind.importance,
    "vqvae": Kind.codes,
    "vqvae2": Kind.codes,
    "vqgan": Kind.codes,
    "autoregressive": Kind.pixels,
    "flow": Kind.density,
    "ddpm": Kind.chain,
    "ldm": "a diffusion prior over a first stage's latents",
    "ldm-vq": "a diffusion prior over a first stage's latents",
    "dit": "a diffusion prior over a first stage's latents",
    "rectified": "a diffusion prior over a first stage's latents",
}


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rows = tmp_path_factory.mktemp("larger"), []
    for part, count in (("test", 3), ("train", 3)):
        for i in range(count):
            noise = np.random.default_rng(len(rows)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((16, 16)).save(root / f"{part}{i}.png")
            rows.append({"file_name": f"{part}{i}.png", "split": part})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_bits_or_says_why_not(name: str, larger: Path) -> None:
    recipe = tiny_family(name)()
    config = ModelConfig(recipe.first_stage.model, recipe.prior.model, NoneConfig(), (16, 16))
    pipeline = Pipeline(tiny_models.loaded(config), torch.device("cpu"))
    wanted = FAMILIES[name]
    if isinstance(wanted, str):
        with pytest.raises(InputError, match="undefined for this model") as error:
            report_of(pipeline, larger, bits=AskedBits(2))
        assert wanted in str(error.value)
        return
    report = report_of(pipeline, larger, bits=AskedBits(2, 3 if wanted is Kind.chain else None))
    row = report["bits_per_code" if wanted is Kind.codes else "bits_per_dimension"]
    assert row.count == 2
    assert 0 < row.value < 1e4
    assert ("bound" in row.label) == (wanted not in (Kind.codes, Kind.pixels))
    assert ("bits_per_dimension" in report) == (wanted is not Kind.codes)  # how the decoder was trained is not known here


def test_the_families_are_all() -> None:
    assert set(FAMILIES) == set(families.FAMILIES)


def test_captions_reach_the_condition() -> None:
    pipeline = Pipeline(tiny_models.loaded(tiny_models.text_config()), torch.device("cpu"))
    two = condition(pipeline, ["a red cat", "a blue dragon"])
    assert two.context is not None
    assert len(two.context) == 2
    torch.testing.assert_close(two.context[1:], condition(pipeline, ["a blue dragon"]).context, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(two.context[0], two.context[1])
