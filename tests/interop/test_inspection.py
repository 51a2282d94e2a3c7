"""What a checkpoint is, told without loading it: published models at full size (hollow files), small ones, folders."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from published import CARDS, made, shapes_of, state_of, with_averages, write, write_hollow

from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.interop.cards import find_card
from sfumato.interop.inspection import Inspection, inspect

KNOWN = {  # millions: U-Net, first stage, conditioner (the totals of the papers and model pages)
    "celeba256": (274.06, 55.32, 0.0), "cin256-v2": (400.92, 55.32, 0.51), "text2img-large": (872.30, 83.65, 581.99),
    "layout2img-openimages256": (246.28, 55.32, 58.86), "sd1": (859.52, 83.65, 123.06), "sd2-v": (865.91, 83.65, 354.03),
    "sd2-x4-upscaler": (473.40, 55.32, 354.03), "sdxl-base": (2567.46, 83.65, 817.72),
}  # fmt: skip


def millions(found: Inspection) -> dict[str, float]:
    return {portion.name: portion.parameters / 1e6 for portion in found.portions}


@pytest.mark.parametrize("name", KNOWN)
def test_published_models_at_full_size(name, tmp_path):
    card = find_card(name)
    shapes = shapes_of(card)
    path = write_hollow(shapes, tmp_path / f"{name}.safetensors")
    start = time.process_time()
    found = inspect(path)
    assert time.process_time() - start < 10  # seconds of one core; about one on its own
    assert name in found.cards
    assert (found.family, found.task) == (card.family.value, card.task.value)
    assert (found.prediction, found.image_size) == (card.prior.prediction.value, card.image_size)
    assert (
        found.schedule
        == f"scaled_linear, beta {card.prior.schedule.beta_start:g} to {card.prior.schedule.beta_end:g}, 1000 steps"
    )
    unet, stage, conditioner = KNOWN[name]
    sizes = millions(found)
    assert sizes["U-Net"] == pytest.approx(unet, abs=0.01)
    assert sizes["first stage"] == pytest.approx(stage, abs=0.015)
    assert sizes.get("conditioner", 0.0) == pytest.approx(conditioner, abs=0.02)
    assert found.types == {"float16": sum(torch.Size(s).numel() for s in shapes.values())}
    assert [o for o in found.oddities if "scale_factor" not in o] == []  # the hole reads as zeros


def test_what_stands_beside_the_weights(tmp_path):
    card = CARDS["sd1"][0]
    state = with_averages(state_of(made(card), card), state_of(made(card, 1), card))
    found = inspect(write(state, tmp_path / "a.ckpt"))
    assert found.averages
    assert (found.step, found.epoch, found.kind) == (1234, 5, "a torch.save file")
    assert found.scale_factor == pytest.approx(card.scale_factor)
    assert found.cards == ()
    assert len(found.oddities) == 1
    assert "no published model" in found.oddities[0]
    assert millions(found)["averages (EMA)"] == millions(found)["U-Net"]


def test_what_is_missing(tmp_path):
    shapes = shapes_of(find_card("sd1"))

    def without(prefix: str) -> Inspection:
        return inspect(write_hollow({n: s for n, s in shapes.items() if not n.startswith(prefix)}, tmp_path / "a.safetensors"))

    assert any("no text encoder" in o for o in without("cond_stage_model.").oddities)
    alone = without("first_stage_model.")
    assert any("no first stage" in o for o in alone.oddities)
    assert "sd1" in alone.cards
    stage = without("model.")
    assert [portion.name for portion in stage.portions] == ["first stage", "conditioner"]
    odd = inspect(write_hollow({**shapes, "lora.up": (3, 4)}, tmp_path / "b.safetensors"))
    assert any(o == "1 names of no known part: lora.up." for o in odd.oddities)


def test_shapes_that_several_models_have(tmp_path):
    found = inspect(write_hollow(shapes_of(find_card("sd2-v")), tmp_path / "mine.safetensors"))
    assert found.cards == ("sd2-base", "sd2-v")
    assert found.prediction == "eps or v"
    assert found.image_size is None
    assert any("may be sd2-base or sd2-v" in o for o in found.oddities)


def test_a_first_stage_alone(tmp_path):
    card = find_card("celeba256")
    shapes = {n.removeprefix("first_stage_model."): s for n, s in shapes_of(card).items() if n.startswith("first_stage_model.")}
    found = inspect(write_hollow(shapes, tmp_path / "model.safetensors"))
    assert found.cards == ("vq-f4",)
    assert found.oddities == ()
    assert found.portions[0].what == "vq of factor 4, 3 channels, 8192 codes"


def test_something_else_is_said_to_be_unknown(tmp_path):
    found = inspect(write({"lora_unet.weight": torch.zeros(3, 4)}, tmp_path / "a.safetensors"))
    assert found.portions[0].parameters == 12
    assert "neither a U-Net nor a first stage" in found.oddities[0]
    (tmp_path / "b.ckpt").write_text("hello, this is no checkpoint")
    with pytest.raises(InputError, match="is text"):
        inspect(tmp_path / "b.ckpt")


def test_numbers_that_are_not_finite_are_found_when_asked(tmp_path):
    card = CARDS["faces"][0]
    state = state_of(made(card), card)
    names = ("model.diffusion_model.out.2.bias", "first_stage_model.decoder.conv_in.weight")
    for name, wrong in zip(names, (float("nan"), float("-inf")), strict=True):
        state[name].view(-1)[1] = wrong
    path = write(state, tmp_path / "a.safetensors")
    assert not any("NaN" in o for o in inspect(path).oddities)
    (said,) = [o for o in inspect(path, values=True).oddities if "NaN" in o]
    assert said.startswith("2 tensors hold NaN or infinity")
    assert all(name in said for name in names)


def folder(tmp_path: Path, prediction: str) -> Path:
    """A diffusers folder of Stable Diffusion 2, its weights hollow."""
    from sfumato.interop import diffusers_config

    card = find_card("sd2-v")
    root = tmp_path / "folder"
    parts: dict[str, tuple[str, str, dict[str, Any]]] = {
        "unet": ("diffusers", "UNet2DConditionModel", diffusers_config.unet_settings(card.unet)),
        "vae": ("diffusers", "AutoencoderKL", diffusers_config.first_stage_settings(card.first_stage)),
    }
    table: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    for name, (library, kind, settings) in parts.items():
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text(json.dumps({**settings, "_class_name": kind}))
        write_hollow({"a.weight": (3, 4)}, root / name / "diffusion_pytorch_model.safetensors")
        table[name] = [library, kind]
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": prediction}))
    table["scheduler"] = ["diffusers", "DDIMScheduler"]
    (root / "model_index.json").write_text(json.dumps(table))
    return root


@pytest.mark.parametrize(("said", "name", "prediction"), [("v_prediction", "sd2-v", "v"), ("epsilon", "sd2-base", "eps")])
def test_a_diffusers_folder(said, name, prediction, tmp_path):
    found = inspect(folder(tmp_path, said))
    assert found.cards == (name,)
    assert found.pipeline == "StableDiffusionPipeline"
    assert found.prediction == prediction
    assert [(p.name, p.what) for p in found.portions] == [("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")]
    assert found.oddities == ("no text encoder.",)


def test_the_command(tmp_path, capsys):
    card = CARDS["sd1"][0]
    path = write(with_averages(state_of(made(card), card), state_of(made(card, 1), card)), tmp_path / "a.ckpt")
    assert main(["inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(path)
    assert told["step"] == 1234
    assert told["averages"] is True
    assert [p["name"] for p in told["portions"]] == ["U-Net", "first stage", "conditioner", "averages (EMA)"]
    assert main(["inspect", str(path), "--values"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{path}\n")
    assert "trained      step 1234, epoch 5" in text
    assert "NaN" not in text
    assert main(["inspect", str(tmp_path / "none.ckpt")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_a_scale_factor_that_is_no_number(tmp_path, capsys):
    card = CARDS["faces"][0]
    state = state_of(made(card), card) | {"scale_factor": torch.tensor(float("nan"))}
    assert main(["inspect", str(write(state, tmp_path / "a.ckpt")), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scale_factor"] is None
    assert "its scale_factor is nan." in told["oddities"]
