"""`sfumato inspect` of what is no checkpoint: LoRAs, and model directories of our own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from lora_files import save

import tiny_models
from sfumato.cli.main import main
from sfumato.interop.inspection import inspect
from sfumato.io.files import directory_size

UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
TEXT = "lora_te_text_model_encoder_layers_3_self_attn_q_proj"


def thin(name: str, out: int, inside: int, rank: int, alpha: float | None) -> dict[str, torch.Tensor]:
    found = {f"{name}.lora_down.weight": torch.randn(rank, inside), f"{name}.lora_up.weight": torch.randn(out, rank)}
    return found if alpha is None else {**found, f"{name}.alpha": torch.tensor(alpha)}


@pytest.mark.parametrize(
    ("context", "width", "text", "cards"),
    [(768, 320, 768, ("sd1",)), (1024, 320, 1024, ("sd2-base",)), (640, 320, None, ())],
)
def test_a_lora_s_target_is_what_every_layer_fits(context, width, text, cards, tmp_path):
    state = thin(UNET, width, context, 4, 2.0)
    if text:
        state |= thin(TEXT, text, text, 8, 8.0)
    found = inspect(save(tmp_path / "style.safetensors", state))
    assert found.lora is not None
    assert found.cards == found.lora.cards == cards
    assert found.lora.ranks == ((4, 8) if text else (4,))
    assert (found.lora.modules, found.lora.text_modules) == ((2, 1) if text else (1, 0))
    assert found.lora.factors == ((0.5, 1.0) if text else (0.5,))
    assert [portion.parameters for portion in found.portions] == [sum(value.numel() for value in state.values())]
    assert found.oddities == (() if cards else ("it fits none of sd1, sd2-base, sdxl-base, sdxl-refiner as a whole.",))


def test_sdxl_in_diffusers_names(tmp_path):
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    state = {f"{name}.lora_A.weight": torch.randn(2, 2048), f"{name}.lora_B.weight": torch.randn(640, 2)}
    second = "text_encoder_2.text_model.encoder.layers.31.self_attn.q_proj"
    state |= {f"{second}.lora_A.weight": torch.randn(2, 1280), f"{second}.lora_B.weight": torch.randn(1280, 2)}
    (tmp_path / "folder").mkdir()
    save(tmp_path / "folder" / "pytorch_lora_weights.safetensors", state)
    found = inspect(tmp_path / "folder")
    assert found.cards == ("sdxl-base",)
    assert (found.lora.modules, found.lora.text_modules, found.lora.factors) == (2, 1, (1.0,))


def test_alphas_that_are_odd(tmp_path):
    places = [UNET, UNET.replace("to_k", "to_v"), UNET.replace("blocks_0_attn2", "blocks_0_attn1").replace("to_k", "to_q")]
    state = {}
    for place, inside, alpha in zip(places, (768, 768, 320), (0.0, -4.0, 32.0), strict=True):
        state |= thin(place, 320, inside, 4, alpha)
    found = inspect(save(tmp_path / "a.safetensors", state))
    assert found.oddities == (
        "1 of 3 layers have alpha 0 and add nothing.",
        "1 of 3 layers have a negative alpha.",
        "1 of 3 layers have an alpha above their rank, up to 8 times.",
    )


def test_the_command_says_it(tmp_path, capsys):
    path = save(tmp_path / "style.safetensors", thin(UNET, 320, 768, 4, 2.0))
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    for line in ("model        a LoRA for sd1", "rank         4", "changes      1 layers, none of them in a text encoder"):
        assert f"  {line}\n" in text
    assert "none of the published" not in text
    assert "averages" not in text
    assert main(["inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lora"]["ranks"] == [4]
    assert told["cards"] == ["sd1"]


def test_without_transformers_the_rest_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = inspect(save(tmp_path / "style.safetensors", thin(UNET, 320, 768, 4, 2.0)))
    assert found.lora.ranks == (4,)
    assert found.cards == ()
    assert found.oddities[0].startswith("which models it fits is not known: CLIP's towers need transformers")


def test_relatives_of_lora_are_named(tmp_path):
    state = {f"{UNET}.hada_w1_a": torch.randn(320, 4), f"{UNET}.hada_w1_b": torch.randn(4, 768)}
    found = inspect(save(tmp_path / "a.safetensors", state))
    assert "is LoHa" in found.oddities[0]
    assert found.portions[0].what == "a LoRA or a relative of it"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("run") / "model", tiny_models.text_config())


@pytest.mark.parametrize("what", ["directory", "run", "weights"])
def test_a_model_directory_of_ours(directory, what, capsys):
    path = {"directory": directory, "run": directory.parent, "weights": directory / "model.safetensors"}[what]
    assert main(["info", str(directory)]) == 0
    title, *told = capsys.readouterr().out.splitlines()
    assert main(["inspect", str(path), "--verify", "--values"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [str(directory), f"  kind         a sfumato model, {title}", "  storage      fp16", *told]
    assert main(["inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    model = tiny_models.random_model(tiny_models.text_config())
    assert facts["kind"] == "a sfumato model"
    assert facts["bytes"] == directory_size(directory)
    assert [portion["parameters"] for portion in facts["portions"]] == [
        sum(p.numel() for p in part.parameters()) for part in (model.first_stage, model.prior, model.conditioner)
    ]
    assert facts["oddities"] == []


def test_what_is_wrong_with_ours(directory, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "README.md").write_text("changed")
    assert main(["inspect", str(copy)]) == 0
    capsys.readouterr()
    assert main(["inspect", str(copy), "--verify"]) == 2
    assert "README.md does not match its hash" in capsys.readouterr().err
