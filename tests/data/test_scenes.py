"""Scenes of emoji that are made up here (one colour, one shape each): boxes, maps, captions and splits against each other."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from made_emoji import colour, write_emoji
from sfumato.cli.main import main
from sfumato.data import scenes
from sfumato.data.emoji import EmojiReport, hash_split
from sfumato.data.emoji_text import with_article
from sfumato.data.folder import scan
from sfumato.data.scene_classes import CLASSES, NAMES, find
from sfumato.data.scene_text import Relation, captions, relation
from sfumato.data.scenes import SceneLayout, build_scenes
from sfumato.data.split import split as split_records
from sfumato.errors import InputError

COUNTS = {"train": 40, "validation": 12, "test": 30}


def build(folder: Path, sources: Path, **settings) -> list[dict]:
    counts = {"count": COUNTS["train"], "validation_count": COUNTS["validation"], "test_count": COUNTS["test"]}
    build_scenes(folder, **{**counts, "size": 64, "sources": sources, "workers": 1, **settings})
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_emoji(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def made(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return folder, build(folder, sources, sprites=folder.parent / "sprites.tar")


def seen(folder: Path, row: dict) -> dict[int, tuple[int, int, int, int]]:
    """{class: (left, top, right, bottom)} of the map, by Pillow."""
    image = Image.open(folder / row["map"])
    values = sorted(set(image.tobytes()) - {0})
    return {v: Image.frombytes("L", image.size, image.tobytes()).point(lambda p, v=v: 255 * (p == v)).getbbox() for v in values}


def test_layout(made):
    folder, rows = made
    assert {p.name for p in folder.iterdir()} == {
        "images", "maps", "NOTICE", "metadata.jsonl", "classes.txt", *(f"instances_{split}.json" for split in COUNTS)
    }  # fmt: skip
    assert [row["split"] for row in rows] == [split for split, count in COUNTS.items() for _ in range(count)]
    layout = SceneLayout(folder)
    assert layout.class_names() == NAMES
    assert layout.class_names()[0] == "background"
    assert layout.image("test", 30).is_file()
    assert layout.map("test", 30).is_file()
    for row in rows:
        image, index = Image.open(folder / row["file_name"]), Image.open(folder / row["map"])
        assert (image.mode, image.size, index.mode, index.size) == ("RGB", (64, 64), "P", (64, 64))
        assert row["map"] == row["file_name"].replace("images/", "maps/")
        assert index.getpalette()[:3] == [0, 0, 0]


def test_colours_of_classes_differ(made):
    folder, rows = made
    palette = Image.open(folder / rows[0]["map"]).getpalette()
    assert len({tuple(palette[3 * i : 3 * i + 3]) for i in range(len(NAMES))}) == len(NAMES) <= 121


def test_boxes_are_the_tightest_around_the_map(made):
    folder, rows = made
    for row in rows:
        objects = row["objects"]
        corners = {c: (x, y, x + w, y + h) for c, (x, y, w, h) in zip(objects["categories"], objects["bbox"], strict=True)}
        assert len(corners) == len(objects["categories"])  # no class twice
        assert corners == seen(folder, row)


def test_things_overlap_little_and_are_of_many_sizes(made):
    shares = []
    for row in made[1]:
        boxes = row["objects"]["bbox"]
        shares += [max(w, h) / 64 for _, _, w, h in boxes]
        for i, (x, y, w, h) in enumerate(boxes):
            for u, v, p, q in boxes[i + 1 :]:
                common = max(0, min(x + w, u + p) - max(x, u)) * max(0, min(y + h, v + q) - max(y, v))
                assert common <= 0.15 * min(w * h, p * q)  # a tenth of whole boxes; these are of what is seen
    assert min(shares) < 0.25
    assert max(shares) > 0.7
    assert {len(row["objects"]["bbox"]) for row in made[1]} == {1, 2, 3, 4}


def test_pictures_show_what_maps_say(made):
    """Every emoji here has one colour: where it is solid, three pixels from its edge (Lanczos reaches so far), it is seen."""
    folder, rows = made
    count = 0
    for row in rows:
        image, index = (
            np.asarray(Image.open(folder / row["file_name"])).astype(int),
            np.asarray(Image.open(folder / row["map"])),
        )
        for category, code in zip(row["objects"]["categories"], row["objects"]["hexcodes"], strict=True):
            own = Image.fromarray(np.pad(index == category, 3).astype(np.uint8))
            inner = np.asarray(own.filter(ImageFilter.MinFilter(7)))[3:-3, 3:-3] == 1
            assert (np.abs(image[inner] - colour((int(code, 16) - 0x1F400) // 7)) <= 1).all()
            count += int(inner.any())
    assert count > 150


def test_held_out_emoji_stay_held_out(made):
    shown = {split: set() for split in COUNTS}
    for row in made[1]:
        shown[row["split"]] |= set(zip(row["objects"]["hexcodes"], row["objects"]["styles"], strict=True))
    for split, drawings in shown.items():
        assert drawings
        assert {hash_split(*drawing) for drawing in drawings} == {split}
        lion = f"{0x1F400 + 7 * 13:X}"
        assert not any("+" in code or code == lion for code, _ in drawings)


PATTERN = re.compile(r"(?:, and |, | and | )?(to the left of|to the right of|left of|right of|above|below) ")


def claims(text: str, names: list[str]) -> list[tuple[int, str, int]]:
    """(subject, relation, object) that a caption states, read by its words alone."""
    subject, *rest = PATTERN.split(re.sub(r",? on a .*background$", "", text))
    first = [with_article(name) for name in names].index(subject) if rest else -1
    found = []
    for how, objects in zip(rest[::2], rest[1::2], strict=True):
        for thing in re.split(r", and |, | and (?=an? |jeans)", objects):
            found.append((first, how.removeprefix("to the "), [with_article(name) for name in names].index(thing)))
    return found


def holds(how: str, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Of centres of (left, top, right, bottom) boxes; along the axis named more than along the other."""
    dx, dy = other[0] + other[2] - one[0] - one[2], other[1] + other[3] - one[1] - one[3]
    along, across = {"left of": (dx, dy), "right of": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[how]
    return along > abs(across)


def test_captions_agree_with_the_map(made):
    folder, rows = made
    counts = dict.fromkeys(("left of", "right of", "above", "below"), 0)
    for row in rows:
        boxes, objects = seen(folder, row), row["objects"]
        place = [boxes[category] for category in objects["categories"]]
        assert row["text"] == row["texts"][0]
        assert len(set(row["texts"])) == len(row["texts"]) >= 2
        for text in row["texts"]:
            assert all(with_article(name) in text for name in objects["names"])
            for subject, how, other in claims(text, objects["names"]):
                assert holds(how, place[subject], place[other]), (row["file_name"], text)
        said = [(each["subject"], each["relation"], each["object"]) for each in row["said"]]
        assert sorted(said) == sorted(claims(row["text"], objects["names"]))
        for each in row["relations"]:
            assert holds(each["relation"], place[each["subject"]], place[each["object"]])
        for _, how, _ in said:
            counts[how] += 1
        assert row["background"]["colour"] in row["texts"][-2 if said else -1]
    assert min(counts.values()) >= 5


def test_coco_file(made):
    folder, rows = made
    for split, count in COUNTS.items():
        coco = json.loads((folder / f"instances_{split}.json").read_text(encoding="utf-8"))
        images = {image["id"]: image for image in coco["images"]}
        assert len(images) == count
        assert [i["file_name"] for i in coco["images"]] == [row["file_name"] for row in rows if row["split"] == split]
        assert [c["id"] for c in coco["categories"]] == list(range(1, len(NAMES)))
        assert [c["name"] for c in coco["categories"]] == list(NAMES[1:])
        assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"])
        for note in coco["annotations"]:
            image = images[note["image_id"]]
            x, y, w, h = note["bbox"]
            assert 0 <= x < x + w <= image["width"] == 64
            assert 0 <= y < y + h <= image["height"] == 64
            index = Image.open(folder / image["file_name"].replace("images/", "maps/"))
            assert note["area"] == index.tobytes().count(note["category_id"])
            assert note["iscrowd"] == 0
        objects = [len(row["objects"]["bbox"]) for row in rows if row["split"] == split]
        assert [sum(a["image_id"] == i for a in coco["annotations"]) for i in images] == objects


def test_same_bytes_with_processes_and_from_sprites(made, sources, tmp_path):
    folder, _ = made
    build(tmp_path / "two", sources, workers=2)
    assert contents(tmp_path / "two") == contents(folder)
    build(tmp_path / "packed", folder.parent / "sprites.tar")
    assert contents(tmp_path / "packed") == contents(folder)


def test_a_scene_depends_on_its_number_and_the_seed_alone(made, sources, tmp_path):
    folder, _ = made
    build(tmp_path / "few", sources, count=3, validation_count=0, test_count=1)
    few, many = contents(tmp_path / "few"), contents(folder)
    names = [f"{kind}/{name}.png" for kind in ("images", "maps") for name in ("train/000001", "train/000003", "test/000001")]
    assert all(few[name] == many[name] for name in names)
    build(tmp_path / "other", sources, count=3, validation_count=0, test_count=1, seed=1)
    assert all(contents(tmp_path / "other")[name] != many[name] for name in names)


def test_a_second_call_replaces_the_first(sources, tmp_path):
    build(tmp_path / "a", sources, count=9, test_count=2)
    build(tmp_path / "a", sources, count=4, test_count=0, validation_count=0)
    build(tmp_path / "b", sources, count=4, test_count=0, validation_count=0)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_an_ordinary_folder_of_pictures_too(made):
    """`sfumato train` on it as it is: maps are no pictures, captions and splits are there, nothing is a class."""
    found = scan(made[0])
    assert (found.convention, found.bad, found.classes) == ("metadata", (), ())
    parts = split_records(found.records)
    assert {"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)} == COUNTS
    assert all(len(record.captions) >= 2 for record in found.records)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 20, 20), (60, 0, 20, 20), "left of"),
        ((60, 0, 20, 20), (0, 30, 20, 20), "right of"),  # 60 to 30
        ((0, 0, 20, 20), (20, 60, 20, 20), "above"),
        ((10, 70, 10, 10), (0, 0, 30, 30), "below"),
        ((0, 0, 20, 20), (60, 50, 20, 20), None),  # aslant
        ((0, 0, 20, 20), (10, 0, 20, 20), None),  # a tenth of the side
    ],
)
def test_relation(first, second, expected):
    assert relation(first, second, 100) == expected


def test_captions_of_four_things():
    import random

    clear = [Relation(0, "left of", 1), Relation(0, "left of", 2), Relation(3, "below", 0)]
    told = captions(random.Random(0), ["zebra", "owl", "red apple", "grapes"], clear, "a blue background")
    assert told.texts[0] == "a zebra left of an owl and a red apple, and above grapes"
    assert told.texts[1] == "a zebra left of an owl and a red apple, and above grapes, on a blue background"
    assert set(told.said) == {Relation(0, "left of", 1), Relation(0, "left of", 2), Relation(0, "above", 3)}


def test_classes():
    nouns = [(noun, name) for name, members in CLASSES.items() for noun in set(members.values())]
    assert len({noun for noun, _ in nouns}) == len(nouns)  # a noun is of one class
    assert 60 <= len(CLASSES) <= 120
    for members in CLASSES.values():
        for label, noun in members.items():
            told = re.findall(r"\b(red|orange|yellow|green|blue|purple|pink|brown|black|grey|white)\b", noun)
            assert set(told) <= set(label.split())
    assert find("mermaid: dark skin tone", True) == find("mermaid", False) == (NAMES.index("mermaid"), "mermaid")
    assert find("red apple", False) == (NAMES.index("apple"), "red apple")
    assert find("fork and knife", False) is None


def test_without_sources_the_emoji_set_is_built_once(tmp_path, monkeypatch):
    calls = []

    def build_emoji(directory, size, cache, workers, progress, num_pairs):
        calls.append((size, cache, num_pairs))
        write_emoji(Path(directory), size)
        return EmojiReport(Path(directory), {}, {}, 0)

    monkeypatch.setattr(scenes, "build_emoji", build_emoji)
    for name in "ab":
        build_scenes(tmp_path / name, 2, 1, 1, size=48, cache=tmp_path / "npm", workers=1)
    assert calls == [(48, tmp_path / "npm", 0)]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_sources_that_will_not_do(tmp_path):
    small, opaque, wrong = (
        write_emoji(tmp_path / "small", 32),
        write_emoji(tmp_path / "opaque", opaque=True),
        tmp_path / "wrong",
    )
    write_emoji(wrong)
    text = (wrong / "metadata.jsonl").read_text().replace('"split": "test"', '"split": "train"')
    (wrong / "metadata.jsonl").write_text(text)
    for folder, words in ((small, "too small for scenes of 64"), (opaque, "no transparency"), (wrong, "held-out rule")):
        with pytest.raises(InputError, match=words):
            build(tmp_path / "out", folder)
        assert not (tmp_path / "out" / "metadata.jsonl").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--size", "8"], "size 8"),
        (["--count", "-1"], "-1 train scenes"),
        (["--count", "0", "--test-count", "0", "--validation-count", "0"], "0 scenes"),
        (["--max-objects", "9"], "max_objects 9"),
        (["--sources", "nowhere"], "no such folder"),
        (["--sources", "other"], "no emoji of a known class"),
        (["--seed", "x"], "--seed"),
    ],
)
def test_mistakes_are_one_line(argv, words, tmp_path, capsys, monkeypatch):
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "scenes", "out", *argv]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(sources, tmp_path, capsys):
    """An emoji set; and someone's own pictures and maps, in the same layout, with classes of their own."""
    own = tmp_path / "own"
    for kind in ("images", "maps"):
        (own / kind / "train").mkdir(parents=True)
        Image.new("L", (8, 8)).save(own / kind / "train" / "000001.png")
    (own / "classes.txt").write_text("background\nroad\n")
    for folder in (sources, own):
        before = contents(folder)
        assert main(["data", "scenes", str(folder), "--sources", str(sources)]) == 2
        assert "holds other files" in capsys.readouterr().err
        assert contents(folder) == before


def test_a_call_that_was_cut_short_is_made_again(made, sources, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        build(folder, sources, progress=cut_at_20)
    assert (folder / "images/train/000019.png").is_file()
    assert not (folder / "metadata.jsonl").exists()
    build(folder, sources)
    assert contents(folder) == contents(made[0])


def cut_at_20(stage: str, done: int, total: int) -> None:
    if done == 20:
        raise KeyboardInterrupt


def test_command(sources, tmp_path, capsys):
    argv = ["data", "scenes", str(tmp_path / "out"), "--sources", str(sources), "--size", "32", "--count", "5"]
    argv += ["--test-count", "2", "--validation-count", "1", "--max-objects", "1", "--sprites", str(tmp_path / "s.tar")]
    assert main([*argv, "--workers", "1", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "train: 5 scenes" in out
    assert "8 emoji placed" in out
    assert (tmp_path / "s.tar").is_file()
    assert Image.open(tmp_path / "out/images/train/000005.png").size == (32, 32)
