"""Boxes in COCO's format: labels by id, names matched, crops against boxes drawn into pictures, errors in one line."""

import io
import json
from dataclasses import astuple

import numpy as np
import pytest
from PIL import Image

from sfumato.data.annotations import BoxShare, CocoBox, boxes_in_crop, check_size, read_coco
from sfumato.data.decode import Target, decode, upright_size
from sfumato.errors import InputError


def table(**changes):
    whole = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": "b", "file_name": "sub/b.jpg", "width": 20, "height": 20},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "brush"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 10, 20.5], "iscrowd": 0, "segmentation": []},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 30], "iscrowd": 1},
            {"id": 3, "image_id": "b", "category_id": 90, "bbox": [5, 5, 0, 3]},
        ],
    }
    return whole | changes


def written(tmp_path, value, name="annotations.json"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_labels_are_indices_in_the_order_of_the_ids(tmp_path):
    coco = read_coco(written(tmp_path, table()))
    assert coco.names == ("cat", "dog", "brush")
    assert coco.boxes["a.jpg"] == (CocoBox(1, 1, 2, 10, 20.5), CocoBox(0, 0, 0, 40, 30, crowd=True))
    assert coco.boxes["sub/b.jpg"] == ()  # a box without area is none
    assert coco.sizes == {"a.jpg": (40, 30), "sub/b.jpg": (20, 20)}


def test_a_folder_is_read_as_its_files_together(tmp_path):
    written(tmp_path, table(images=table()["images"][:1], annotations=[]), "annotations/instances_train.json")
    written(tmp_path, table(images=table()["images"][1:], annotations=[]), "annotations/instances_val.json")
    written(tmp_path, "no json", "annotations/captions_train.json")
    assert set(read_coco(tmp_path).boxes) == {"a.jpg", "sub/b.jpg"}


def test_names_match_with_and_without_folders(tmp_path):
    coco = read_coco(written(tmp_path, table()))
    assert coco.match(["a.jpg", "sub/b.jpg", "c.jpg"]) == {"a.jpg": "a.jpg", "sub/b.jpg": "sub/b.jpg"}
    assert coco.match(["images/a.jpg", "images/sub/b.jpg"]) == {"images/a.jpg": "a.jpg", "images/sub/b.jpg": "sub/b.jpg"}
    assert coco.match(["b.jpg"]) == {"b.jpg": "sub/b.jpg"}


def test_names_that_two_pictures_answer_to_are_an_error(tmp_path):
    coco = read_coco(written(tmp_path, table()))
    with pytest.raises(InputError, match=r"train/a\.jpg and val/a\.jpg both answer"):
        coco.match(["train/a.jpg", "val/a.jpg"])
    twice = [{"id": 1, "file_name": "x/a.jpg"}, {"id": 2, "file_name": "y/a.jpg"}]
    coco = read_coco(written(tmp_path, table(images=twice, annotations=[])))
    with pytest.raises(InputError, match="same base name"):
        coco.match(["a.jpg"])


def annotation(**changes):
    return {"annotations": [{"id": 5, "image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2]} | changes]}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "not COCO's format"),
        ({"images": []}, "not COCO's format"),
        (table(images=[3]), "an item of `images` is no object"),
        (table(categories=[]), "no categories"),
        (table(categories=[{"id": 3}]), "expected a whole number and a name"),
        (table(categories=[{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]), "stands there twice"),
        (table(images=[{"id": 1}]), "file_name None"),
        (table(images=[{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}]), "stands there twice"),
        (table(**annotation(category_id=4)), "annotation 5 has category 4, which is none of the 3"),
        (table(**annotation(image_id=8)), "annotation 5 is of image 8"),
        (table(**annotation(image_id=None)), "annotation 5 is of image None"),
        (table(**annotation(bbox=[1, 2, 3])), "expected \\[x, y, width, height\\]"),
        (table(**annotation(bbox=[1, 2, float("nan"), 3])), "expected \\[x, y, width, height\\]"),
        (table(**annotation(bbox=[5, 5, -2, 3])), "negative box"),
        (table(**annotation(bbox=[40, 5, 2, 3])), "outside of its picture of 40x30"),
    ],
)
def test_errors_are_one_line(tmp_path, value, said):
    with pytest.raises(InputError, match=said) as caught:
        read_coco(written(tmp_path, value))
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_coco(tmp_path / "no.json")
    with pytest.raises(InputError, match=r"no annotations\.json"):
        read_coco(tmp_path)
    written(tmp_path, table(annotations=[], images=[]), "instances_a.json")
    written(tmp_path, table(annotations=[], images=[], categories=[{"id": 3, "name": "hen"}]), "instances_b.json")
    with pytest.raises(InputError, match="category 3 is 'hen', and 'cat' in another"):
        read_coco(tmp_path)


@pytest.mark.parametrize("crop", ["center", "pad"])
@pytest.mark.parametrize("size", [(160, 90), (90, 160), (100, 100), (37, 53)])
@pytest.mark.parametrize("wanted", [64, (48, 96)])
def test_boxes_go_where_the_picture_goes(crop, size, wanted):
    box = CocoBox(2, 0.3 * size[0], 0.25 * size[1], 0.35 * size[0], 0.4 * size[1])
    array = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    x0, y0, x1, y1 = (round(v) for v in (box.x, box.y, box.x + box.width, box.y + box.height))
    array[y0:y1, x0:x1] = 255
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    target = Target(wanted, background="black", crop=crop)
    white = decode(stream.getvalue(), "drawn", target)[0] > 127
    (found,) = boxes_in_crop([CocoBox(2, x0, y0, x1 - x0, y1 - y0)], size, target)
    height, width = target.height_width
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    seen = (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)
    said = (found.left, found.top, found.left + found.width, found.top + found.height)
    assert found.label == 2
    assert np.abs(np.subtract(seen, said)).max() <= 1.01 / min(height, width)  # a pixel of the result


def test_boxes_are_cut_at_the_rim_and_dropped_beyond_it():
    # 200 x 100 -> 50 x 50: the crop is [50, 150] x [0, 100]
    boxes = [
        CocoBox(0, 0, 0, 40, 50),  # outside
        CocoBox(1, 0, 0, 100, 50, crowd=True),  # half of it inside
        CocoBox(2, 0, 0, 54, 100),  # 4 of 54 inside: less than a tenth
        CocoBox(3, 60, 90, 20, 30),  # beyond the lower side
    ]
    found = boxes_in_crop(boxes, (200, 100), Target(50))
    expected = (BoxShare(1, 0.0, 0.0, 0.5, 0.5, group=True), BoxShare(3, 0.1, 0.9, 0.2, 0.1))
    assert [astuple(box) for box in found] == [pytest.approx(astuple(box)) for box in expected]
    assert [box.label for box in boxes_in_crop(boxes, (200, 100), Target(50), visible=0)] == [1, 2, 3]
    assert [box.label for box in boxes_in_crop(boxes, (200, 100), Target(None), visible=0)] == [0, 1, 2, 3]


def test_upright_size_is_that_of_the_decoded_picture():
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        Image.new("RGB", (24, 16)).save(stream, "JPEG", exif=exif)
        _, height, width = decode(stream.getvalue(), "turned").shape
        assert upright_size(stream.getvalue(), "turned") == (width, height)


def test_check_size_names_the_turn():
    check_size("a", (4, 3), (4, 3), "map")
    with pytest.raises(InputError, match="EXIF"):
        check_size("a", (4, 3), (3, 4), "map")
    with pytest.raises(InputError, match="4x3 upright, its map 8x6; expected"):
        check_size("a", (4, 3), (8, 6), "map")
