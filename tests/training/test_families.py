"""Every family of the tree, from a folder to pictures: one command trains it, its model draws, resumes, and says what it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from sfumato.build import build_first_stage, build_model, build_prior
from sfumato.cli.main import main
from sfumato.conditioners.label import LabelConfig
from sfumato.errors import InputError
from sfumato.first_stages.identity import IdentityConfig, IdentityFirstStage
from sfumato.generation.pipeline import load
from sfumato.generation.settings import settings_for
from sfumato.latent import Codes, Grid, Vector
from sfumato.noise import PictureNoise
from sfumato.priors.autoregressive import AutoregressivePrior
from sfumato.priors.flow import FlowPrior
from sfumato.priors.hierarchical import HierarchicalPrior
from sfumato.priors.normal import NormalConfig
from sfumato.recipes import RECIPES
from sfumato.recipes.families import FAMILIES
from sfumato.training.check import check
from sfumato.training.run import resolve, train
from tiny_runs import CPU

LATENTS = {"gan": Vector, "vqvae": Codes, "vqvae2": Codes, "vqgan": Codes, "autoregressive": Codes}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs and squares in four colours, in two folders."""
    from PIL import Image, ImageDraw

    root = tmp_path_factory.mktemp("shapes")
    for index in range(40):
        shape = ("disc", "square")[index % 2]
        picture = Image.new("RGB", (16, 16), "white")
        draw = ImageDraw.Draw(picture)
        box, colour = (3, 3, 12, 12 + index % 3), ("red", "green", "blue", "black")[index % 4]
        (draw.ellipse if shape == "disc" else draw.rectangle)(box, fill=colour)
        (root / shape).mkdir(exist_ok=True)
        picture.save(root / shape / f"{index}.png")
    return root


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A family's name and its run."""
    out = tmp_path_factory.mktemp("runs") / str(request.param)
    train(RECIPES[f"family-{request.param}-tiny"](), folder, out, CPU, quiet=True)
    return request.param, out


def test_a_family_trains_draws_and_says_what_it_is(trained: tuple[str, Path], folder: Path) -> None:
    name, out = trained
    pipe = load(out, "cpu")
    assert isinstance(pipe.model.prior.latent, LATENTS.get(name, Grid))
    one, two = pipe.generate(num=2, seed=5)
    assert (one.size, one.mode) == ((16, 16), "RGB")
    assert one.tobytes() != two.tobytes()
    assert pipe.generate(seed=6)[0].tobytes() == two.tobytes()  # a picture is its seed's, whatever stands beside it
    diffusion = name in ("ddpm", "ldm", "ldm-vq", "dit", "rectified")
    assert ("Steps" in one.info["parameters"]) == ("Sampler" in one.info["parameters"]) == diffusion
    text = (out / "model" / "README.md").read_text("utf-8")
    assert ("latent diffusion model" in text) == (diffusion and name != "ddpm")
    assert (out / "model" / "config.json").stat().st_mtime_ns == (
        train(RECIPES[f"family-{name}-tiny"](), folder, out, CPU, quiet=True) / "config.json"
    ).stat().st_mtime_ns  # done: nothing is written again
    lines = [json.loads(line) for log in out.glob("*/log.jsonl") for line in log.read_text().splitlines()]
    assert lines


def test_likelihoods_are_learned(trained: tuple[str, Path], folder: Path) -> None:
    """Exact ones: data are likelier than with random weights, in the same spaces."""
    name, out = trained
    model = load(out, "cpu").model
    if not isinstance(model.prior, AutoregressivePrior | HierarchicalPrior | FlowPrior):
        pytest.skip("no exact likelihood")
    config, _ = resolve(RECIPES[f"family-{name}-tiny"](), folder)
    torch.manual_seed(3)
    untrained = build_prior(config.prior.model, model.first_stage)
    pixels = pictures(folder)
    z = model.encode(pixels)
    if isinstance(untrained, FlowPrior):
        untrained.initialise(z, model.conditioner(torch.zeros(len(z), dtype=torch.int64)))
    with torch.no_grad():
        cond = model.conditioner(torch.zeros(len(z), dtype=torch.int64))
        rngs = (torch.Generator().manual_seed(0), torch.Generator().manual_seed(0))
        before, after = untrained.loss(z, cond, rngs[0]).total, model.prior.loss(z, cond, rngs[1]).total
    assert float(after) < float(before)


def pictures(folder: Path) -> torch.Tensor:
    """Sixteen of them, (16, 3, 16, 16) in [-1, 1]."""
    from sfumato.data.dataset import ImageDataset
    from sfumato.data.folder import scan

    data = ImageDataset(scan(folder).records[:16], 16, 3)
    return data.load_all().float() / 127.5 - 1


def test_codes_of_pixels_are_the_bytes() -> None:
    x = (torch.arange(256).float() / 127.5 - 1).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    face = IdentityFirstStage(IdentityConfig(3)).codes()
    codes = face.encode(x)
    assert torch.equal(codes[0, 1].flatten(), torch.arange(256))
    assert torch.allclose(face.decode(codes), x, atol=1e-6)
    grey = IdentityFirstStage(IdentityConfig(1)).codes()
    assert grey.encode(x[:, :1]).shape == (2, *grey.latent.shape(16, 16)) == (2, 16, 16)
    assert torch.allclose(grey.decode(grey.encode(x[:, :1])), x[:, :1], atol=1e-6)


def test_the_shape_of_codes_in_one_tensor() -> None:
    assert Codes((4,), 8).shape(16, 32) == (4, 8)
    assert Codes((1,), 256, 3).shape(16, 32) == (3, 16, 32)
    assert Codes((8, 4), 8).shape(16, 32) == (5, 2, 4)


def test_a_gan_with_classes(folder: Path, tmp_path: Path) -> None:
    """The label is a part of z: other classes, other pictures; an unknown one is refused."""
    base = RECIPES["family-gan-tiny"]()
    prior = dataclasses.replace(base.prior, conditioner=LabelConfig(("any", "other"), dim=4, as_context=False))
    out = tmp_path / "gan"
    train(dataclasses.replace(base, prior=prior), folder, out, CPU, quiet=True)
    pipe = load(out, "cpu")
    assert pipe.model.prior.config == NormalConfig(vector_dim=4)
    disc, square = pipe.generate(["disc", "square"], seed=1), pipe.generate("square", seed=1)
    assert disc[0].tobytes() != square[0].tobytes()
    with pytest.raises(InputError, match="unknown class 'star'"):
        pipe.generate("star")


def test_what_cannot_be_is_said_in_one_line(trained: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    name, out = trained
    steps = main(["generate", "--model", str(out), "--steps", "3", "--seed", "1", "--out", str(tmp_path / "steps"), "--quiet"])
    said = capsys.readouterr().err
    if name in ("ddpm", "ldm", "ldm-vq", "dit", "rectified"):
        assert steps == 0
        return
    assert (steps, said.count("\n")) == (2, 1)
    assert "is no diffusion model" in said
    assert not (tmp_path / "steps").exists()
    picture = tmp_path / "one.png"
    load(out, "cpu").generate(seed=1)[0].save(picture)
    assert main(["edit", str(picture), "--model", str(out), "--out", str(tmp_path / "edited"), "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_generator_has_one_size_and_no_encoder(folder: Path) -> None:
    config, _ = resolve(RECIPES["family-gan-tiny"](), folder)
    from sfumato.build import ModelConfig

    shape = ModelConfig(config.first_stage.model, config.prior.model, config.prior.conditioner, (16, 16))
    model = build_model(shape)
    with pytest.raises(InputError, match="draws its own 16x16 only"):
        model.latent_shape(32, 32)
    with pytest.raises(InputError, match="no encoder"):
        model.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(InputError, match=r"data.size is 32: expected 16"):
        check(dataclasses.replace(config, data=dataclasses.replace(config.data, size=32)))


@pytest.mark.parametrize(
    ("first", "prior", "message"),
    [
        ("gan", "ddpm", "a diffusion prior does not go over latents that are a Vector"),
        ("gan", "vqvae", "an autoregressive prior needs codes, and a generator has none"),
        ("ldm", "vqgan", "KLFirstStage has no codes"),
    ],
)
def test_pairs_that_do_not_go_together(first: str, prior: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_prior(FAMILIES[prior]().prior.model, build_first_stage(FAMILIES[first]().first_stage.model))


def test_a_flow_over_latents_and_a_slide_beyond_the_training_size(folder: Path, tmp_path: Path) -> None:
    """Pairs that no recipe names: a flow over KL latents; a transformer over codes draws larger than it was trained."""
    ldm, flow = RECIPES["family-ldm-tiny"](), RECIPES["family-flow-tiny"]()
    network = dataclasses.replace(flow.prior.model.network, num_scales=1)
    prior = dataclasses.replace(flow.prior, model=dataclasses.replace(flow.prior.model, network=network))
    train(dataclasses.replace(ldm, name="flow over latents", prior=prior), folder, tmp_path / "flow", CPU, quiet=True)
    pipe = load(tmp_path / "flow", "cpu")
    assert pipe.model.prior.config.dequantize is False
    assert pipe.generate(seed=1, size=(32, 16))[0].size == (16, 32)


def test_sampling_defaults_reach_the_codes(trained: tuple[str, Path]) -> None:
    """top_k = 1 leaves no chance: every seed gives the same codes."""
    name, out = trained
    if name != "vqgan":
        pytest.skip("one family suffices")
    pipe = load(out, "cpu")
    settings = settings_for(pipe.model.prior, dataclasses.replace(pipe.loaded.defaults, top_k=1))
    x = pipe.model.sample(pipe.model.conditioner.prepare(["", ""]), settings, PictureNoise([1, 2]))
    assert torch.equal(x[0], x[1])
    large = pipe.generate(seed=1, size=(32, 16))[0]
    assert large.size == (16, 32)
