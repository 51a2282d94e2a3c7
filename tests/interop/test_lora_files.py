"""LoRA files as trainers write them and as nobody should: what is read from each, and the one line that refuses it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lora_files import Thin, kohya, peft, save
from torch import Tensor, nn

from sfumato.conditioners.clip_text import ClipTexts, ClipTextsConfig
from sfumato.errors import InputError
from sfumato.interop.assign import assign
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.lora import Lora, is_lora, read_lora
from sfumato.interop.merge import layer_names, matched, merge
from sfumato.networks.clip import ClipTextConfig
from sfumato.networks.unet import UNet, UNetConfig

STEM = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TINY = UNetConfig(4, 4, 32, (1, 2), 1, (2,), context_dim=16, head_channels=32)
WIDTH = 64


def thin(out: int = WIDTH, within: int = WIDTH, rank: int = 2, alpha: float = 1.0) -> Thin:
    rng = torch.Generator().manual_seed(1)
    return Thin(torch.randn(rank, within, generator=rng), torch.randn(out, rank, generator=rng), alpha)


def refused(path: Path, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_lora(path)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 2500


def read(path: Path, tensors: dict[str, Tensor], notes: dict[str, object] | None = None) -> Lora:
    return read_lora(save(path / "x.safetensors", tensors, notes))


def without(tensors: dict[str, Tensor], end: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.endswith(end)}


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight"),
        (f"unet.{LAYER}.lora_A.default.weight", f"unet.{LAYER}.lora_B.default.weight"),
        (f"unet.{LAYER}.lora_down.weight", f"unet.{LAYER}.lora_up.weight"),
        (f"unet.{LAYER}.lora.down.weight", f"unet.{LAYER}.lora.up.weight"),
        (f"base_model.model.{LAYER}.lora_A.weight", f"base_model.model.{LAYER}.lora_B.weight"),
        (f"{STEM}.lora_down.weight", f"{STEM}.lora_up.weight"),
        (
            f"unet.{LAYER.removesuffix('.to_q')}.processor.to_q_lora.down.weight",
            f"unet.{LAYER.removesuffix('.to_q')}.processor.to_q_lora.up.weight",
        ),
        ("lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_down.weight",) * 2,
    ],
)
def test_names_of_every_age_mean_one_weight(down: str, up: str, tmp_path: Path) -> None:
    up = up.replace("lora_down", "lora_up") if up == down else up
    found = read(tmp_path, {down: thin().down, up: thin().up})
    change = matched(found, UNet(TINY))
    assert list(change) == ["middle_block.1.blocks.0.attn1.to_q.weight"]
    (layer,) = change.values()
    assert (layer.rank, layer.factor, layer.shape) == (2, 1.0, (WIDTH, WIDTH))
    assert (found.ranks, found.numel) == ((2,), 4 * WIDTH)


def test_text_names_of_every_age() -> None:
    tower = ClipTextConfig(dim=8, layers=1, heads=1)
    table = layer_names(ClipTexts(ClipTextsConfig((tower,))))
    wanted = "towers.0.body.encoder.layers.0.self_attn.v_proj.weight"
    inner = "text_model.encoder.layers.0.self_attn"
    for name in (
        f"text_encoder.{inner}.v_proj",
        "text_encoder.encoder.layers.0.self_attn.v_proj",
        "lora_te_text_model_encoder_layers_0_self_attn_v_proj",
        "lora_te1_text_model_encoder_layers_0_self_attn_v_proj",
    ):
        assert table[name] == wanted
    assert not any(name.startswith(("text_encoder_2", "lora_te2")) for name in table)


def test_earlier_text_names(tmp_path: Path) -> None:
    model = ClipTexts(ClipTextsConfig((ClipTextConfig(dim=8, layers=1, heads=1),)))
    inner = "text_encoder.text_model.encoder.layers.0."
    tensors = {
        f"{inner}self_attn.to_out_lora.down.weight": torch.ones(1, 8),
        f"{inner}self_attn.to_out_lora.up.weight": torch.ones(8, 1),
        f"{inner}mlp.fc1.lora_linear_layer.down.weight": torch.ones(1, 8),
        f"{inner}mlp.fc1.lora_linear_layer.up.weight": torch.ones(32, 1),
    }
    ours = "towers.0.body.encoder.layers.0."
    assert set(matched(read(tmp_path, tensors), model)) == {f"{ours}self_attn.out_proj.weight", f"{ours}mlp.fc1.weight"}


def test_the_refiners_tower_is_the_second() -> None:
    tower = ClipTextConfig(dim=8, layers=2, heads=1, projection=8, skip=1)
    table = layer_names(ClipTexts(ClipTextsConfig((tower,), vector=True)))
    assert table["lora_te2_text_projection"] == table["text_encoder_2.text_projection"] == "towers.0.projection.weight"
    assert not any(name.startswith(("text_encoder.", "lora_te1_", "lora_te_")) for name in table)


@pytest.mark.parametrize("value", [torch.tensor(4.0), torch.tensor([4.0]), torch.tensor(4), torch.tensor(4.0).half()])
def test_alpha_over_rank(value: Tensor, tmp_path: Path) -> None:
    found = read(tmp_path, kohya({LAYER: thin(rank=8)}) | {f"{STEM}.alpha": value})
    assert found.layers[STEM].factor == 0.5


def test_alpha_in_the_settings_of_peft(tmp_path: Path) -> None:
    other = LAYER.replace("to_q", "to_k")
    tensors = peft({LAYER: thin(rank=4), other: thin(rank=4)}, "base_model.model.")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {"attn1.to_k": 2}}
    save(tmp_path / "adapter_model.safetensors", without(tensors, ".alpha"))

    def factors(changed: dict[str, object]) -> dict[str, float]:
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings | changed))
        return {name: layer.factor for name, layer in read_lora(tmp_path).layers.items()}

    assert factors({}) == {LAYER: 2.0, other: 0.5}
    # rank-stabilised: alpha / sqrt(rank), Kalajdzievski 2023 (arXiv 2312.03732)
    assert factors({"use_rslora": True}) == {LAYER: 8 / math.sqrt(4), other: 2 / math.sqrt(4)}
    for changed, said in (
        ({"peft_type": "LOKR"}, "LOKR"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_alpha": "x"}, "alpha 'x'"),
        ({"lora_alpha": float("nan")}, "alpha 'nan'"),
        ({"alpha_pattern": [1]}, "no table"),
    ):
        with pytest.raises(InputError, match=said):
            factors(changed)
    for text in ("{", "[" * 100_000, "[]", '"' + "x" * 2_000_000 + '"'):
        (tmp_path / "adapter_config.json").write_text(text)
        refused(tmp_path, "holds no table|is larger than")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"{STEM}.dora_scale", "DoRA"),
        (f"unet.{LAYER}.lora_magnitude_vector", "DoRA"),
        (f"{STEM}.hada_w1_a", "LoHa"),
        (f"{STEM}.lokr_w1", "LoKr"),
        (f"{STEM}.lora_mid.weight", "Tucker"),
        (f"{STEM}.oft_blocks", "OFT"),
        (f"{STEM}.on_input", "IA3"),
        (f"{STEM}.diff", "whole differences"),
        (f"unet.{LAYER}.lora_B.bias", "biases"),
        ("bundle_emb.word.string_to_param.*", "new words"),
    ],
)
def test_relatives_are_refused_by_name(name: str, kind: str, tmp_path: Path) -> None:
    refused(save(tmp_path / "x.safetensors", kohya({LAYER: thin()}) | {name: torch.ones(2, 2)}), kind)
    assert is_lora([name]) == (kind not in ("whole differences", "new words"))


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "no up": (lambda t: without(t, "lora_up.weight"), f"lacks the up matrix of {STEM}"),
    "no down": (lambda t: without(t, "lora_down.weight"), f"lacks the down matrix of {STEM}"),
    "alpha alone": (lambda t: t | {"lora_unet_x.alpha": torch.tensor(1.0)}, "alpha without matrices for lora_unet_x"),
    "NaN alpha": (lambda t: t | {f"{STEM}.alpha": torch.tensor(float("nan"))}, "alpha is nan; expected a finite"),
    "infinite alpha": (lambda t: t | {f"{STEM}.alpha": torch.tensor(float("inf"))}, "alpha is inf; expected a finite"),
    "alpha of two": (lambda t: t | {f"{STEM}.alpha": torch.ones(2)}, r"alpha has shape \(2,\).*expected one number"),
    "no alpha in it": (lambda t: t | {f"{STEM}.alpha": torch.ones(0)}, "expected one number"),
    "complex alpha": (lambda t: t | {f"{STEM}.alpha": torch.tensor(1j)}, "expected one number"),
    "other ranks": (lambda t: t | {f"{STEM}.lora_up.weight": torch.ones(WIDTH, 3)}, r"down \(2, 64\) and up \(64, 3\)"),
    "rank 0": (
        lambda t: t | {f"{STEM}.lora_up.weight": torch.ones(WIDTH, 0), f"{STEM}.lora_down.weight": torch.ones(0, WIDTH)},
        "one rank from 1",
    ),
    "vectors": (lambda t: t | {f"{STEM}.lora_down.weight": torch.ones(2)}, "one rank from 1"),
    "a wide up": (lambda t: t | {f"{STEM}.lora_up.weight": torch.ones(WIDTH, 2, 3, 3)}, "up of 1 x 1"),
    "whole numbers": (lambda t: t | {f"{STEM}.lora_down.weight": torch.ones(2, WIDTH).int()}, "expected floating-point"),
    "something else": (lambda t: t | {"x.weight": torch.ones(1)}, r"1 tensors that no LoRA has \(x.weight\)"),
    "many others": (
        lambda t: t | {f"x{i}": torch.ones(1) for i in range(99)},
        r"99 tensors that no LoRA has \(x0, .*\.\.\.\)",
    ),
    "no LoRA": (lambda t: {"model.diffusion_model.out.2.weight": torch.ones(1)}, "is no LoRA: its first tensors are model"),
    "twice": (lambda t: t | peft({LAYER: thin()}) | peft({LAYER: thin()}, "base_model.model.unet."), "changes unet.* twice"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_a_line(name: str, tmp_path: Path) -> None:
    change, said = BROKEN[name]
    refused(save(tmp_path / "x.safetensors", change(kohya({LAYER: thin()}))), said)


def test_one_weight_under_two_trees_is_refused(tmp_path: Path) -> None:
    found = read(tmp_path, kohya({LAYER: thin()}) | peft({LAYER: thin()}))
    with pytest.raises(InputError, match=r"changes middle_block\S+ twice"):
        matched(found, UNet(TINY))


def test_no_file_and_no_lora_in_a_folder(tmp_path: Path) -> None:
    refused(tmp_path / "missing.safetensors", "no such file")
    refused(tmp_path, "holds no LoRA")
    (tmp_path / "x.safetensors").write_text("<!doctype html>")
    refused(tmp_path / "x.safetensors", "web page")


def test_a_pickle_that_asks_for_more_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({f"{STEM}.lora_down.weight": torch.ones(2, 2), "x": Evil()}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", r"asks for \w+\.mkdir")
    assert not (tmp_path / "ran").exists()


def test_a_1x1_convolution_and_a_matrix_are_one(tmp_path: Path) -> None:
    """Files write the projection around a transformer either way, whatever the model has."""
    lora = {"mid_block.attentions.0.proj_in": thin()}
    flat, square = kohya(lora), {k: v[..., None, None] if v.ndim == 2 else v for k, v in kohya(lora).items()}
    for linear in (False, True):
        weights = []
        for number, tensors in enumerate((flat, square)):
            model = UNet(dataclasses.replace(TINY, linear_projection=linear))
            (name,) = matched(found := read_lora(save(tmp_path / f"{linear}{number}.safetensors", tensors)), model)
            nn.init.zeros_(model.get_parameter(name))
            merge(model, [(found, 1.0)])
            weights.append(model.get_parameter(name).detach().flatten(1))
        assert torch.equal(weights[0], weights[1])
        torch.testing.assert_close(weights[0], 0.5 * thin().up @ thin().down)


def test_a_mapped_file_is_never_written(tmp_path: Path) -> None:
    """Merging into weights that are views of a file leaves the file's bytes alone."""
    path = save(tmp_path / "base.safetensors", UNet(TINY).state_dict())
    before = path.read_bytes()
    index = open_checkpoint(path).index
    with torch.device("meta"):
        one, two = UNet(TINY), UNet(TINY)
    assign(one, index, "base")
    assign(two, index, "base")
    merge(one, [(read(tmp_path, kohya({LAYER: thin()})), 1.0)])
    name = "middle_block.1.blocks.0.attn1.to_q.weight"
    assert not torch.equal(one.state_dict()[name], two.state_dict()[name])
    assert path.read_bytes() == before
