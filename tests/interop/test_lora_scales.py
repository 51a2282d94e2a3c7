"""A LoRA's scale of the U-Net and that of the text encoders, through every door; combinations saved by convert."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lora_files import save
from published import CARDS, made, state_of, write
from safetensors.torch import load_file

from sfumato.cli.loras import lora_from_text
from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.generation.pipeline import load
from sfumato.interop import choose
from sfumato.interop.lora import read_lora
from sfumato.interop.merge import merge

CARD = CARDS["sd1"][0]
LAYERS = {  # name in the file -> in the authors' checkpoint, its sides
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight",
        "prior.denoiser.network.middle_block.1.blocks.0.attn1.to_q.weight",
        64,
    ),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (
        "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
        "conditioner.towers.0.body.encoder.layers.0.self_attn.q_proj.weight",
        8,
    ),
}


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choose, "find_card", lambda name: CARD)


def lora(path: Path, seed: int) -> tuple[Path, list[torch.Tensor]]:
    """A file that changes a layer of the U-Net and one of the text encoder, and what it adds to each at scale 1."""
    rng = torch.Generator().manual_seed(seed)
    state, changes = {}, []
    for name, (_, _, side) in LAYERS.items():
        down, up = torch.randn(2, side, generator=rng), torch.randn(side, 2, generator=rng)
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
        changes.append(0.5 * up @ down)
    return save(path, state), changes


@pytest.mark.parametrize(("scale", "parts"), [(0.8, (0.8, 0.8)), ((0.8, 0.5), (0.8, 0.5)), ((0.0, -2.0), (0.0, -2.0))])
def test_each_part_has_its_scale(scale, parts, tmp_path):
    path, changes = lora(tmp_path / "a.safetensors", 1)
    model, before = made(CARD), made(CARD).state_dict()
    merge(model, [(read_lora(path), scale)])
    for (_, ours, _), change, part in zip(LAYERS.values(), changes, parts, strict=True):
        torch.testing.assert_close(model.state_dict()[ours], before[ours] + part * change, rtol=1e-5, atol=1e-6)
    for wrong in ((float("nan"), 1.0), (1.0, float("inf"))):
        with pytest.raises(InputError, match="expected a finite number"):
            merge(model, [(read_lora(path), wrong)])


def test_load_takes_pairs_and_names_them(tmp_path):
    checkpoint = write(state_of(made(CARD), CARD), tmp_path / "mine.safetensors")
    path, changes = lora(tmp_path / "ink.safetensors", 1)
    found = load(checkpoint, "cpu", card=CARD, loras=[(path, (0.8, 0.5)), (path, 0.25)])
    before = made(CARD).state_dict()
    for (_, ours, _), change, part in zip(LAYERS.values(), changes, (1.05, 0.75), strict=True):
        torch.testing.assert_close(found.model.state_dict()[ours], before[ours] + part * change, rtol=1e-5, atol=1e-6)
    assert found.name == "mine + ink:0.8:0.5 + ink:0.25"


def test_convert_saves_a_combination(tmp_path):
    state = state_of(made(CARD), CARD)
    checkpoint = write(state, tmp_path / "mine.safetensors")
    (first, one), (second, two) = lora(tmp_path / "a.safetensors", 1), lora(tmp_path / "b.safetensors", 2)
    out = tmp_path / "both.safetensors"
    argv = ["convert", str(checkpoint), str(out), "--to", "single-file", "--card", "small"]
    assert main([*argv, "--lora", f"{first}:0.8:0.5", "--lora", f"{second}:-1"]) == 0
    found = load_file(out)
    for (theirs, _, _), a, b, part in zip(LAYERS.values(), one, two, (0.8, 0.5), strict=True):
        torch.testing.assert_close(found[theirs], state[theirs] + part * a - b, rtol=1e-5, atol=1e-6)
    changed = {theirs for theirs, _, _ in LAYERS.values()}
    assert all(torch.equal(found[n], v) for n, v in state.items() if n in found and n not in changed and n != "scale_factor")


def test_how_it_is_written():
    assert lora_from_text("a.safetensors") == (Path("a.safetensors"), 1.0)
    assert lora_from_text("a.safetensors:0.8") == (Path("a.safetensors"), 0.8)
    assert lora_from_text("a.safetensors:0.8:0.5") == (Path("a.safetensors"), (0.8, 0.5))
    assert lora_from_text("a:1:0.8:-0.5") == (Path("a:1"), (0.8, -0.5))
    assert lora_from_text("C:\\a:b") == (Path("C:\\a:b"), 1.0)
    assert lora_from_text("0.5") == (Path("0.5"), 1.0)
