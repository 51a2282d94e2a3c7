"""Our own models as diffusers folders: those that a pipeline expresses leave and come back, the others say why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import tiny_models
import tiny_runs
from sfumato.build import ModelConfig
from sfumato.cli.main import main
from sfumato.conditioners.label import LabelConfig
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName, make_schedule
from sfumato.errors import InputError
from sfumato.first_stages.identity import IdentityConfig
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop.convert import open_source, write_folder
from sfumato.interop.load import load_published

pytestmark = pytest.mark.filterwarnings("ignore")
PLAIN = tiny_models.unconditional_config()
STAGE = PLAIN.first_stage
assert isinstance(STAGE, KLConfig)
NARROW = KLConfig(replace(STAGE.network, norm_groups=8))
VQ = VQConfig(replace(STAGE.network, double_moments=False), 50)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))


def with_prior(**fields: Any) -> ModelConfig:
    return replace(PLAIN, prior=replace(PLAIN.prior, **fields))


LEAVE = {
    "plain": PLAIN,
    "narrow norms": replace(PLAIN, first_stage=NARROW),
    "vq": replace(PLAIN, first_stage=VQ),
    "linear, v": with_prior(
        schedule=ScheduleConfig(ScheduleName.linear, 0.0001, 0.02, 400, zero_terminal_snr=True), prediction=Prediction.v
    ),
    "cosine, x0": with_prior(schedule=ScheduleConfig(ScheduleName.cosine, num_steps=300), prediction=Prediction.x0),
}


@pytest.mark.parametrize("name", LEAVE)
def test_there_and_back(name, tmp_path):
    config = LEAVE[name]
    native = tiny_models.write_model(tmp_path / "native", config)
    assert main(["convert", str(native), str(tmp_path / "folder"), "--to", "diffusers"]) == 0
    pipe = diffusers.LDMPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    loaded = open_source(native, False)
    model = loaded.model
    x_t, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([137])
    with torch.no_grad():
        ours = model.get_submodule("prior.denoiser.network").float()(x_t, t, model.conditioner(model.conditioner.null(1)))
        theirs = pipe.unet.float()(x_t, t).sample
        decoded = pipe.vqvae.float().decode(x_t / pipe.vqvae.config.scaling_factor).sample
        torch.testing.assert_close(model.first_stage.float().decode(x_t), decoded, rtol=0, atol=1e-4 * float(decoded.std()))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.std()))
    schedule, steps = make_schedule(config.prior.schedule), config.prior.schedule.num_steps
    alpha, _ = schedule((torch.arange(steps, dtype=torch.float64) + 1) / steps)
    torch.testing.assert_close(alpha.square().float(), pipe.scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7)
    assert main(["convert", str(tmp_path / "folder"), str(tmp_path / "back"), "--to", "native"]) == 0
    first, again = open_source(native, False), open_source(tmp_path / "back", False)
    assert (again.config.image_size, again.config.prior.prediction) == ((16, 16), config.prior.prediction)
    assert make_schedule(again.config.prior.schedule).num_steps == steps
    for key, value in first.model.state_dict().items():
        if not key.endswith(".preview"):
            assert torch.equal(value, again.model.state_dict()[key]), key


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (tiny_models.text_config(), "no class for this text encoder"),
        (replace(PLAIN, conditioner=LabelConfig(("a", "b"))), "takes a class beside a U-Net; keep the native form"),
        (replace(PLAIN, image_size=(16, 24)), "draws squares, this model 16 x 24"),
        (replace(PLAIN, first_stage=KLConfig(replace(STAGE.network, image_channels=4))), "4 channels .* without transparency"),
        (with_prior(schedule=ScheduleConfig(ScheduleName.rectified), prediction=Prediction.velocity), "schedule rectified"),
        (with_prior(prediction=Prediction.velocity), "prediction velocity has no diffusers form here, only eps, v, x0"),
        (replace(PLAIN, first_stage=KLConfig(replace(STAGE.network, channels=16, multipliers=(1, 2)))), "16 and of 32 groups"),
        (with_prior(network=replace(PLAIN.prior.network, channels=16, head_channels=16)), "a level of 16 channels"),
    ],
)
def test_why_not(config, why, tmp_path):
    loaded = tiny_models.loaded(config)
    with pytest.raises(InputError, match=why) as caught:
        write_folder(loaded, tmp_path / "folder")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "folder").exists()


def test_pixels_without_a_first_stage(tmp_path):
    config = replace(
        with_prior(network=replace(PLAIN.prior.network, in_channels=3, out_channels=3)), first_stage=IdentityConfig()
    )
    with pytest.raises(InputError, match="first stage of the kind identity has no diffusers form"):
        write_folder(tiny_models.loaded(config), tmp_path / "folder")


def test_the_shipped_model_says_why_not(tmp_path, capsys):
    for form, why in (("diffusers", "no class for this text encoder"), ("single-file", "denoiser of the kind hourglass")):
        assert main(["convert", "emoji", str(tmp_path / "new.safetensors"), "--to", form]) == 2
        err = capsys.readouterr().err
        assert why in err
        assert err.count("\n") == 1
        assert "keep the native form" in err
    assert not list(tmp_path.glob("new*"))


def test_what_was_trained_leaves(tmp_path):
    """A run over pictures without captions, in a schedule that diffusers has."""
    data = tiny_runs.write_folder(tmp_path / "data", kind="none")
    changes = [*tiny_runs.SMALL, "prior.model.network.channels=32", "first_stage.model.network.norm_groups=8"]
    flags = [word for change in changes for word in ("--set", change) if not change.startswith("prior.conditioner")]
    flags += ["--set", 'prior.conditioner={"kind": "none"}', "--device", "cpu", "--quiet"]
    assert main(["train", "tiny", "--data", str(data), "--out", str(tmp_path / "run"), *flags]) == 0
    for form, place in (("diffusers", "folder"), ("native", "copy")):
        assert main(["convert", str(tmp_path / "run"), str(tmp_path / place), "--to", form]) == 0
    pipe = diffusers.LDMPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert pipe(num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 3)
    assert main(["convert", str(tmp_path / "folder"), str(tmp_path / "back"), "--to", "native"]) == 0


@pytest.mark.parametrize(
    ("file", "fields", "why"),
    [
        ("unet/config.json", {"sample_size": None}, "sample_size None; expected the latent's side"),
        ("unet/config.json", {"out_channels": "x"}, "settings that are none"),
        ("unet/config.json", {"in_channels": None}, "settings that are none"),
        ("unet/config.json", {"attention_head_dim": 0}, "expected"),
        ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block 1000000000, more than it has tensors"),
        ("vqvae/config.json", {"layers_per_block": 10**9}, "layers_per_block 1000000000, more than it has tensors"),
        ("unet/config.json", {"block_out_channels": [32] * 1000}, "1000 levels: expected 16 at most"),
        ("unet/config.json", {"block_out_channels": [32, 2**40]}, "a block_out_channels beyond 1048576"),
        ("unet/config.json", {"num_class_embeds": 2**60}, "a num_class_embeds beyond 1048576"),
        ("vqvae/config.json", {"norm_num_groups": 0}, "norm_groups is 0"),
        ("vqvae/config.json", {"block_out_channels": [[]]}, "expected a list of whole numbers"),
        ("vqvae/config.json", {"scaling_factor": "x"}, "scaling_factor x; expected a number"),
        ("vqvae/config.json", {"scaling_factor": -1}, "scale_factor is -1"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "laplace"}, "beta_schedule laplace; expected scaled_linear"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "a table of betas of its own"),
        ("scheduler/scheduler_config.json", {"beta_start": "x"}, "betas or steps that are none"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 1}, "num_steps 1"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type flow; expected epsilon"),
    ],
)
def test_settings_that_are_none(file, fields, why, tmp_path):
    write_folder(tiny_models.loaded(PLAIN), tmp_path / "folder")
    path = tmp_path / "folder" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(InputError, match=why) as caught:
        load_published(tmp_path / "folder")
    assert "\n" not in str(caught.value)
