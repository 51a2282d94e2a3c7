"""Segmentation maps: found beside pictures, read as numbers, cropped as the picture is, errors in one line."""

import io
import json
import zlib

import numpy as np
import pytest
from corpus import png
from PIL import Image

from sfumato.data.annotations import find_maps, find_pictures_root, map_classes, read_class_names, read_map
from sfumato.data.decode import Target, decode
from sfumato.data.folder import scan
from sfumato.errors import InputError


def saved(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if mode == "P":
        image = Image.frombytes("P", (array.shape[1], array.shape[0]), array.tobytes())
        image.putpalette([7, 8, 9] * 256)
    image.save(path, **options)
    return path


def numbers(height=12, width=10, top=5):
    return (np.arange(height * width).reshape(height, width) % (top + 1)).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "P", "rgb", "16", "gif", "tiff"])
def test_numbers_come_out_as_they_were_written(tmp_path, mode):
    array = numbers()
    path = {
        "L": lambda: saved(tmp_path / "a.png", array),
        "P": lambda: saved(tmp_path / "a.png", array, "P"),
        "rgb": lambda: saved(tmp_path / "a.png", np.repeat(array[..., None], 3, 2)),
        "16": lambda: saved(tmp_path / "a.png", array.astype(np.uint16) * 1000),
        "gif": lambda: saved(tmp_path / "a.gif", array, "P"),
        "tiff": lambda: saved(tmp_path / "a.tif", array),
    }[mode]()
    found = read_map(path, Target(None))
    assert found.dtype == np.int16
    assert np.array_equal(found, array.astype(np.int16) * (1000 if mode == "16" else 1))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_of_few_bits_keeps_its_numbers(tmp_path, depth):
    array = numbers(4, 8, 2**depth - 1)
    bits = np.unpackbits(array[..., None], axis=2)[..., -depth:].reshape(4, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    data = png(8, 4, depth, 0, rows)
    if Image.open(io.BytesIO(data)).size != (8, 4):
        data = png(8, 4, depth, 0, zlib.compress(rows))
    (tmp_path / "a.png").write_bytes(data)
    assert np.array_equal(read_map(tmp_path / "a.png", Target(None)), array)


COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)


@pytest.mark.parametrize("crop", ["center", "pad"])
@pytest.mark.parametrize("size", [(90, 50), (50, 90), (64, 64), (131, 97)])
@pytest.mark.parametrize("wanted", [32, (24, 48), None])
def test_maps_go_where_the_picture_goes(tmp_path, crop, size, wanted):
    y, x = np.mgrid[: size[1], : size[0]]
    array = ((x > 0.4 * size[0]) + 2 * (y > 0.55 * size[1])).astype(np.uint8)
    target = Target(wanted, background="white", crop=crop)
    stream = io.BytesIO()
    Image.fromarray(COLOURS[array]).save(stream, "PNG")
    picture = decode(stream.getvalue(), "drawn", target).transpose(1, 2, 0).astype(int)
    found = read_map(saved(tmp_path / "a.png", array), target, size)
    assert found.shape == picture.shape[:2]
    distance = np.abs(picture[:, :, None] - np.concatenate([COLOURS, [[255, 255, 255]]])).sum(3)  # (H, W, 5)
    expected = np.where(distance.argmin(2) == 4, 255, distance.argmin(2))
    pure = distance.min(2) == 0  # not where the picture's own filter mixes, beside a border
    assert pure.mean() > 0.5
    assert np.array_equal(found[pure], expected[pure])
    assert (found == 255).any() == (expected[pure] == 255).any()


def test_no_label_becomes_the_number_asked_for(tmp_path):
    array = numbers()
    array[2, 3] = 255
    path = saved(tmp_path / "a.png", array)
    assert read_map(path, Target(None))[2, 3] == 255
    assert read_map(path, Target(None), unlabelled=6)[2, 3] == 6
    padded = read_map(saved(tmp_path / "b.png", numbers(10, 20)), Target(20, crop="pad"), unlabelled=6)
    assert (padded[:5] == 6).all()
    assert (padded[5:15] < 6).all()


def test_files_that_are_no_maps_get_one_line(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "empty.png").write_bytes(b"")
    whole = saved(tmp_path / "whole.png", numbers(64, 64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for path, said in [
        (saved(tmp_path / "c.png", colours), "a picture of mode RGB, not class numbers"),
        (saved(tmp_path / "j.png", colours[..., 0], format="JPEG"), "JPEG does not keep class numbers"),
        (saved(tmp_path / "h.png", np.full((2, 2), 40000, dtype=np.uint16)), "class number 40000"),
        (tmp_path / "text.png", "not a picture"),
        (tmp_path / "empty.png", "empty"),
        (tmp_path / "cut.png", "damaged or truncated"),
        (tmp_path / "gone.png", "not there"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            read_map(path, Target(8))
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_map_of_another_size_is_an_error(tmp_path):
    path = saved(tmp_path / "a.png", numbers(12, 10))
    assert read_map(path, Target(8), (10, 12)).shape == (8, 8)
    with pytest.raises(InputError, match=r"12x10 upright, its map 10x12 \(turned"):
        read_map(path, Target(8), (12, 10))
    with pytest.raises(InputError, match="20x24 upright, its map 10x12; expected"):
        read_map(path, Target(8), (20, 24))


@pytest.mark.parametrize(
    ("picture", "mapped"),
    [
        ("images/train/a.jpg", "annotations/train/a.png"),
        ("images/a.png", "maps/a.png"),
        ("train/images/a.png", "train/masks/a.png"),
        ("JPEGImages/a.jpg", "SegmentationClass/a.png"),
        ("train/a.jpg", "labels/train/a.png"),
        ("a.b.jpg", "labels/a.b.png"),
    ],
)
def test_maps_are_found_beside_pictures(tmp_path, picture, mapped):
    path = saved(tmp_path / mapped, numbers())
    saved(tmp_path / "maps2" / "other.png", numbers())
    assert find_maps(tmp_path, [picture, "images/none.jpg"]) == {picture: path}


def test_names_may_be_relative_to_the_folder_of_pictures(tmp_path):
    path = saved(tmp_path / "maps" / "x" / "a.png", numbers())
    assert find_maps(tmp_path, ["x/a.jpg"]) == {"x/a.jpg": path}


def test_two_maps_of_one_picture_are_an_error(tmp_path):
    saved(tmp_path / "maps" / "a.png", numbers())
    saved(tmp_path / "labels" / "a.png", numbers())
    with pytest.raises(InputError, match="maps of the same picture"):
        find_maps(tmp_path, ["images/a.jpg"])


def test_the_pictures_are_scanned_without_the_maps(tmp_path):
    saved(tmp_path / "images" / "a.png", numbers())
    assert find_pictures_root(tmp_path) == tmp_path  # nothing beside them: `images` is a class, or a folder like others
    saved(tmp_path / "maps" / "a.png", numbers())
    assert find_pictures_root(tmp_path) == tmp_path / "images"
    assert [record.name for record in scan(find_pictures_root(tmp_path)).records] == ["a.png"]
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "images/a.png"}))
    assert find_pictures_root(tmp_path) == tmp_path
    assert [record.name for record in scan(tmp_path).records] == ["images/a.png"]


def test_a_coco_file_beside_them_also_marks_a_data_set(tmp_path):
    saved(tmp_path / "images" / "a.png", numbers())
    (tmp_path / "instances_val.json").write_text("{}")
    assert find_pictures_root(tmp_path) == tmp_path / "images"


def test_classes_are_counted(tmp_path):
    first, second = saved(tmp_path / "a.png", numbers(top=3)), saved(tmp_path / "b.png", numbers(top=5))
    found = map_classes([first, second])
    assert (found.names, found.unlabelled, found.num) == (("0", "1", "2", "3", "4", "5"), None, 6)
    padded = map_classes([first, second], [*"abcdefg"], Target(8, crop="pad"))
    assert (padded.names, padded.unlabelled) == ((*"abcdefg", "unlabelled"), 7)
    with pytest.raises(InputError, match=r"b\.png: class number 5, but there are names for 0 to 4"):
        map_classes([first, second], [*"abcde"])
    with pytest.raises(InputError, match="no segmentation maps"):
        map_classes([])


def test_pixels_without_label_add_a_class(tmp_path):
    array = numbers(top=3)
    array[0, 0] = 255
    found = map_classes([saved(tmp_path / "a.png", array)])
    assert (found.names, found.unlabelled) == (("0", "1", "2", "3", "unlabelled"), 4)
    nothing = saved(tmp_path / "b.png", np.full((4, 4), 255, dtype=np.uint8))
    with pytest.raises(InputError, match="no labels at all"):
        map_classes([nothing])


def coco_of(categories):
    return json.dumps({"images": [], "annotations": [], "categories": categories})


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("classes.json", '["sky", "sea"]', ("sky", "sea")),
        ("classes.json", '{"0": "sky", "2": "sea"}', ("sky", "1", "sea")),
        ("classes.json", '{"sea": 1, "sky": 0}', ("sky", "sea")),
        ("names.txt", "sky\r\nsea\n\n", ("sky", "sea")),
        ("classes.txt", "sky\n\n sea", ("sky", "1", "sea")),  # the third line is class 2
        ("annotations.json", coco_of([{"id": 2, "name": "cat"}, {"id": 1, "name": "dog"}]), ("background", "dog", "cat")),
        ("other.txt", "sky", ()),
    ],
)
def test_names_of_classes(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    assert read_class_names(tmp_path) == expected


@pytest.mark.parametrize("content", ["{", "3", '{"a": "b"}', "[1]", "{}", '{"-1": "a"}'])
def test_wrong_names_of_classes(tmp_path, content):
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(InputError, match=r"classes\.json|class numbers"):
        read_class_names(tmp_path)
