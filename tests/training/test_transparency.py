"""A whole run on pictures with transparency: both stages, the model, its card, what it draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import go

from sfumato.alpha import from_straight
from sfumato.generation.settings import settings_of
from sfumato.io.pretrained import load_pretrained
from sfumato.io.weights import read_weights
from sfumato.losses.perceptual import PerceptualLoss
from sfumato.noise import PictureNoise
from sfumato.training.config import FirstStageLossConfig
from sfumato.training.run import resolve
from sfumato.training.tasks.autoencoder import AutoencoderTask
from tiny_runs import CPU, PixelSource, awaken, picture, small_config, small_first_stage, transparent, write_folder


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("clear") / "pictures", clear=True)


@pytest.fixture(scope="module")
def made(clear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "clear"
    go(small_config("data.channels=4"), clear, out)
    return out


def test_training_sees_the_picture_on_white_and_alpha(clear: Path) -> None:
    _, prepared = resolve(small_config("data.channels=4", "data.size=20"), clear)
    plain = resolve(small_config("data.size=20"), clear)[1]
    index = next(i for i, record in enumerate(prepared.train.records) if record.name == "007.png")
    pixels = prepared.train.pixels(index)
    rgba = np.ascontiguousarray(transparent(picture(7)[0]).transpose(2, 0, 1))
    np.testing.assert_array_equal(pixels.numpy(), from_straight(rgba))
    assert torch.equal(pixels[:3], plain.train.pixels(index))
    assert 120 <= int(pixels[3][pixels[3] > 0].min()) < 255


def test_both_stages_have_four_channels(made: Path) -> None:
    model = load_pretrained(made / "model").model
    assert model.first_stage.channels == 4
    assert model.first_stage.preview.shape == (5, 3)
    config = json.loads((made / "config.json").read_text())
    assert config["first_stage"]["model"]["network"]["image_channels"] == 4
    x = model.sample(model.conditioner.prepare(["a red disc"]), settings_of(small_config().sampling), PictureNoise([1]), 2.0)
    assert x.shape == (1, 4, 16, 16)
    assert x.isfinite().all()


def test_the_discriminator_looks_at_alpha(made: Path) -> None:
    state = read_weights(next((made / "first_stage" / "checkpoints").glob("step-*10")) / "state.safetensors")
    first = [t for name, t in state.items() if name.startswith("module.discriminator.") and t.ndim == 4]
    assert first[0].shape[1] == 4


def test_the_report_and_the_card_name_alpha(made: Path) -> None:
    report = json.loads((made / "first_stage" / "reconstruction.json").read_text())
    assert 0 < report["alpha_psnr"] < 100
    card = (made / "model" / "README.md").read_text()
    assert "16x16 pictures with transparency" in card
    assert f"PSNR of alpha alone: {report['alpha_psnr']:.2f} dB" in card


def test_sheets_are_on_white(made: Path, clear: Path) -> None:
    with Image.open(made / "first_stage" / "pairs.png") as image:
        page = np.asarray(image)
    held_out = resolve(small_config("data.channels=4"), clear)[1].held_out
    np.testing.assert_array_equal(page[2:18, 2:18], held_out.pixels(0)[:3].permute(1, 2, 0).numpy())
    for name in ("first_stage", "prior"):
        with Image.open(made / name / "samples" / "step-00000010.png") as image:
            assert image.mode == "RGB"


def test_a_wrong_alpha_is_felt_by_the_pixel_error(clear: Path) -> None:
    """Where the picture on white is right and alpha wrong, the loss and its gradient are in alpha alone."""
    first = awaken(small_first_stage(channels=4))
    pixels = resolve(small_config("data.channels=4"), clear)[1].train.load_all()
    source = PixelSource(list(pixels), pixels, CPU, 0)  # type: ignore[arg-type]  # resident: only the length is asked for
    task = AutoencoderTask(first, FirstStageLossConfig(gan_start="never"), source, CPU)  # type: ignore[arg-type]
    assert isinstance(task.reconstruction.perceptual, PerceptualLoss)
    x = source.batch(0, 4, torch.Generator().manual_seed(0))
    x_hat = torch.cat([x[:, :3], -x[:, 3:]], 1).requires_grad_()
    terms = task.reconstruction(x_hat, x)
    terms.nll.backward()
    assert x_hat.grad is not None
    assert terms.perceptual.abs().max() < 1e-6
    torch.testing.assert_close(terms.error, 2 * x[:, 3:].abs().flatten(1).mean(1) / 4)
    assert x_hat.grad[:, 3:].abs().min() > 0
    assert x_hat.grad[:, :3].abs().max() < 1e-3 * x_hat.grad[:, 3:].abs().max()
