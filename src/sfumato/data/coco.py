"""Boxes beside pictures in COCO's format: one JSON object with `images`, `annotations` and `categories`.

    images       {"id", "file_name", "width", "height"}
    categories   {"id", "name"}: ids are any whole numbers, with gaps; here labels are indices in the order of the ids
    annotations  {"image_id", "category_id", "bbox": [x, y, width, height], "iscrowd"}: pixels from the top left corner

(Lin et al. 2014, arXiv 1405.0312, and its data format.) Everything else in the file is passed over.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sfumato.data.decode import Target, placing
from sfumato.errors import InputError, MachineError

MAX_JSON_BYTES = 2 << 30
PATTERNS = ("annotations.json", "instances*.json", "annotations/annotations.json", "annotations/instances*.json")


@dataclass(frozen=True)
class CocoBox:
    """label: index into `Coco.names`. x, y: top left corner; with width and height in pixels of the picture.

    crowd: it holds a group of such things.
    """

    label: int
    x: float
    y: float
    width: float
    height: float
    crowd: bool = False


@dataclass(frozen=True)
class BoxShare:
    """label; left, top, width, height as shares of the picture, in [0, 1]; group: of things."""

    label: int
    left: float
    top: float
    width: float
    height: float
    group: bool = False


@dataclass(frozen=True)
class Coco:
    """names: of the labels. boxes, sizes: by file name as the JSON has it, every picture of the file; size (width, height)."""

    names: tuple[str, ...]
    boxes: Mapping[str, tuple[CocoBox, ...]]
    sizes: Mapping[str, tuple[int, int]]

    def match(self, names: Iterable[str]) -> dict[str, str]:
        """Names of records -> file names of the JSON: the same, else without leading folders, else the same base name.

        Records without annotations are left out. Raises `InputError` where two answer to one name.
        """
        bases: dict[str, list[str]] = defaultdict(list)
        for known in self.boxes:
            bases[PurePosixPath(known).name].append(known)
        found: dict[str, str] = {}
        owner: dict[str, str] = {}
        for name in names:
            file = self._exact(name) or self._by_base(name, bases)
            if file is None:
                continue
            if owner.get(file, name) != name:
                raise InputError(
                    f"{file}: {owner[file]} and {name} both answer to this file_name; give the names in the json their folders."
                )
            owner[file] = name
            found[name] = file
        return found

    def _exact(self, name: str) -> str | None:
        parts = PurePosixPath(name).parts
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((tail for tail in tails if tail in self.boxes), None)

    @staticmethod
    def _by_base(name: str, bases: Mapping[str, Sequence[str]]) -> str | None:
        files = bases.get(PurePosixPath(name).name, ())
        if len(files) > 1:
            raise InputError(
                f"{name}: the json has {files[0]} and {files[1]}, of the same base name; give the picture's folder."
            )
        return files[0] if files else None


def read_coco(path: str | os.PathLike[str]) -> Coco:
    """Read a JSON file, or those of a folder (`annotations.json`, `instances*.json`, also under `annotations/`) as one.

    Boxes without area are left out. Raises `InputError` with one line: no file, no JSON, a category or picture that is not
    there, a negative box or one outside of its picture; `MachineError` when it cannot be read.
    """
    given = Path(path)
    files = coco_files(given) if given.is_dir() else [given]
    if not files:
        raise InputError(f"{given}: no annotations.json or instances*.json there; give the file, or a folder that has one.")
    tables = [(file.name, _load(file)) for file in files]
    categories: dict[int, str] = {}
    for name, table in tables:
        for number, word in _categories(table, name).items():
            if categories.setdefault(number, word) != word:
                raise InputError(
                    f"{name}: category {number} is {word!r}, and {categories[number]!r} in another file; use one list."
                )
    index = {number: position for position, number in enumerate(sorted(categories))}
    boxes: dict[str, tuple[CocoBox, ...]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for name, table in tables:
        _read_boxes(table, name, index, boxes, sizes)
    return Coco(tuple(categories[number] for number in sorted(categories)), boxes, sizes)


def coco_files(root: Path) -> list[Path]:
    """The COCO files of a folder, sorted."""
    return sorted({file for pattern in PATTERNS for file in root.glob(pattern) if file.is_file()})


def read_coco_names(path: Path) -> dict[int, str]:
    """Names by category id. Raises as `read_coco`."""
    return _categories(_load(path), path.name)


def boxes_in_crop(
    boxes: Iterable[CocoBox], size: tuple[int, int], target: Target, visible: float = 0.1
) -> tuple[BoxShare, ...]:
    """Boxes of a picture of `size` (width, height) after the crop and resize of `target`, as shares of the result.

    What the crop cuts is cut off the box; a box of which less than the share `visible` is left (0: nothing) is dropped.
    """
    placed = placing(size, target)
    height, width = target.height_width if target.size is not None else (size[1], size[0])
    left, top, right, bottom = placed.box
    scale = placed.inner[0] / (right - left), placed.inner[1] / (bottom - top)
    found = []
    for box in boxes:
        x0, x1 = (min(max(x, left), right) for x in (box.x, box.x + box.width))
        y0, y1 = (min(max(y, top), bottom) for y in (box.y, box.y + box.height))
        area = (x1 - x0) * (y1 - y0)
        if area <= 0 or area < visible * box.width * box.height:
            continue
        x0, x1 = (((x - left) * scale[0] + placed.place[0]) / width for x in (x0, x1))
        y0, y1 = (((y - top) * scale[1] + placed.place[1]) / height for y in (y0, y1))
        x0, y0, x1, y1 = (min(max(v, 0.0), 1.0) for v in (x0, y0, x1, y1))
        found.append(BoxShare(box.label, x0, y0, x1 - x0, y1 - y0, box.crowd))
    return tuple(found)


def check_size(name: str, found: tuple[int, int], said: tuple[int, int], whose: str) -> None:
    """Raises `InputError` when what stands beside a picture was made for another size (width, height)."""
    if found != said:
        turned = " (turned: it ignores the EXIF orientation)" if found == (said[1], said[0]) else ""
        raise InputError(
            f"{name}: the picture is {found[0]}x{found[1]} upright, its {whose} {said[0]}x{said[1]}{turned}; "
            "expected the same size."
        )


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"{path}: larger than {MAX_JSON_BYTES >> 30} GB; leave out the outlines and split it.")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a json of COCO's format.") from None
    except OSError as error:
        raise MachineError(f"{path}: cannot be read ({error.strerror}); change its permissions.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({str(error)[:80]}); expected COCO's format.") from None
    if not isinstance(value, dict) or not all(isinstance(value.get(k), list) for k in ("images", "annotations", "categories")):
        raise InputError(f"{path}: not COCO's format; expected an object with lists `images`, `annotations` and `categories`.")
    for key in ("images", "annotations", "categories"):
        if not all(isinstance(item, dict) for item in value[key]):
            raise InputError(f"{path}: an item of `{key}` is no object; expected COCO's format.")
    return value


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _categories(table: Mapping[str, Any], name: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for item in table["categories"]:
        number, word = item.get("id"), item.get("name")
        if not _whole(number) or not isinstance(word, str) or not word.strip():
            raise InputError(f"{name}: category {number!r} called {word!r}; expected a whole number and a name.")
        if number in found or word in found.values():
            raise InputError(f"{name}: category {number} ({word!r}) stands there twice; keep one id and one name a category.")
        found[number] = word
    if not found:
        raise InputError(f"{name}: no categories; boxes need names.")
    return found


def _read_boxes(
    table: Mapping[str, Any],
    name: str,
    index: Mapping[int, int],
    boxes: dict[str, tuple[CocoBox, ...]],
    sizes: dict[str, tuple[int, int]],
) -> None:
    files: dict[object, str] = {}
    for image in table["images"]:
        file, number = image.get("file_name"), image.get("id")
        if not isinstance(file, str) or not file or not isinstance(number, int | str):
            raise InputError(f"{name}: image {number!r} with file_name {file!r}; expected an id and a name.")
        file = file.replace("\\", "/")
        if number in files or file in boxes:
            raise InputError(f"{name}: image {number!r} ({file}) stands there twice; keep one row a picture.")
        files[number], boxes[file] = file, ()
        width, height = image.get("width"), image.get("height")
        if _whole(width) and _whole(height) and width > 0 and height > 0:
            sizes[file] = (width, height)
    found: dict[str, list[CocoBox]] = defaultdict(list)
    for item in table["annotations"]:
        where = f"{name}: annotation {item.get('id')!r}"
        number = item.get("image_id")
        file = files.get(number) if isinstance(number, int | str) else None
        if file is None:
            raise InputError(f"{where} is of image {number!r}, which is none of the {len(files):,} in `images`.")
        box = _box(item, where, index, sizes.get(file))
        if box.width and box.height:
            found[file].append(box)
    boxes.update({file: tuple(listed) for file, listed in found.items()})


def _box(item: Mapping[str, Any], where: str, index: Mapping[int, int], size: tuple[int, int] | None) -> CocoBox:
    category, corners = item.get("category_id"), item.get("bbox")
    if not isinstance(category, int) or category not in index:
        raise InputError(f"{where} has category {category!r}, which is none of the {len(index)} in `categories`.")
    if not isinstance(corners, list) or len(corners) != 4 or not all(_finite(v) for v in corners):
        raise InputError(f"{where} has bbox {str(corners)[:60]}; expected [x, y, width, height] in pixels.")
    x, y, width, height = (float(v) for v in corners)
    if width < 0 or height < 0:
        raise InputError(f"{where} has a negative box {corners}; expected [x, y, width, height], not two corners.")
    if size is not None and (x >= size[0] or y >= size[1] or x + width < 0 or y + height < 0):
        raise InputError(f"{where} has a box {corners} outside of its picture of {size[0]}x{size[1]} pixels.")
    return CocoBox(index[category], x, y, width, height, bool(item.get("iscrowd")))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
