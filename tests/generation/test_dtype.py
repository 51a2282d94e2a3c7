"""The type that a model runs in: by name, by default, and what half precision does to a picture."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_models
from sfumato.cli.main import main
from sfumato.errors import InputError
from sfumato.generation.engine import NotFiniteError
from sfumato.generation.pipeline import Pipeline, load
from sfumato.generation.precision import find_dtype

sys.path.insert(0, str(Path(__file__).parents[1] / "interop"))
from published import CARDS, WORDS, made, state_of, write

HALVES = [torch.float16, torch.bfloat16]
CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))


def test_the_default_is_fp32_but_for_published_models_on_cuda() -> None:
    for device in (CPU, CUDA, MPS):
        for published in (False, True):
            half = published and device is CUDA
            assert find_dtype("auto", device, published) is (torch.float16 if half else torch.float32)
            for name in ("float32", "float16", "bfloat16"):
                assert find_dtype(name, device, published) is getattr(torch, name)
                assert find_dtype(getattr(torch, name), device, published) is getattr(torch, name)
    for wrong in ("half", "float64", "", "torch.int8"):
        with pytest.raises(InputError, match=r"dtype.*float32"):
            find_dtype(wrong, CPU, True)


def pixels(pipeline: Pipeline, given: Any) -> np.ndarray:
    """A picture of the model, told what its conditioner wants."""
    inputs = {key: value for key, value in given.items() if key != "text"} if isinstance(given, dict) else given
    if isinstance(given, str):
        found = pipeline.generate(given or (), seed=3, steps=3, guidance=1.5)
    else:
        prompts = "a cat" if isinstance(given, dict) else ()
        found = pipeline.generate(prompts, seed=3, steps=3, guidance=1.0, inputs=inputs)
    return np.asarray(found[0]).astype(int)


@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", [name for name in CARDS if name != "retrieval"])
def test_published_models_in_half_precision(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Each kind's networks run in it, and draw the same picture but for its rounding: 2**-11 or 2**-8 at every layer."""
    card, given = CARDS[name]
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    path = write(state_of(made(card), card), tmp_path / "model.safetensors")
    words = {"card": card, "vocabulary": tmp_path / "vocab.txt"}
    full = load(path, "cpu", **words)
    half = load(path, "cpu", dtype=dtype, **words)
    assert full.dtype is torch.float32
    assert {p.dtype for p in half.model.parameters()} == {dtype}
    assert half.model.first_stage.get_buffer("scale").dtype is torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = pixels(full, given), pixels(half, given)
    assert first.std() > 1
    off = np.abs(first - second).mean()
    coarse = dtype is torch.bfloat16 or card.first_stage.kind == "vq"  # a latent near the border of two codes takes the other
    assert off < (8 if coarse else 1), off
    assert off > 0  # it did run in it


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "tiny", tiny_models.text_config())


@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
def test_our_models_in_half_precision(directory: Path, dtype: torch.dtype) -> None:
    full, half = load(directory, "cpu"), load(directory, "cpu", dtype=dtype)
    assert {p.dtype for p in half.model.parameters()} == {dtype}
    assert {name: b.dtype for name, b in half.model.named_buffers()} == {
        name: b.dtype for name, b in full.model.named_buffers()
    }
    off = np.abs(pixels(full, "a cat") - pixels(half, "a cat")).mean()
    assert 0 < off < (1 if dtype is torch.float16 else 8)


def test_the_command_takes_it(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "a cat", "--model", str(directory), "--seed", "1", "--steps", "2", "--device", "cpu", "--quiet"]
    made_with = {}
    for name in (None, "auto", "float32", "float16", "bfloat16"):
        out = tmp_path / f"{name}.png"
        assert main([*argv, "--out", str(out), *([] if name is None else ["--dtype", name])]) == 0
        made_with[name] = out.read_bytes()
    assert made_with[None] == made_with["auto"] == made_with["float32"]
    assert len(set(made_with.values())) == 3
    capsys.readouterr()
    assert main([*argv, "--dtype", "float15"]) == 2
    assert "unknown dtype 'float15': did you mean 'float16'?" in capsys.readouterr().err


def test_what_overflows_in_half_precision_names_the_way_out(tmp_path: Path) -> None:
    card = CARDS["sd1"][0]
    state = state_of(made(card), card)
    state["model.diffusion_model.out.2.weight"] *= 1e6  # past 65,504
    path = write(state, tmp_path / "model.safetensors")
    with pytest.raises(NotFiniteError, match=r"^in float16, picture 1 .*dtype float32"):
        load(path, "cpu", card=card, dtype="float16").generate("a cat", seed=3, steps=2)
    state["model.diffusion_model.out.2.weight"].fill_(float("nan"))
    full = load(write(state, path), "cpu", card=card)
    with pytest.raises(NotFiniteError, match=r"^picture 1"):
        full.generate("a cat", seed=3, steps=2)
