"""Temperature, top-k and top-p of models that are no diffusion: what they do, where they are written, who refuses them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sfumato.build import ModelConfig
from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS
from sfumato.generation.metadata import parse_exact, parse_text, read_parameters
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.pixels import to_pictures
from sfumato.noise import PictureNoise
from sfumato.recipes import RECIPES
from tiny_models import loaded, unconditional_config, write_model

CPU = torch.device("cpu")


def config_of(family: str) -> ModelConfig:
    run = RECIPES[f"family-{family}-tiny"]()
    return ModelConfig(run.first_stage.model, run.prior.model, run.prior.conditioner, (16, 16))


def pipeline(family: str, **defaults: object) -> Pipeline:
    return Pipeline(loaded(config_of(family), guidance=1.0, **defaults), CPU)


@pytest.mark.parametrize("family", ["gan", "vae"])
def test_a_temperature_scales_the_noise(family):
    ours = pipeline(family)
    [made] = ours.generate(seed=3, temperature=0.5)
    shape = (1, *ours.model.latent_shape(16, 16))
    with torch.inference_mode():
        [there] = to_pictures(ours.model.decode(0.5 * PictureNoise([3])(torch.empty(shape))))
    assert made.tobytes() == there.tobytes()
    assert made.tobytes() != ours.generate(seed=3)[0].tobytes()


@pytest.mark.parametrize("family", ["vqvae", "vqvae2"])
def test_the_likeliest_code_leaves_nothing_to_chance(family):
    """Whatever says that only one code is left: top_k 1, a tiny top_p, a temperature near 0."""
    ours = pipeline(family)
    first, second = ours.generate(num=2, seed=1, top_k=1)
    assert first.tobytes() == second.tobytes()
    assert ours.generate(seed=5, top_p=1e-9)[0].tobytes() == first.tobytes()
    assert ours.generate(seed=9, temperature=1e-6)[0].tobytes() == first.tobytes()
    assert ours.generate(seed=1)[0].tobytes() != first.tobytes()


def test_what_was_used_is_written_and_read_back():
    """The model's own defaults too; 1 and none, which are no choice, are not."""
    ours = pipeline("vqvae", temperature=0.9)
    [image] = ours.generate(seed=1, top_k=5, top_p=0.95)
    exact, text = parse_exact(image.info["sfumato"]), parse_text("Steps: 1, " + image.info["parameters"].split("\n")[-1])
    for found in (exact, text):
        assert (found.temperature, found.top_k, found.top_p) == (0.9, 5, 0.95)
    assert "Temperature: 0.9, Top K: 5, Top P: 0.95" in image.info["parameters"]
    [plain] = pipeline("vqvae").generate(seed=1)
    assert "emperature" not in plain.info["parameters"] + plain.info["sfumato"]
    [explicit] = ours.generate(seed=1, temperature=0.9, top_k=5, top_p=0.95)
    assert explicit.tobytes() == image.tobytes()


def test_who_has_no_use_for_them_says_so():
    with pytest.raises(InputError, match="takes steps of denoising and has none"):
        Pipeline(loaded(unconditional_config()), CPU).generate(temperature=0.5)
    with pytest.raises(InputError, match="draws no codes"):
        pipeline("gan").generate(top_k=5)


@pytest.mark.parametrize(
    ("name", "bad"), [("temperature", 0), ("temperature", -1), ("top_k", 0), ("top_k", 2.5), ("top_p", 0.0), ("top_p", 1.1)]
)
def test_values_out_of_bounds(name, bad):
    with pytest.raises(InputError, match=f"^{name}: got"):
        getattr(LIMITS, name)(bad)


def test_the_flags_and_from(tmp_path: Path, capsys):
    model = str(write_model(tmp_path / "model", config_of("vqvae")))
    first, again, other = (str(tmp_path / name) for name in ("a.png", "b.png", "c.png"))
    same = ["generate", "--model", model, "--quiet"]
    assert main([*same, "--seed", "4", "--temperature", "0.5", "--top-k", "7", "--top-p", "0.9", "--out", first]) == 0
    assert main([*same, "--from", first, "--out", again]) == 0
    assert Path(again).read_bytes() == Path(first).read_bytes()
    assert read_parameters(again).top_k == 7
    capsys.readouterr()
    assert main([*same, "--temperature", "0", "--out", other]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "temperature: got 0" in said
    assert not Path(other).exists()
