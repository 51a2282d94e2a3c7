"""Layouts in JSON: both forms give the same shares, and what is wrong is said in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfumato.errors import InputError
from sfumato.generation.layouts import LabelledBox, numbered, parse_layout, read_layout

COCO = {
    "images": [{"id": 9, "width": 200, "height": 100}],
    "categories": [{"id": 17, "name": "zebra"}, {"id": 3, "name": "apple"}],
    "annotations": [
        {"bbox": [20, 10, 100, 50], "category_id": 17, "image_id": 9},
        {"bbox": [150, 75, 50, 25], "category_id": 3, "image_id": 9},
    ],
}
OWN = {
    "size": [100, 200],
    "boxes": [{"label": "zebra", "box": [20, 10, 100, 50]}, {"label": "apple", "box": [150, 75, 50, 25]}],
}
SHARES = {"boxes": [{"label": "zebra", "box": [0.1, 0.1, 0.5, 0.5]}, {"label": "apple", "box": [0.75, 0.75, 0.25, 0.25]}]}


@pytest.mark.parametrize("layout", [COCO, OWN, SHARES], ids=["coco", "pixels", "shares"])
def test_all_forms_mean_the_same(layout: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(layout))
    found = read_layout(tmp_path / "a.json")
    assert [box.label for box in found] == ["zebra", "apple"]
    shares = [side for box in found for side in (box.left, box.top, box.width, box.height)]
    assert shares == pytest.approx([0.1, 0.1, 0.5, 0.5, 0.75, 0.75, 0.25, 0.25])


def test_coco_without_names_gives_numbers() -> None:
    assert [box.label for box in parse_layout({**COCO, "categories": []})] == [17, 3]


def test_rounded_edges_are_moved_inside() -> None:
    [box] = parse_layout({"boxes": [{"label": 1, "box": [-0.001, 0, 1.0015, 1]}]})
    assert box == LabelledBox(1, 0.0, 0.0, 1.0, 1.0)


def one(box: object, label: object = "a", **more: object) -> dict[str, object]:
    return {"boxes": [{"label": label, "box": box}], **more}


WRONG = [
    ([], "expected an object"), ({}, "neither boxes nor annotations"), ({"boxes": []}, "no boxes"),
    ({"boxes": {}}, "expected a list"), ({"boxes": [1]}, "number 1 of boxes is 1"),
    ({"boxes": [{"box": [0, 0, 1, 1]}]}, "'label'"),
    (one([0, 0, 1]), "four numbers"), (one([0, 0, 1, "1"]), "four numbers"), (one([0, 0, 1, float("nan")]), "four numbers"),
    (one([0, 0, 1, 10**400]), "four numbers"), (one([0, 0, True, 1]), "four numbers"),
    (one([0, 0, 0, 1]), "empty or outside"), (one([0.5, 0, 0.6, 1]), "empty or outside of the picture, 0 to 1"),
    (one([-0.1, 0, 0.6, 1]), "outside"), (one([10, 10, 20, 20]), "boxes in pixels need a size"),
    (one([10, 10, 20, 20], size=[25, 40]), "outside of the picture, 25x40 pixels"),
    (one([0, 0, 1, 1], size=[0, 4]), "size is"), (one([0, 0, 1, 1], size=128), "size is"),
    (one([0, 0, 1, 1], True), "label of box 1"),
    (one([0, 0, 1, 1], None), "label of box 1"),
    ({**COCO, "images": COCO["images"] * 2}, "of 2 pictures"), ({**COCO, "images": []}, "of 0 pictures"),
    ({**COCO, "images": [{"id": 1}]}, "'height'"), ({**COCO, "categories": [{"id": 1, "name": "x"}]}, "category_id 17"),
    ({**COCO, "annotations": [{"bbox": [0, 0, 1, 1], "category_id": "17"}]}, "category_id of number 1"),
    ({**COCO, "annotations": []}, "no boxes"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "words"), WRONG, ids=range(len(WRONG)))
def test_wrong_layouts_are_one_line(layout: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_layout(layout)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000], ids=range(5))
def test_unreadable_json(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InputError, match=r"not valid JSON|expected an object"):
        read_layout(tmp_path / "a.json")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="expected a JSON file"):
            read_layout(path)


def test_labels_by_name_and_number() -> None:
    names = ("sky", "Apple", "apple", "7")
    assert [numbered(label, names) for label in ("sky", " SKY ", "apple", "Apple", 1, "1", "7")] == [0, 0, 2, 1, 1, 1, 3]
    with pytest.raises(InputError, match="did you mean 'sky'"):
        numbered("skyy", names)
