"""`load` and `sfumato generate --model FILE` on checkpoints that others published (small ones, written here)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.generation.pipeline import AVERAGES, Pipeline, load
from sfumato.generation.pixels import to_pictures
from sfumato.generation.request import Draft
from sfumato.interop import choose, hub
from sfumato.interop.convert import open_source, write_native
from sfumato.interop.ema import Weights
from sfumato.io.pretrained import LoadedModel
from sfumato.noise import PictureNoise

sys.path.insert(0, str(Path(__file__).parents[1] / "interop"))
from published import CARDS, WORDS, config_of, made, state_of, with_averages, write

SD1, SD1_INPUT = CARDS["sd1"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(state_of(made(SD1), SD1), tmp_path / "mine.safetensors")


def pixels(pipeline: Pipeline, **options: object) -> np.ndarray:
    return np.asarray(pipeline.generate("a cat", seed=3, steps=2, **options)[0])  # type: ignore[arg-type]


def test_same_picture_as_the_model_it_was_written_from(checkpoint: Path) -> None:
    pipeline = load(checkpoint, "cpu", card=SD1)
    loaded = LoadedModel(made(SD1), config_of(SD1), pipeline.loaded.defaults, "mine", "0" * 10, checkpoint)
    expected = pixels(Pipeline(loaded, torch.device("cpu")))
    found = pixels(pipeline)
    assert found.shape == (16, 16, 3)
    assert found.std() > 1
    assert np.abs(found.astype(int) - expected).max() <= 1  # the scale factor was rounded to fp32 and inverted


@pytest.mark.parametrize(
    ("name", "prompt"),
    [("faces", ""), ("churches", ""), ("classes", "3"), ("words", "a cat"), ("sd2", "a cat"), ("sdxl", "a cat")],
)
def test_every_model_that_a_prompt_is_enough_for(name: str, prompt: str, tmp_path: Path) -> None:
    card = CARDS[name][0]
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    path = write(state_of(made(card), card), tmp_path / "model.ckpt")
    pipeline = load(path, "cpu", card=card, vocabulary=tmp_path / "vocab.txt")
    assert pipeline.needs_prompt == bool(prompt)
    first, second = (pipeline.generate(prompt or (), num=2, seed=3, steps=2)[i] for i in (0, 1))
    assert np.asarray(first).std() > 1
    assert (np.asarray(first) != np.asarray(second)).any()


@pytest.mark.parametrize("name", ["inpainting", "sd1 inpainting", "segmentation", "layout", "upscaler", "unclip"])
def test_models_that_are_told_more_than_a_prompt(name: str, tmp_path: Path) -> None:
    """`inputs` reach the conditioner as they would by hand."""
    card, given = CARDS[name]
    pipeline = load(write(state_of(made(card), card), tmp_path / "model.safetensors"), "cpu", card=card)
    inputs = {key: value for key, value in given.items() if key != "text"} if isinstance(given, dict) else given
    guidance = 1.0 if name in ("layout", "unclip") else 2.0
    prompts = "a cat" if isinstance(given, dict) else ()
    found = pipeline.generate(prompts, seed=3, steps=2, guidance=guidance, inputs=inputs)[0]
    request = pipeline.request(Draft(prompts=("a cat",), seed=3, steps=2, guidance=guidance))
    model = pipeline.model
    prepared = model.conditioner.prepare([{"text": "a cat", **inputs} if isinstance(given, dict) else given])
    expected = model.sample(prepared, pipeline.settings(request), PictureNoise([3]), guidance)
    assert np.array_equal(np.asarray(found), np.asarray(to_pictures(expected)[0]))


def test_inputs_that_fit_no_part(tmp_path: Path) -> None:
    card, given = CARDS["sd1 inpainting"]
    pipeline = load(write(state_of(made(card), card), tmp_path / "model.ckpt"), "cpu", card=card)
    with pytest.raises(InputError, match=r"maks.*mask"):
        pipeline.generate("a cat", steps=2, inputs={"maks": given["mask"]})
    with pytest.raises(InputError, match="expected a mapping"):
        pipeline.generate("a cat", steps=2, inputs=given["mask"])


def test_a_model_that_wants_a_picture_says_so(tmp_path: Path) -> None:
    card = CARDS["sd1 inpainting"][0]
    pipeline = load(write(state_of(made(card), card), tmp_path / "model.ckpt"), "cpu", card=card)
    with pytest.raises(InputError, match="mask"):
        pipeline.generate("a cat", steps=2)


def test_the_cards_defaults_are_used(checkpoint: Path) -> None:
    pipeline = load(checkpoint, "cpu", card=SD1)
    made_with = pipeline.generate("a cat", seed=3)[0].info["parameters"]
    assert f"Steps: {SD1.sampling.steps}" in made_with
    assert f"CFG scale: {SD1.sampling.guidance:g}" in made_with
    assert "Model: mine" in made_with


def test_averages_unless_raw_weights_are_asked_for(tmp_path: Path) -> None:
    raw, averaged = state_of(made(SD1, 0), SD1), state_of(made(SD1, 1), SD1)
    path = write(with_averages(raw, averaged), tmp_path / "both.safetensors")
    name = "model.diffusion_model.out.2.weight"
    kept = {kind: load(path, "cpu", card=SD1, weights=kind).model.state_dict() for kind in ("ema", "raw")}
    assert torch.equal(kept["ema"]["prior.denoiser.network.out_conv.weight"], averaged[name])
    assert torch.equal(kept["raw"]["prior.denoiser.network.out_conv.weight"], raw[name])
    assert Weights(AVERAGES) is Weights.ema


def test_generate_by_the_command(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choose, "find_card", lambda name: {"small": SD1}[name])
    out = tmp_path / "cat.png"
    argv = ["generate", "a cat", "--model", str(checkpoint), "--card", "small", "--steps", "2", "--seed", "3"]
    assert main([*argv, "--device", "cpu", "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert out.stat().st_size > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [({"card": "sd1"}, "for published models"), ({"weights": "raw"}, "for published models")],
)
def test_options_of_checkpoints_fit_no_model_directory(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load("emoji", "cpu", **options)  # type: ignore[arg-type]


LAYER = "prior.denoiser.network.middle_block.1.blocks.0.attn1.to_q.weight"


def lora(path: Path) -> tuple[Path, torch.Tensor]:
    """A LoRA of one layer in kohya's names, and what it adds at scale 1."""
    rng = torch.Generator().manual_seed(1)
    down, up = torch.randn(2, 64, generator=rng), torch.randn(64, 2, generator=rng)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    state = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    return write(state, path), 0.5 * up @ down


def test_loras_are_added(checkpoint: Path, tmp_path: Path) -> None:
    path, change = lora(tmp_path / "style.safetensors")
    plain = load(checkpoint, "cpu", card=SD1).model.state_dict()
    pipeline = load(checkpoint, "cpu", card=SD1, loras=[(path, 0.8), (path, -0.3)])
    found = pipeline.model.state_dict()
    torch.testing.assert_close(found[LAYER] - plain[LAYER], 0.5 * change, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(found[name], plain[name]) for name in plain if name != LAYER)
    assert pipeline.name == "mine + style:0.8 + style:-0.3"


def test_loras_are_added_to_a_converted_model(checkpoint: Path, tmp_path: Path) -> None:
    path, _ = lora(tmp_path / "style.safetensors")
    write_native(open_source(checkpoint, published=True, card=SD1), tmp_path / "native")
    expected = load(checkpoint, "cpu", card=SD1, loras=[(path, 0.8)])
    found = load(tmp_path / "native", "cpu", loras=[(path, 0.8)])
    assert found.name == expected.name == "mine + style:0.8"
    assert all(torch.equal(value, found.model.state_dict()[name]) for name, value in expected.model.state_dict().items())
    with pytest.raises(InputError, match="1 of its 1 layers are not in this model"):
        load("emoji", "cpu", loras=[(path, 0.8)])


def test_a_lora_by_the_command(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = lora(tmp_path / "style.safetensors")
    monkeypatch.setattr(choose, "find_card", lambda name: SD1)
    made_with = []
    for name, extra in (("a", []), ("b", ["--lora", f"{path}:2"])):
        out = tmp_path / f"{name}.png"
        argv = ["generate", "a cat", "--model", str(checkpoint), "--card", "small", "--steps", "2", "--seed", "3", *extra]
        assert main([*argv, "--device", "cpu", "--out", str(out), "--quiet"]) == 0
        made_with.append(out.read_bytes())
    assert made_with[0] != made_with[1]
    assert b"mine + style:2" in made_with[1]


def test_names_on_the_hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def from_hub(source: hub.Repository) -> hub.Snapshot:
        asked.append(source)
        return hub.Snapshot(source, "f" * 40, checkpoint, (checkpoint.name,), False)

    monkeypatch.setattr(hub, "from_hub", from_hub)
    pipeline = load("someone/model@main:mine.safetensors", "cpu", card=SD1)
    assert asked == [hub.Repository("someone", "model", "main", "mine.safetensors")]
    assert pipeline.name == f"someone/model@{'f' * 40}:mine.safetensors"
    monkeypatch.chdir(checkpoint.parent)
    (checkpoint.parent / "runs").mkdir()
    with pytest.raises(InputError, match="runs/photo"):
        load("runs/photo", "cpu")
    assert len(asked) == 1


def test_a_name_in_a_fresh_process_without_a_network(tmp_path: Path) -> None:
    """The command as people run it, in a process that has imported nothing of the hub's client before."""
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    argv = [sys.executable, "-m", "sfumato", "generate", "a cat", "--model", "someone/nothing", "--device", "cpu"]
    ended = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, env=settings, check=False)
    assert ended.returncode == 2
    assert "someone/nothing" in ended.stderr
    assert "not in the hub's cache" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_one_line_for_what_is_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights.*eema.*ema"):
        load(checkpoint, "cpu", weights="eema")
    with pytest.raises(InputError, match="no published model"):
        load(checkpoint, "cpu")
    (tmp_path / "page.ckpt").write_text("<!DOCTYPE html><html>not found</html>")
    with pytest.raises(InputError, match="is a web page"):
        load(tmp_path / "page.ckpt", "cpu")


@pytest.mark.parametrize("name", ["nothing.ckpt", "models/nothing.safetensors"])
def test_a_checkpoint_that_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^no such file: {name}.$"):
        load(name, "cpu")
    with pytest.raises(InputError, match=f"^no such file: {name}.$"):
        load(name, "cpu", card="sd1")
