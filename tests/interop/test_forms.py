"""A model in another form is the same model: every tensor bit for bit, in the type that it had."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import test_load_folder as folders
import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from published import CARDS, CLIP, OPEN_CLIP, WORDS, XL, config_of, made, state_of, with_averages, write
from safetensors.torch import load_file

import tiny_models
from sfumato.cli.main import main
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.compose import CompositeConfig
from sfumato.errors import InputError
from sfumato.interop import convert
from sfumato.interop.cards import Card
from sfumato.interop.convert import open_source, write_native, write_single_file
from sfumato.interop.ema import Weights
from sfumato.interop.export import single_file, stored_factor
from sfumato.interop.load import load_published
from sfumato.io.pretrained import LoadedModel, load_pretrained


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))


def card_of(name: str) -> Card:
    card = CARDS[name][0]
    if name == "retrieval":  # published without the tower that reads its text
        assert isinstance(card.conditioner, CompositeConfig)
        card = replace(card, conditioner=card.conditioner.parts[1].conditioner)
    return card


def opened(path: Path, name: str) -> LoadedModel:
    words = path.parent / "vocab.txt"
    words.write_text("\n".join(WORDS) + "\n", "utf-8")
    return open_source(path, True, card=CARDS[name][0], vocabulary=words)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.dtype == second[key].dtype, key
        assert torch.equal(value, second[key]), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CARDS)
def test_single_file_to_native_and_back(name, dtype, tmp_path):
    card = card_of(name)
    given = {key: value if key == "scale_factor" else value.to(dtype) for key, value in state_of(made(card), card).items()}
    loaded = opened(write(given, tmp_path / "mine.safetensors"), name)
    write_native(loaded, tmp_path / "native")
    native = open_source(tmp_path / "native", False)
    assert (native.config, native.defaults, native.name) == (loaded.config, loaded.defaults, "mine")
    same(loaded.model.state_dict(), native.model.state_dict())
    kinds = {v.dtype for n, v in native.model.state_dict().items() if n.startswith("prior.")}
    assert kinds == {dtype}
    write_single_file(native, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert 1 / back["scale_factor"].double() == pytest.approx(1 / float(given["scale_factor"]), rel=1e-7)
    same(
        {n: v for n, v in given.items() if n not in ("betas", "scale_factor")},
        {n: back[n] for n in back if n != "scale_factor"},
    )
    same(loaded.model.state_dict(), opened(tmp_path / "back.safetensors", name).model.state_dict())
    if dtype is torch.float32:
        same(loaded.model.state_dict(), load_pretrained(tmp_path / "native").model.state_dict())


def native(tmp_path: Path, name: str = "sd1", **types: torch.dtype) -> Path:
    """A model directory of a published model."""
    card = card_of(name)
    state = {key: value.to(types.get("dtype", value.dtype)) for key, value in state_of(made(card), card).items()}
    write_native(opened(write(state, tmp_path / f"{name}.safetensors"), name), tmp_path / "native")
    return tmp_path / "native"


def test_the_command(tmp_path, capsys):
    made_from = native(tmp_path, dtype=torch.float16)
    assert main(["convert", str(made_from), str(tmp_path / "one.safetensors"), "--to", "single-file"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'one.safetensors'}\n"
    given, one = load_file(tmp_path / "sd1.safetensors"), load_file(tmp_path / "one.safetensors")
    same(
        {n: v for n, v in given.items() if n not in ("betas", "scale_factor")}, {n: one[n] for n in one if n != "scale_factor"}
    )
    wide = ["convert", str(made_from), "--out", str(tmp_path / "wide"), "--to", "native", "--storage", "fp32"]
    assert main(wide) == 0
    same({n: v.float() for n, v in open_source(made_from, False).model.state_dict().items()},
         open_source(tmp_path / "wide", False).model.state_dict())  # fmt: skip


def test_the_command_reads_published_files(tmp_path, monkeypatch):
    card = card_of("sd1")
    state = state_of(made(card), card)
    path = write(with_averages(state, state_of(made(card, seed=1), card)), tmp_path / "mine.ckpt")
    reading = partial(load_published, card=card)
    monkeypatch.setattr(
        convert, "load_published", lambda path, card, weights, vocabulary, dtype: reading(path, weights=weights, dtype=dtype)
    )
    for weights in ("ema", "raw"):
        out = tmp_path / weights
        assert main(["convert", str(path), str(out), "--to", "native", "--weights", weights]) == 0
        same(load_pretrained(out).model.state_dict(), reading(path, weights=Weights(weights)).model.state_dict())


def test_loras_are_in_the_result(tmp_path):
    start = native(tmp_path)
    theirs = "lora_unet_middle_block_1_proj_in"
    ours = "prior.denoiser.network.middle_block.1.proj_in.weight"
    up, down = torch.randn(64, 2), torch.randn(2, 64)
    lora = write({f"{theirs}.lora_up.weight": up, f"{theirs}.lora_down.weight": down}, tmp_path / "ink.safetensors")
    before = open_source(start, False).model.state_dict()
    assert main(["convert", str(start), str(tmp_path / "with"), "--to", "native", "--lora", f"{lora}:0.5"]) == 0
    after = open_source(tmp_path / "with", False).model.state_dict()
    torch.testing.assert_close(after[ours], before[ours] + 0.5 * (up @ down)[..., None, None], rtol=1e-6, atol=1e-6)
    same({n: v for n, v in before.items() if n != ours}, {n: v for n, v in after.items() if n != ours})


def test_what_is_refused(tmp_path, capsys):
    start = native(tmp_path)
    tiny = tiny_models.write_model(tmp_path / "tiny", tiny_models.text_config())
    there = sorted(p.name for p in tmp_path.iterdir())
    new, single = str(tmp_path / "new"), str(tmp_path / "new.safetensors")
    for arguments, words in (
        ([start, new, "--to", "single-file"], "choose a name that ends so"),
        ([start, single, "--to", "single-file", "--storage", "int8"], "int8 is of native model directories"),
        ([tiny, single, "--to", "single-file"], "has no"),
        ([start, new, "--out", new, "--to", "native"], "got 2 places"),
        ([start, "--to", "native"], "got 0 places"),
        ([start, new, "--to", "native", "--card", "sd1"], "are for published models"),
        ([start, new, "--to", "native", "--weights", "best"], "expected ema or raw"),
        ([start, new, "--storage", "fp16", "--lora", "x"], "give --to native"),
        ([tmp_path / "nothing.safetensors", new, "--to", "native"], "nothing.safetensors"),
    ):
        assert main(["convert", *map(str, arguments)]) == 2, arguments
        out, err = capsys.readouterr()
        assert out == ""
        assert words in err
        assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == there


def test_weights_that_are_not_finite_are_refused(tmp_path):
    card = card_of("sd1")
    state = state_of(made(card), card)
    state["model.diffusion_model.out.2.bias"] = torch.full((4,), torch.nan)
    loaded = opened(write(state, tmp_path / "a.safetensors"), "sd1")
    with pytest.raises(InputError, match="1 tensors are not finite"):
        write_native(loaded, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_folder_becomes_a_single_file(name, tmp_path):
    encoders = {"text_encoder": folders.tower(CLIP, 2)}
    if name == "sdxl":
        encoders["text_encoder_2"] = folders.tower(XL, 2, projected=True)
    folders.write(tmp_path / "mine", CARDS[name][0], encoders)
    loaded = opened(tmp_path / "mine", name)
    write_native(loaded, tmp_path / "native")
    same(loaded.model.state_dict(), open_source(tmp_path / "native", False).model.state_dict())
    write_single_file(loaded, tmp_path / "one.safetensors")
    same(loaded.model.state_dict(), opened(tmp_path / "one.safetensors", name).model.state_dict())


def test_a_folder_without_the_last_layer_becomes_a_single_file(tmp_path):
    """Nothing uses the last of Stable Diffusion 2's layers, which folders lack, nor the projection."""
    card = CARDS["sd2"][0]
    encoder = folders.tower(OPEN_CLIP, 1)
    folders.write(tmp_path / "mine", card, {"text_encoder": encoder}, prediction_type="v_prediction")
    loaded = opened(tmp_path / "mine", "sd2")
    write_native(loaded, tmp_path / "native")
    same(loaded.model.state_dict(), open_source(tmp_path / "native", False).model.state_dict())
    write_single_file(loaded, tmp_path / "one.safetensors")
    names = load_file(tmp_path / "one.safetensors").keys()
    assert {name.split(".")[4] for name in names if ".resblocks." in name} == {"0"}
    assert not any("text_projection" in name for name in names)
    read = convert_open_clip_checkpoint(encoder, load_file(tmp_path / "one.safetensors"))  # diffusers' own reader
    first, second = ({n.removeprefix("text_model."): v for n, v in given.items()} for given in (read, encoder.state_dict()))
    same(first, second)
    again = opened(tmp_path / "one.safetensors", "sd2")
    assert again.config.conditioner == loaded.config.conditioner
    same(loaded.model.state_dict(), again.model.state_dict())


def test_a_single_file_that_lacks_a_layer_which_is_used(tmp_path):
    card = card_of("sd1")
    state = state_of(made(card), card)
    path = write({n: v for n, v in state.items() if ".encoder.layers.1." not in n}, tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match=r"missing conditioner\.towers\.0\.body\.encoder\.layers\.1"):
        opened(path, "sd1")
    card = card_of("sdxl")
    state = state_of(made(card), card)
    path = write({n: v for n, v in state.items() if ".resblocks.1." not in n}, tmp_path / "xl.safetensors")
    with pytest.raises(InputError, match=r"towers\.1\.body\.encoder\.layers\.1"):
        opened(path, "sdxl")


def test_a_tower_that_is_read_to_its_end_is_no_single_file(tmp_path):
    card = CARDS["sd2"][0]
    tower = replace(OPEN_CLIP, layers=24, skip=0)
    with pytest.raises(InputError, match="read to its layer 24"):
        single_file(config_of(replace(card, conditioner=ClipTextsConfig((tower,)))), {})


@pytest.mark.parametrize("factor", [0.18215, 0.13025, 0.25, 1.0, 0.22765929, 1.5305, 0.7])
def test_the_scale_is_exact(factor):
    scale = torch.tensor(1 / factor, dtype=torch.float64).float()
    stored = stored_factor(1 / float(scale))
    assert float(stored) == pytest.approx(factor, rel=1e-7)
    assert torch.equal(torch.tensor(1 / float(stored), dtype=torch.float64).float(), scale)
