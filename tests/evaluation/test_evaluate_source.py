"""From folders to evaluation sets: the same split as training, unreadable files counted, nothing leaks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data.audit import audit
from sfumato.data.split import split
from sfumato.errors import InputError
from sfumato.evaluation import source
from sfumato.evaluation.source import read_sets

SHAPE = (3, 16, 16)


def paint(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """10 test, 12 validation, 40 training and 3 excluded pictures in two styles."""
    rows, folder = [], tmp_path / "marked"
    for part, count in (("test", 10), ("validation", 12), ("train", 40), ("excluded", 3)):
        for i in range(count):
            name = f"images/{part}-{i}.png"
            paint(folder / name, len(rows))
            style = ("noto", "flat")[i % 2]
            row = {
                "file_name": name,
                "texts": [f"{part} {i}, {style}", "other words"],
                "split": part,
                "style": style,
                "label": "x",
            }
            rows.append(row)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def parts(names: list[str]) -> set[str]:
    return {Path(name).stem.partition("-")[0] for name in names}


def test_marked_splits(marked: Path) -> None:
    found = read_sets(marked, SHAPE)
    assert found.split == "test"
    assert len(found.sets.held) == 10
    assert parts(list(found.sets.held.names)) == {"test"}
    assert set(found.sets.held.groups) == {"noto", "flat"}
    assert sorted(found.sets.held.captions)[0] == "test 0, noto"
    assert found.sets.extra is None
    assert found.sets.rest is not None
    assert len(found.sets.rest) == 10
    assert parts(list(found.sets.rest.names)) == {"train"}
    picture = np.array(Image.open(marked / found.sets.held.names[0]))
    assert (found.sets.held.pixels[0].permute(1, 2, 0).numpy() == picture).all()


def test_validation_helps_the_test_out_but_never_the_other_way(marked: Path) -> None:
    more = read_sets(marked, SHAPE, num=15).sets
    assert more.extra is not None
    assert len(more.extra) == 5
    assert parts(list(more.extra.names)) == {"validation"}
    assert more.rest is not None
    assert len(more.rest) == 15
    assert read_sets(marked, SHAPE).fit is None
    fit = read_sets(marked, SHAPE, fit=30).fit
    assert fit is not None
    assert len(fit) == 30
    assert parts(list(fit.names)) == {"train"}
    choice = read_sets(marked, SHAPE, name="validation", num=30)
    assert choice.split == "validation"
    assert len(choice.sets.held) == 12
    assert choice.sets.extra is None


def test_other_real_pictures_are_the_same_for_all_seeds(marked: Path) -> None:
    one, two = (read_sets(marked, SHAPE, seed=s).sets.rest for s in (1, 2))
    assert one is not None
    assert two is not None
    assert list(one.names) == list(two.names)


def test_unmarked_folder_holds_out_what_training_holds_out(tmp_path: Path) -> None:
    for i in range(40):
        paint(tmp_path / f"{i}.png", i)
        (tmp_path / f"{i}.txt").write_text(f"caption {i}")
    (tmp_path / "7.png").write_bytes(b"no picture")
    found = read_sets(tmp_path, SHAPE)
    wanted = split(audit(tmp_path, max_bad=1.0).records).validation
    assert found.split == "validation"
    assert list(found.sets.held.names) == [r.name for r in wanted]


def test_unreadable_held_pictures_are_counted(marked: Path) -> None:
    (marked / "images/test-3.png").write_bytes(b"no picture")
    found = read_sets(marked, SHAPE)
    assert found.unreadable == 1
    assert len(found.sets.held) == 9
    for path in (marked / "images").glob("test-*"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of 10 held-out pictures can be read"):
        read_sets(marked, SHAPE)


def test_very_many_held_pictures_are_thinned(marked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MOST_HELD", 4)
    assert len(read_sets(marked, SHAPE).sets.held) == 4


def test_no_such_part_or_folder(tmp_path: Path, marked: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'validation'"):
        read_sets(marked, SHAPE, name="validations")
    with pytest.raises(InputError, match="no such folder"):
        read_sets(tmp_path / "nowhere", SHAPE)
    for i in range(4):
        paint(tmp_path / "plain" / f"{i}.png", i)
    with pytest.raises(InputError, match="no test pictures"):
        read_sets(tmp_path / "plain", SHAPE, name="test")
