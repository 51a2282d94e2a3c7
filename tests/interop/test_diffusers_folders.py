"""Folders that are written here load in diffusers, whose classes then give the numbers of our model, and read as ours again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from published import CARDS, MASK, RGB, _both, made, shrunken, state_of, write
from transformers import CLIPTextModel

import tiny_models
from sfumato.cli.main import main
from sfumato.conditioners.masked import MaskedImage
from sfumato.conditioners.picture_latent import PictureLatentConfig
from sfumato.conditioners.sizes import Sizes
from sfumato.errors import InputError
from sfumato.interop.convert import open_source, write_folder, write_native, write_single_file
from sfumato.io.pretrained import LoadedModel
from sfumato.io.storage import Storage

WORDS = ("a cat", "", "An  Élan: 12 cats, isn't it? \U0001f600", "word " * 100)
GIVEN: dict[str, Any] = {
    "sd1": "a cat",
    "sd2": "a cat",
    "sd1 inpainting": {"text": "a cat", "mask": MaskedImage(RGB, MASK)},
    "sdxl": {"text": "a cat", "sizes": Sizes((16, 16))},
}
CLASSES = {
    "sd1": diffusers.StableDiffusionPipeline,
    "sd2": diffusers.StableDiffusionPipeline,
    "sd1 inpainting": diffusers.StableDiffusionInpaintPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))


def opened(tmp_path: Path, name: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    card = CARDS[name][0]
    state = {key: value.to(dtype) for key, value in state_of(made(card), card).items()}
    return open_source(write(state, tmp_path / "mine.safetensors"), True, card=card)


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """1e-5 of the outputs' largest number, since sums run in another order."""
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def compare(loaded: LoadedModel, pipe: Any, given: Any) -> None:
    """Tokens, text, first stage both ways, U-Net."""
    model = loaded.model
    prepared = model.conditioner.prepare([given])
    cond = model.conditioner(prepared)
    towers = [(pipe.tokenizer, pipe.text_encoder)]
    if hasattr(pipe, "tokenizer_2"):
        towers.append((pipe.tokenizer_2, pipe.text_encoder_2))
    outputs = []
    for tokenizer, encoder in towers:
        ids = tokenizer(["a cat"], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        outputs.append(encoder(ids, output_hidden_states=True))
    is_xl = len(towers) == 2
    context = torch.cat([o.hidden_states[-2] for o in outputs], 2) if is_xl else outputs[0].last_hidden_state
    close(cond.context, context)
    extra = {}
    if is_xl:
        times = torch.tensor([[16, 16, 0, 0, 16, 16]])
        extra["added_cond_kwargs"] = {"text_embeds": outputs[1].text_embeds, "time_ids": times}
    factor = pipe.vae.config.scaling_factor
    z = model.first_stage.posterior(RGB[None]).mode()
    close(z, pipe.vae.encode(RGB[None]).latent_dist.mode() * factor)
    close(model.first_stage.decode(z), pipe.vae.decode(z / factor).sample)
    x_t, t = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)), torch.tensor([501])
    joined = x_t if cond.concat is None else torch.cat([x_t, cond.concat], 1)
    network = model.get_submodule("prior.denoiser.network")
    close(network(x_t, t, cond), pipe.unet(joined, t, encoder_hidden_states=context, **extra).sample)


@pytest.mark.parametrize("name", GIVEN)
def test_diffusers_loads_what_is_written(name, tmp_path):
    loaded = opened(tmp_path, name)
    write_folder(loaded, tmp_path / "folder")
    pipe = CLASSES[name].from_pretrained(tmp_path / "folder", local_files_only=True)
    assert json.loads((tmp_path / "folder" / "model_index.json").read_text())["_class_name"] == CLASSES[name].__name__
    compare(loaded, pipe, GIVEN[name])
    schedule, found = loaded.config.prior.schedule, pipe.scheduler.config
    assert (found.beta_start, found.beta_end, found.num_train_timesteps) == (schedule.beta_start, schedule.beta_end, 1000)
    assert found.prediction_type == ("v_prediction" if name == "sd2" else "epsilon")


def test_a_picture_s_latents_and_a_text(tmp_path):
    text = CARDS["sd1"][0].conditioner
    card = shrunken("instruct-pix2pix", _both(text, "picture", PictureLatentConfig()), 4)
    loaded = open_source(write(state_of(made(card), card), tmp_path / "mine.safetensors"), True, card=card)
    write_folder(loaded, tmp_path / "folder")
    pipe = diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    compare(loaded, pipe, {"text": "a cat", "picture": RGB})


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_the_tokenizer_is_ours(name, tmp_path):
    loaded = opened(tmp_path, name)
    write_folder(loaded, tmp_path / "folder")
    pipe = CLASSES[name].from_pretrained(tmp_path / "folder", local_files_only=True)
    theirs = pipe.tokenizer(list(WORDS), padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(theirs, loaded.model.conditioner.prepare(list(WORDS))[:, 0])


def test_their_pipeline_draws(tmp_path):
    write_folder(opened(tmp_path, "sd1"), tmp_path / "folder")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    first, second = (
        pipe(words, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images
        for words in ("a cat", "a dog")
    )
    assert first.shape == (1, 16, 16, 3)
    assert abs(first - second).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["sd1", "sd1 inpainting", "sdxl"])
def test_a_folder_reads_as_the_model_it_came_from(name, dtype, tmp_path):
    """Stable Diffusion 2 is without its last layer afterwards."""
    loaded = opened(tmp_path, name, dtype)
    write_native(loaded, tmp_path / "native")
    assert main(["convert", str(tmp_path / "native"), str(tmp_path / "folder"), "--to", "diffusers"]) == 0
    again = open_source(tmp_path / "folder", True, card=CARDS[name][0])
    ours, theirs = loaded.model.state_dict(), again.model.state_dict()
    gone = ours.keys() - theirs.keys()
    assert theirs.keys() <= ours.keys()
    assert all(key.endswith("projection.weight") for key in gone)
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key
        assert ours[key].dtype == value.dtype, key
    write_single_file(again, tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").is_file()


def test_stable_diffusion_2_leaves_its_last_layer(tmp_path):
    loaded = opened(tmp_path, "sd2", torch.float16)
    write_folder(loaded, tmp_path / "folder")
    encoder = CLIPTextModel.from_pretrained(tmp_path / "folder" / "text_encoder", local_files_only=True)
    assert encoder.config.num_hidden_layers == 1
    again = open_source(tmp_path / "folder", True, card=CARDS["sd2"][0]).model.state_dict()
    ours = loaded.model.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in again.items())
    assert {key.removeprefix("conditioner.towers.0.").split(".layers.1.")[0] for key in ours.keys() - again.keys()} == {
        "body.encoder",
        "projection.weight",
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("classes", "conditioner of the kind class_embedder has no diffusers form here: no pipeline there takes a class"),
        ("layout", "conditioner of the kind layout .* takes boxes"),
        ("segmentation", "conditioner of the kind segmentation .* a segmentation map"),
        ("inpainting", "conditioner of the kind masked_image .* combines them so"),
        ("retrieval", "conditioner of the kind clip_text and neighbours .* retrieved pictures"),
        ("churches", "U-Net with scale_shift has no form"),
    ],
)
def test_what_no_pipeline_expresses(name, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        write_folder(opened(tmp_path, name), tmp_path / "folder")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "folder").exists()


def test_our_own_models_say_why_not(tmp_path, capsys):
    tiny = tiny_models.write_model(tmp_path / "tiny", tiny_models.text_config())
    assert main(["convert", str(tiny), str(tmp_path / "folder"), "--to", "diffusers"]) == 2
    assert "conditioner of the kind" in capsys.readouterr().err
    with pytest.raises(InputError, match="int8"):
        write_folder(opened(tmp_path, "sd1"), tmp_path / "folder", Storage.int8)
    assert not (tmp_path / "folder").exists()
