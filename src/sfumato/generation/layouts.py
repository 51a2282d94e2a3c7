"""Layouts in JSON -> labelled boxes in shares of the picture. Two forms:

    {"size": [H, W], "boxes": [{"label": "apple", "box": [x, y, w, h]}, ...]}      pixels; without a size, shares from 0 to 1
    {"images": [...], "annotations": [...], "categories": [...]}                   COCO (arXiv 1405.0312), of one picture

x and y are the left and upper edge. File content is data: every value is checked. PyTorch is not needed here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import InputError, unknown
from sfumato.generation.limits import shorten

MAX_BYTES = 16 << 20
MAX_BOXES = 10_000
SLACK = 2e-3
"""How far, in shares, an edge may lie outside: annotations are rounded. What does is moved onto the picture's edge."""


@dataclass(frozen=True)
class LabelledBox:
    """A class by its name or number, and left, top, width, height as shares of the picture."""

    label: str | int
    left: float
    top: float
    width: float
    height: float


def read_layout(path: str | Path) -> tuple[LabelledBox, ...]:
    """The boxes of a file. Raises `InputError` when it cannot be read or is no layout."""
    shown = shorten(str(path))
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"layout: {shown}: {reason}; expected a JSON file.") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"layout: {shown} is larger than {MAX_BYTES >> 20} MB, refused.")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError(f"layout: {shown} is not valid JSON; expected one such as {EXAMPLE}.") from None
    return parse_layout(value)


EXAMPLE = '{"boxes": [{"label": "apple", "box": [0.1, 0.2, 0.5, 0.5]}]}'


def parse_layout(value: object) -> tuple[LabelledBox, ...]:
    """The boxes of what a JSON file holds. Raises `InputError`."""
    if not isinstance(value, Mapping):
        raise InputError(f"layout: got {shorten(value)}, expected an object such as {EXAMPLE}.")
    if "boxes" in value:
        found = _own(value)
    elif "annotations" in value:
        found = _coco(value)
    else:
        raise InputError(f"layout: it has neither boxes nor annotations (COCO); expected one such as {EXAMPLE}.")
    if not found:
        raise InputError("layout: it has no boxes, expected one or more.")
    return found


def numbered(label: str | int, names: Sequence[str]) -> int:
    """The number of a label among `names`; a number is always understood. Raises `InputError` with the nearest name."""
    if isinstance(label, int):
        return label
    text = label.strip()
    if text in names:
        return names.index(text)
    folded = [i for i, name in enumerate(names) if name.casefold() == text.casefold()]
    if len(folded) == 1:
        return folded[0]
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    if not names:
        raise InputError(f"label {shorten(label)}: this model knows its classes by numbers only; give the class number.")
    raise unknown("label", text[:100], names)


def _own(value: Mapping[str, Any]) -> tuple[LabelledBox, ...]:
    size = value.get("size")
    height, width = (1.0, 1.0) if size is None else _size(size)
    return tuple(
        _box(i, _field(i, row, "label", "boxes"), _field(i, row, "box", "boxes"), height, width)
        for i, row in enumerate(_rows(value, "boxes"))
    )


def _coco(value: Mapping[str, Any]) -> tuple[LabelledBox, ...]:
    images = _rows(value, "images")
    if len(images) != 1:
        raise InputError(f"layout: COCO annotations of {len(images)} pictures, expected one; keep the one to compose.")
    height, width = _size([_field(0, images[0], name, "images") for name in ("height", "width")])
    names: dict[object, Any] = {}
    for i, row in enumerate(_rows(value, "categories") if "categories" in value else []):
        names[_number_of(i, row, "id", "categories")] = _field(i, row, "name", "categories")
    boxes = []
    for i, row in enumerate(_rows(value, "annotations")):
        category = _number_of(i, row, "category_id", "annotations")
        if names and category not in names:
            raise InputError(f"layout: annotation {i + 1} has category_id {category}, which is none of the categories.")
        boxes.append(_box(i, names.get(category, category), _field(i, row, "bbox", "annotations"), height, width))
    return tuple(boxes)


def _rows(value: Mapping[str, Any], name: str) -> list[Any]:
    rows = value.get(name)
    if not isinstance(rows, list) or len(rows) > MAX_BOXES:
        given = f"{len(rows)} of them" if isinstance(rows, list) else shorten(rows)
        raise InputError(f"layout: {name} is {given}, expected a list of at most {MAX_BOXES}.")
    return rows


def _field(i: int, row: object, field: str, where: str) -> Any:
    if not isinstance(row, Mapping) or field not in row:
        raise InputError(f"layout: number {i + 1} of {where} is {shorten(row)}, expected an object with {field!r}.")
    return row[field]


def _number_of(i: int, row: object, field: str, where: str) -> int:
    value = _field(i, row, field, where)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"layout: {field} of number {i + 1} of {where} is {shorten(value)}, expected a whole number.")
    return value


def _size(size: object) -> tuple[float, float]:
    """(height, width) in pixels."""
    if not isinstance(size, list) or len(size) != 2 or not all(_is_number(side) and side > 0 for side in size):
        raise InputError(f"layout: size is {shorten(size)}, expected [height, width] in pixels.")
    return float(size[0]), float(size[1])


def _box(i: int, label: object, box: object, height: float, width: float) -> LabelledBox:
    """Box `i` of the file in shares, checked."""
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise InputError(f"layout: the label of box {i + 1} is {shorten(label)}, expected the name or number of a class.")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise InputError(f"layout: box {i + 1} is {shorten(box)}, expected four numbers: left, top, width, height.")
    left, top, wide, high = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    if wide <= 0 or high <= 0 or min(left, top) < -SLACK or max(left + wide, top + high) > 1 + SLACK:
        frame = "0 to 1 (boxes in pixels need a size)" if (height, width) == (1, 1) else f"{height:g}x{width:g} pixels"
        raise InputError(
            f"layout: box {i + 1} ({shorten(label)}) is {shorten(box)}: it is empty or outside of the picture, {frame}."
        )
    right, bottom = min(left + wide, 1.0), min(top + high, 1.0)
    left, top = max(left, 0.0), max(top, 0.0)
    return LabelledBox(label, left, top, right - left, bottom - top)


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 1e9 and math.isfinite(value)
