"""Every pipeline of diffusers that expresses a published model: its folders load, compute the same, and come back bit for bit.

Tolerance: 1e-4 of the spread of an output, fp32, since sums run in another order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pipelines
import pytest
import torch
from pipelines import CASES, RGB, Case
from torch import Tensor

from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.convert import open_source, write_folder, write_native
from sfumato.interop.folder_schedules import scheduler_of
from sfumato.interop.inspection import inspect
from sfumato.interop.load import load_published
from sfumato.io.pretrained import LoadedModel
from sfumato.io.storage import Storage

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return pipelines.tokenizers_in(tmp_path_factory.mktemp("tokenizers"))


def close(ours: Tensor | None, expected: Tensor | None) -> None:
    if ours is None or expected is None:
        assert ours is None
        assert expected is None
        return
    assert ours.shape == expected.shape
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4 * float(expected.std()))


@torch.no_grad()
def compare(case: Case, loaded: LoadedModel, pipe: Any) -> None:
    """Conditions, first stage both ways, U-Net."""
    model = loaded.model
    cond = model.conditioner(model.conditioner.prepare([case.given]))
    context, pooled = pipelines.text_of(case, pipe)
    close(cond.context, context)
    concat = pipelines.concat_of(case, pipe)
    close(cond.concat, concat)
    said = pipelines.told(case, pipe, pooled)
    if "class_labels" in said:
        close(cond.vector.float(), said["class_labels"].float()) if cond.vector.ndim > 1 else None
        assert cond.vector.ndim > 1 or torch.equal(cond.vector, said["class_labels"])
    stage = pipe.vqvae if hasattr(pipe, "vqvae") else pipe.vae
    is_vq = type(stage).__name__ == "VQModel"
    factor = 1.0 if is_vq else stage.config.scaling_factor
    z = model.first_stage.posterior(RGB[None]).mode()
    encoded = stage.encode(RGB[None])
    close(z, encoded.latents if is_vq else encoded.latent_dist.mode() * factor)
    close(model.first_stage.decode(z), stage.decode(z / factor).sample)
    x_t, t = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)), torch.tensor([501])
    joined = x_t if concat is None else torch.cat([x_t, concat], 1)
    args = () if context is None else (context,)
    network = model.get_submodule("prior.denoiser.network")
    close(network(x_t, t, cond), pipe.unet(joined, t, *args, **said).sample)


def same(first: dict[str, dict[str, Tensor]], second: dict[str, dict[str, Tensor]]) -> None:
    assert first.keys() == second.keys()
    for part, values in first.items():
        assert values.keys() == second[part].keys(), part
        for name, value in values.items():
            assert value.dtype == second[part][name].dtype, (part, name)
            assert torch.equal(value, second[part][name]), (part, name)


def pretrained(case: Case, folder: Path, **more: Any) -> Any:
    absent = {"depth_estimator": None, "feature_extractor": None} if "Depth" in case.pipeline.__name__ else {}
    return case.pipeline.from_pretrained(folder, local_files_only=True, **absent, **more)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name, tokenizers, tmp_path):
    case = CASES[name]
    theirs = pipelines.made(case, tokenizers)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_published(tmp_path / "theirs", card=case.card)
    compare(case, loaded, theirs)
    write_native(open_source(tmp_path / "theirs", True, card=case.card), tmp_path / "native")
    assert main(["convert", str(tmp_path / "native"), str(tmp_path / "back"), "--to", "diffusers"]) == 0
    back = pretrained(case, tmp_path / "back")
    same(pipelines.modules(theirs), pipelines.modules(back))
    for part in ("scheduler", "low_res_scheduler", "image_noising_scheduler"):
        first, second = getattr(theirs, part, None), getattr(back, part, None)
        assert (first is None) == (second is None)
        if first is not None:
            assert torch.equal(first.alphas_cumprod, second.alphas_cumprod)
            assert first.config.prediction_type == second.config.prediction_type
    again = open_source(tmp_path / "back", True, card=case.card)
    assert again.config == open_source(tmp_path / "theirs", True, card=case.card).config
    compare(case, again, back)


def test_their_pipelines_draw(tokenizers, tmp_path):
    """What is written runs in the pipelines that have most parts of their own."""
    arguments: dict[str, dict[str, Any]] = {
        "faces": {},
        "super-resolution": {"image": RGB[None, :, :8, :8]},
        "words": {"prompt": ["a cat"], "guidance_scale": 2.0, "height": 64, "width": 64},
        "upscaler": {"prompt": "a cat", "image": (RGB[None, :, :8, :8] + 1) / 2},
        "refiner": {"prompt": "a cat", "image": (RGB[None] + 1) / 2, "strength": 1.0},
    }
    for name, given in arguments.items():
        case = CASES[name]
        pipelines.made(case, tokenizers).save_pretrained(tmp_path / name)
        loaded = open_source(tmp_path / name, True, card=case.card)
        notes = write_folder(loaded, tmp_path / f"{name} back")
        assert any("ask it for height=64, width=64" in note for note in notes) == (name == "words")
        pipe = pretrained(case, tmp_path / f"{name} back")
        pipe.set_progress_bar_config(disable=True)
        images = pipe(**given, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images
        assert images.shape == (1, 16, 16, 3), name
        assert images.std() > 0.01, name


@pytest.mark.parametrize("name", ["unclip", "words over vq", "upscaler"])
def test_shards_and_variants(name, tokenizers, tmp_path):
    """Weights in shards, and in half precision under names of their own, as publishers save them."""
    case = CASES[name]
    theirs = pipelines.made(case, tokenizers)
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    theirs.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16", max_shard_size="100KB")
    assert list(tmp_path.glob("shards/unet/*-of-*.safetensors"))
    assert not list(tmp_path.glob("half/unet/diffusion_pytorch_model.safetensors"))
    whole, shards, half = (
        open_source(tmp_path / place, True, card=case.card).model.state_dict() for place in ("whole", "shards", "half")
    )
    assert whole.keys() == shards.keys() == half.keys()
    ours = ("first_stage.shift", "first_stage.scale", "first_stage.preview")
    for key, value in whole.items():
        assert torch.equal(value, shards[key]), key
        assert torch.equal(value if key in ours else value.half(), half[key]), key


def test_the_estimator_of_depth_is_not_read(tokenizers, tmp_path, capsys):
    """Nothing here runs it: it is said, and its weights may be away."""
    case = CASES["depth"]
    pipelines.made(case, tokenizers).save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "depth_estimator" / "model.safetensors").unlink()
    loaded = open_source(tmp_path / "theirs", True, card=case.card)
    assert "its depth estimator is not read: depth maps are given with the prompt." in inspect(tmp_path / "theirs").oddities
    write_native(loaded, tmp_path / "native")
    assert main(["convert", str(tmp_path / "native"), str(tmp_path / "back"), "--to", "diffusers"]) == 0
    assert "no depth estimator: give from_pretrained depth_estimator=None" in capsys.readouterr().err


def test_settings_of_a_folder_count(tokenizers, tmp_path):
    """Heads, activations, noise and its largest level are the folder's, where the card has others."""
    case = CASES["upscaler"]
    pipelines.made(case, tokenizers).save_pretrained(tmp_path / "up")
    change(tmp_path / "up" / "model_index.json", max_noise_level=250)
    change(tmp_path / "up" / "low_res_scheduler" / "scheduler_config.json", beta_end=0.03)
    change(tmp_path / "up" / "text_encoder" / "config.json", num_attention_heads=4, hidden_act="quick_gelu")
    text, small = (part.conditioner for part in load_published(tmp_path / "up", card=case.card).config.conditioner.parts)
    assert (small.largest_level, small.schedule.beta_end) == (250, 0.03)
    assert (text.towers[0].heads, text.towers[0].activation) == (4, "quick_gelu")
    change(tmp_path / "up" / "text_encoder" / "config.json", hidden_act="relu")
    with pytest.raises(InputError, match="hidden_act relu; expected quick_gelu or gelu"):
        load_published(tmp_path / "up", card=case.card)
    case = CASES["words"]
    pipelines.made(case, tokenizers).save_pretrained(tmp_path / "words")
    change(tmp_path / "words" / "bert" / "config.json", encoder_attention_heads=4, head_dim=8)
    bert = load_published(tmp_path / "words", card=case.card).config.conditioner
    assert (bert.heads, bert.head_channels) == (4, 8)
    change(tmp_path / "words" / "bert" / "config.json", head_dim=10**9)
    with pytest.raises(InputError, match="4 heads of 1000000000 channels; expected 32 channels together"):
        load_published(tmp_path / "words", card=case.card)


def test_the_first_stage_of_a_vq_model_keeps_its_scale(tokenizers, tmp_path):
    """VQModel's default of 0.18215 is no statement (diffusers, issue 6725); any other number is one."""
    case = CASES["faces"]
    pipelines.made(case, tokenizers).save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / "vqvae" / "config.json").read_text())["scaling_factor"] == 0.18215
    assert load_published(tmp_path / "theirs", card=case.card).model.first_stage.get_buffer("scale").eq(1).all()
    change(tmp_path / "theirs" / "vqvae" / "config.json", scaling_factor=0.25)
    loaded = open_source(tmp_path / "theirs", True, card=case.card)
    assert loaded.model.first_stage.get_buffer("scale").eq(4).all()
    write_folder(loaded, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "vqvae" / "config.json").read_text())["scaling_factor"] == 0.25


def test_the_main_scheduler_is_known_by_its_name(tokenizers, tmp_path):
    case = CASES["unclip"]
    pipelines.made(case, tokenizers).save_pretrained(tmp_path / "theirs")
    table = json.loads((tmp_path / "theirs" / "model_index.json").read_text())
    backwards = dict(reversed(table.items()))
    (tmp_path / "theirs" / "model_index.json").write_text(json.dumps(backwards))
    assert scheduler_of(open_checkpoint(tmp_path / "theirs"))["beta_schedule"] == "scaled_linear"
    assert inspect(tmp_path / "theirs").prediction == "v"
    load_published(tmp_path / "theirs", card=case.card)


def test_the_words_are_the_folder_s_own(tokenizers, tmp_path):
    case = CASES["words"]
    pipelines.made(case, tokenizers).save_pretrained(tmp_path / "theirs")
    place = tmp_path / "theirs" / "tokenizer"
    if (place / "tokenizer.json").exists():  # transformers 5; vocab.txt is what earlier releases write
        table = json.loads((place / "tokenizer.json").read_text())
        table["model"]["vocab"]["dog"] = 99
        (place / "tokenizer.json").write_text(json.dumps(table))
        with pytest.raises(InputError, match="has no vocabulary"):
            load_published(tmp_path / "theirs", card=case.card)
    (place / "vocab.txt").write_text("\n".join(pipelines.WORDS) + "\n", "utf-8")
    loaded = load_published(tmp_path / "theirs", card=case.card)
    assert loaded.model.conditioner.prepare(["a dog"])[0, :5].tolist() == [2, 5, 7, 3, 0]


def test_statistics_stay_exact(tokenizers, tmp_path):
    """Of unCLIP's embeddings, whatever the weights are stored as."""
    case = CASES["unclip"]
    pipelines.made(case, tokenizers).save_pretrained(tmp_path / "theirs")
    loaded = open_source(tmp_path / "theirs", True, card=case.card)
    write_folder(loaded, tmp_path / "half", Storage.fp16)
    again = open_source(tmp_path / "half", True, card=case.card).model.state_dict()
    assert again["conditioner.parts.image.tower.projection.weight"].dtype == torch.float16
    for name in ("mean", "std"):
        assert torch.equal(
            again[f"conditioner.parts.image.{name}"], loaded.model.state_dict()[f"conditioner.parts.image.{name}"]
        )


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
