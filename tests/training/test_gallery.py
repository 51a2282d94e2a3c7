"""Retrieval from a folder: who is near whom, who must not find whom, what is kept on disk, and the flag."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.build import ModelConfig
from sfumato.cli.main import main
from sfumato.conditioners.retrieved import RetrievedConfig
from sfumato.errors import InputError
from sfumato.features.mobilenet import load_mobilenet
from sfumato.features.neighbours import groups_of, most_others, nearest_others
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.request import Picture
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.training import gallery as galleries
from sfumato.training.gallery import Gallery, neighbours_by_seed, read_gallery, side_of
from tiny_models import loaded, text_config, write_model


def picture(seed: int, kind: str = "noise") -> Image.Image:
    """Noise, or a smooth slope: two kinds that look alike among themselves."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    slope = np.linspace(0, 200, 32)[:, None, None] + rng.integers(0, 40, (1, 1, 3))
    return Image.fromarray(np.broadcast_to(slope, (32, 32, 3)).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a ... c are noise, d ... f slopes, and g is a copy of d in another format."""
    place = tmp_path / "pictures"
    place.mkdir()
    for i, name in enumerate("abcdef"):
        picture(i, "noise" if name < "d" else "slope").save(place / f"{name}.png")
    picture(3, "slope").save(place / "g.bmp")
    return place


def retrieving() -> ModelConfig:
    """A tiny model that is told two neighbours of 2 x 2 tokens."""
    text = text_config()
    assert isinstance(text.prior, DiffusionConfig)
    return dataclasses.replace(text, conditioner=RetrievedConfig(num=2, tokens=4, width=32))


def test_groups_join_equal_pictures_and_families():
    pictures = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(-1, 3, 2, 2).clone()
    pictures[4] = pictures[1]
    found = groups_of(pictures, ["x", None, "x", "y", "y", None])  # 4 is a copy of 1, and of 3's family
    same = [[found[i] == found[j] for j in range(6)] for i in range(6)]
    expected = [{0, 2}, {1, 3, 4}, {0, 2}, {1, 3, 4}, {1, 3, 4}, {5}]
    assert [{j for j in range(6) if row[j]} for row in same] == expected
    assert most_others(found) == 3
    assert len(set(groups_of(pictures))) == 5


def test_neighbours_are_those_of_the_largest_cosine_and_no_copies(folder):
    found = read_gallery(folder, 32)
    assert len(found) == 7
    x = torch.stack([torch.from_numpy(np.array(picture(i, "noise" if i < 3 else "slope"))).permute(2, 0, 1) for i in range(6)])
    maps = load_mobilenet()(x.float() / 127.5 - 1, ["block10"])["block10"]  # (6, 96, 2, 2)
    mean = torch.nn.functional.normalize(maps.mean((2, 3)), dim=1)
    near = mean @ mean.T
    near.fill_diagonal_(-2)
    for i in range(3):  # noise: no copies there
        others = [j for j in found.others(i, 3).tolist() if j != 6]
        assert others == near[i].argsort(descending=True).tolist()[: len(others)]
        assert found.others(i, 2).tolist() == nearest_others(found.pooled, 2, found.groups)[i].tolist()
    assert set(found.others(3, 2).tolist()) == {4, 5}  # of d: e and f, and not its copy g
    assert 3 not in found.others(6, 5).tolist()
    torch.testing.assert_close(found.maps[0].float(), maps[0].flatten(1).T, rtol=2e-3, atol=2e-3)  # kept in fp16


def test_a_family_is_left_out_if_wanted(folder):
    rows = [{"file_name": f"{name}.png", "text": name, "family": "slope" if name > "c" else None} for name in "abcdef"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    apart, together = read_gallery(folder, 32), read_gallery(folder, 32, families=False)
    assert set(apart.others(3, 3).tolist()) == {0, 1, 2}
    assert set(together.others(3, 2).tolist()) == {4, 5}
    with pytest.raises(InputError, match="3 others here"):
        apart.others(3, 4)


def test_features_are_kept_by_content(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = read_gallery(folder, 32, cache)
    (kept,) = cache.iterdir()
    monkeypatch.setattr(galleries, "extractor", lambda *_: pytest.fail("computed again"))
    again = read_gallery(folder, 32, cache)
    assert torch.equal(first.maps, again.maps)
    assert torch.equal(first.pooled, again.pooled)
    monkeypatch.undo()
    kept.write_bytes(b"damaged")
    assert torch.equal(read_gallery(folder, 32, cache).maps, first.maps)
    picture(50).save(folder / "a.png")
    other = read_gallery(folder, 32, cache)
    assert not torch.equal(other.maps[0], first.maps[0])
    assert len(list(cache.iterdir())) == 2
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert torch.equal(read_gallery(folder, 32, blocked / "x").maps, other.maps)


def test_the_seed_draws_whose_neighbours_are_told():
    found = Gallery(torch.arange(40.0).view(10, 2, 2).half(), torch.eye(10) + 0.1 * torch.arange(10.0), tuple("abcdefghij"))
    drawn = [found.drawn(seed, 3) for seed in range(40)]
    assert all(torch.equal(one, found.drawn(seed, 3)) for seed, one in enumerate(drawn))
    assert len({tuple(one.flatten().tolist()) for one in drawn}) > 3
    assert drawn[0].shape == (3, 2, 2)
    assert drawn[0].dtype == torch.float32


def test_every_picture_has_its_own_neighbours(folder):
    pipeline = Pipeline(loaded(retrieving()), torch.device("cpu"))
    told = neighbours_by_seed(pipeline, folder)
    gallery = read_gallery(folder, side_of(4))
    for seed in (0, 1, 2):
        assert torch.equal(told.inputs(Picture(0, "", seed)), gallery.drawn(seed, 2))  # type: ignore[arg-type]
    together = pipeline.generate(num=2, seed=4, inputs=told)
    alone = pipeline.generate(num=1, seed=5, inputs=told)
    assert alone[0].tobytes() == together[1].tobytes()


@pytest.mark.parametrize(("tokens", "side"), [(64, 128), (4, 32), (1, 16)])
def test_the_side_of_a_picture_follows_from_its_tokens(tokens, side):
    assert side_of(tokens) == side
    with pytest.raises(InputError, match="no square"):
        side_of(tokens + 1 if tokens > 1 else 2)


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    model = write_model(tmp_path / "model", retrieving())
    plain = write_model(tmp_path / "plain", text_config())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    flags = ["--num", "2", "--seed", "3", "--steps", "2", "--device", "cpu"]
    assert main(["generate", "--model", str(model), "--neighbours", str(folder), *flags]) == 0
    assert capsys.readouterr().out.splitlines() == ["picture-3.png", "picture-4.png"]
    assert list((tmp_path / "cache" / "sfumato" / "neighbours").iterdir())
    empty = tmp_path / "empty"
    empty.mkdir()
    for wrong, said in (
        (["--model", str(model), "--neighbours", str(empty)], "no pictures"),
        (["--model", str(model), "--neighbours", str(tmp_path / "nowhere")], "no such folder"),
        (["cat", "--model", str(plain), "--neighbours", str(folder)], "takes no neighbours"),
        (["a cat", "--model", str(model)], "needs retrieved neighbours; use `sfumato generate --neighbours DIR`"),
        (["--model", str(model)], "needs retrieved neighbours; use `sfumato generate --neighbours DIR`"),
    ):
        assert main(["generate", *wrong, "--device", "cpu"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert said in err
        assert len(err.splitlines()) == 1
