"""Neighbours by CLIP's vectors: the tower beside transformers' own, a run over it, and what is drawn by it afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sfumato.cli.main import main
from sfumato.conditioners.retrieved import RetrievedConfig, extractor
from sfumato.config import from_dict, override, to_dict
from sfumato.errors import InputError
from sfumato.generation.pipeline import load
from sfumato.networks.clip import clip_pixels
from sfumato.networks.frozen_vision import vision_facts
from sfumato.recipes import RECIPES
from sfumato.training.config import RunConfig
from sfumato.training.run import train
from tiny_runs import CPU

transformers = pytest.importorskip("transformers")


def write_clip(folder: Path, seed: int = 0) -> Any:
    """A small random CLIP of both towers, saved as transformers saves it."""
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 12}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 64}, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=12
    )
    network = transformers.CLIPModel(config).eval()
    network.save_pretrained(folder)
    return network


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_vectors_are_those_of_transformers(channels: int, tmp_path: Path) -> None:
    theirs = write_clip(tmp_path)
    facts = vision_facts(str(tmp_path))
    assert (facts.dim, facts.size) == (12, 32)
    pictures = torch.randint(0, 256, (3, channels, 40, 40), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    maps, pooled = extractor(RetrievedConfig(encoder=str(tmp_path)))(pictures, CPU)
    seen = pictures[:, :3] if channels > 1 else pictures.expand(-1, 3, -1, -1)
    with torch.no_grad():
        states = theirs.vision_model(pixel_values=clip_pixels(seen.float() / 127.5 - 1, 32)).pooler_output
        wanted = theirs.visual_projection(states)
    torch.testing.assert_close(maps, wanted[:, None].half())
    torch.testing.assert_close(pooled, F.normalize(wanted, dim=1))


def test_a_run_by_clip_and_pictures_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data, encoder, out = tmp_path / "data", tmp_path / "clip", tmp_path / "run"
    data.mkdir()
    for index in range(24):
        Image.new("RGB", (32, 32), (10 * index, 255 - 10 * index, 5 * index)).save(data / f"{index}.png")
    write_clip(encoder)
    assignments = [
        f"prior.conditioner.encoder={json.dumps(str(encoder))}", "prior.train.steps=3", "first_stage.train.steps=3",
        "first_stage.loss.gan_start=never",
    ]  # fmt: skip
    config = from_dict(RunConfig, override(to_dict(RECIPES["retrieval-tiny"]()), assignments))
    train(config, data, out, CPU, quiet=True)
    found = load(out, "cpu").model.conditioner.config
    assert (found.tokens, found.dim, found.digest) == (1, 12, vision_facts(str(encoder)).digest)
    arguments = ["generate", "--model", str(out), "--seed", "1", "--quiet", "--neighbours"]
    assert main([*arguments, str(data), "--out", str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").is_file()
    write_clip(encoder, seed=1)
    capsys.readouterr()
    Image.new("RGB", (32, 32), "white").save(data / "new.png")  # of what was there, its own features are kept
    assert main([*arguments, str(data), "--out", str(tmp_path / "two.png")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "holds another encoder" in said
    assert not (tmp_path / "two.png").exists()


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, pad_token_id=0
        )
    ).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="names no projection_dim and image_size"):
        vision_facts(str(tmp_path))
