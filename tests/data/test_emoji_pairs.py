"""Pairs of emoji: which are made, where their parts lie, what they are called."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data.emoji import _draw_pairs, _write_metadata
from sfumato.data.emoji_pairs import KEPT_OUT, KINDS, SHARES, Pair, draw, pairs, texts
from sfumato.data.emoji_sources import Emoji
from sfumato.data.emoji_text import telling_tags, variants

FACES = ("dog face", "cat face", "fox", "panda", "lion", "robot", "frog", "koala")
HATS = ("crown", "top hat", "billed cap")
GLASSES = ("sunglasses", "glasses")
FOODS = tuple(f"food {letter}" for letter in "abcdefghijkl")


def emoji(
    label: str, group: str = "food-drink", subgroup: str = "", tags: tuple[str, ...] = (), tone: tuple[int, ...] = ()
) -> Emoji:
    code = label.encode().hex().upper()
    return Emoji(code, label, label, tags, group, subgroup, tone)


EMOJIS = [
    *(emoji(label, "animals-nature") for label in FACES),
    *(emoji(label, "objects", "clothing") for label in (*HATS, *GLASSES)),
    *(emoji(label) for label in FOODS),
    emoji("flag: Chad", "flags"),
    emoji("food m: dark skin tone", tone=(5,)),
]
ALL = frozenset(e.hexcode for e in EMOJIS)


def disc(colour: tuple[int, int, int], box: tuple[int, int, int, int], size: int = 64) -> Image.Image:
    """A filled rectangle of one colour on a clear picture."""
    image = Image.new("RGBA", (size, size))
    image.paste((*colour, 255), box)
    return image


def found(image: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the pixels of about that colour."""
    pixels = np.asarray(image).astype(int)
    near = (np.abs(pixels[..., :3] - colour).sum(-1) < 60) & (pixels[..., 3] > 128)
    rows, columns = near.any(1).nonzero()[0], near.any(0).nonzero()[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def test_shares_of_the_kinds() -> None:
    assert tuple(SHARES) == KINDS
    assert sum(SHARES.values()) == pytest.approx(1)
    made = Counter(pair.kind for pair in pairs(EMOJIS, "noto", ALL, 40))
    assert made == {"headwear": 10, "eyewear": 6, "with": 12, "and": 12}


def test_parts_are_trained_untoned_and_of_kinds_that_go_together() -> None:
    trained = frozenset(e.hexcode for e in EMOJIS if e.label != "food a")
    made = list(pairs(EMOJIS, "noto", trained, 10_000))
    assert {e.hexcode for pair in made for e in (pair.first, pair.second)} <= trained
    assert not any(e.tone or e.group == "flags" for pair in made for e in (pair.first, pair.second))
    assert not any(pair.first is pair.second for pair in made)
    for pair in made:
        if pair.kind in ("headwear", "eyewear"):
            assert pair.first.label in FACES
            assert pair.second.label in (HATS if pair.kind == "headwear" else GLASSES)
    assert len({pair.code for pair in made}) == len(made)


@pytest.mark.parametrize("style", ["noto", "fluent-3d"])
def test_combinations_kept_out_are_never_made(style: str) -> None:
    made = {(pair.first.label, pair.second.label) for pair in pairs(EMOJIS, style, ALL, 10_000)}
    assert not made & KEPT_OUT
    assert {("fox", "crown"), ("cat face", "top hat"), ("panda", "sunglasses")} <= made


def test_every_first_part_is_as_frequent_as_the_others() -> None:
    counts = Counter(pair.first.label for pair in pairs(EMOJIS, "noto", ALL, 64) if pair.kind == "headwear")
    assert max(counts.values()) - min(counts.values()) <= 1


def test_styles_pair_differently_and_always_alike() -> None:
    one, again, other = ([p.code for p in pairs(EMOJIS, style, ALL, 40)] for style in ("noto", "noto", "twemoji"))
    assert one == again
    assert one != other


def pair(kind: str, first: str = "fox", second: str = "crown") -> Pair:
    return Pair(kind, emoji(first), emoji(second), "noto", (first, second))


BLUE, RED = (0, 0, 255), (255, 0, 0)


def test_a_hat_is_above_and_touches_the_head() -> None:
    left, top, right, bottom = found(
        picture := draw(pair("headwear"), disc(BLUE, (4, 4, 60, 60)), disc(RED, (20, 30, 44, 40))), RED
    )
    head = found(picture, BLUE)
    assert top < head[1] <= bottom < (head[1] + head[3]) / 2
    assert abs((left + right) - (head[0] + head[2])) <= 2
    assert (right - left) / (head[2] - head[0]) == pytest.approx(0.58, abs=0.05)


def test_glasses_are_over_the_eyes() -> None:
    picture = draw(pair("eyewear", "fox", "sunglasses"), disc(BLUE, (4, 4, 60, 60)), disc(RED, (10, 30, 54, 40)))
    left, top, right, bottom = found(picture, RED)
    assert abs((top + bottom) / 2 - (4 + 0.50 * 56)) <= 1.5
    assert (right - left) / 56 == pytest.approx(0.82, abs=0.04)


def test_two_things_side_by_side_and_one_in_the_corner() -> None:
    both = draw(pair("and"), disc(BLUE, (4, 4, 60, 60)), disc(RED, (4, 4, 60, 60)))
    blue, red = found(both, BLUE), found(both, RED)
    assert blue[2] <= red[0] + 4
    assert abs(blue[1] - red[1]) <= 1
    corner = draw(pair("with"), disc(BLUE, (4, 4, 60, 60)), disc(RED, (4, 4, 60, 60)))
    left, top, right, bottom = found(corner, RED)
    assert left > 30
    assert top > 30
    assert 60 <= right <= 64
    assert 60 <= bottom <= 64


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_keep_their_size_and_clear_ground(kind: str) -> None:
    made = draw(
        pair(kind, second="sunglasses" if kind == "eyewear" else "crown"),
        disc(BLUE, (8, 20, 56, 60)),
        disc(RED, (8, 8, 56, 30)),
    )
    assert (made.size, made.mode) == ((64, 64), "RGBA")
    assert np.asarray(made)[0, 0, 3] == 0


def test_an_empty_picture_is_no_trouble() -> None:
    clear = Image.new("RGBA", (64, 64))
    assert draw(pair("headwear"), clear, clear).getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("headwear", "a fox with a crown, noto style"),
        ("with", "a fox with a crown, noto style"),
        ("and", "a fox and a crown, noto style"),
    ],
)
def test_captions(kind: str, first: str) -> None:
    made = texts(pair(kind))
    assert made[0] == first
    assert len(made) == len(set(made))
    assert ("a fox wearing a crown, noto style" in made) == (kind == "headwear")
    assert made[-1] == first.removesuffix(", noto style")


def test_rows_of_pairs(tmp_path: Path) -> None:
    split = {(e.hexcode, "noto"): "train" for e in EMOJIS} | {(EMOJIS[0].hexcode, "noto"): "test"}
    folder = tmp_path / "images" / "noto"
    folder.mkdir(parents=True)
    for e in EMOJIS:
        disc(BLUE, (4, 4, 60, 60)).save(folder / f"{e.hexcode}.png")
    told: list[tuple[str, int, int]] = []
    shown = list(_draw_pairs(tmp_path, EMOJIS, split, 20, lambda *event: told.append(event)))
    counts = _write_metadata(tmp_path, EMOJIS, split, shown)
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    added = [row for row in rows if row["group"] == "pairs"]
    assert len(added) == len(shown) == counts["noto", "pairs"] == 20
    assert all(EMOJIS[0].hexcode not in row["hexcode"].split("+") for row in added)
    assert {row["split"] for row in added} == {"train"}
    assert all(row["family"] == row["hexcode"].split("+")[0] + "+" for row in added)
    assert all(row["text"] == row["texts"][0] for row in added)
    assert {Image.open(tmp_path / row["file_name"]).size for row in added} == {(64, 64)}
    assert list(itertools.islice(_draw_pairs(tmp_path, EMOJIS, split, 0, lambda *event: None), 1)) == []
    assert not (folder / "pairs").exists()


def test_telling_tags() -> None:
    """Rare tags that are no word of another label; they make captions of their own."""
    tagged = [
        emoji("cat face", tags=("pet", "kitty", "cat")),
        emoji("dog face", tags=("pet", "doggy")),
        emoji("hamster", tags=("pet",)),
        emoji("parrot", tags=("pet", "bird", "rocket")),
        emoji("rocket", tags=("launch", "Launch", "x y")),
    ]
    told = telling_tags(tagged)
    assert told["cat face"] == ["kitty"]
    assert told["parrot"] == ["bird"]
    assert told["rocket"] == ["launch", "x y"]
    assert "a kitty, noto style" in variants(tagged[0], "noto", told["cat face"])
    assert "a kitty with dark skin tone, noto style" in variants(emoji("x", tone=(5,)), "noto", ["kitty"])
