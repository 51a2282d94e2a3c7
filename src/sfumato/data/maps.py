"""Segmentation maps beside pictures: index PNGs, one class number a pixel.

    images/train/a.jpg   annotations/train/a.png     ADE20K, COCO-Stuff
    JPEGImages/a.jpg     SegmentationClass/a.png     Pascal VOC
    images/a.png         maps/a.png                  emoji scenes

A map belongs to the picture of the same path, without the folders' own names and the suffix. Its values are class numbers from
0; 255 (65535 in maps of 16 bits) marks what has no label, for which a class is added after the last. Maps are resized by
nearest neighbour, with the crop of the picture (`decode.placing`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from sfumato.data.captions import decode_text
from sfumato.data.coco import check_size, coco_files, read_coco_names
from sfumato.data.decode import DecodeError, Target, open_header, placing
from sfumato.data.folder import Record, walk_files
from sfumato.errors import InputError, MachineError

PICTURE_FOLDERS = ("images", "image", "imgs", "img", "pictures", "photos", "jpegimages")
MAP_FOLDERS = ("maps", "annotations", "labels", "masks", "segmentation", "segmentations", "segmentationclass")
MAP_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "BMP", "GIF", "TIFF")  # those that keep numbers
UNLABELLED = "unlabelled"
NO_LABEL = 255
NAME_FILES = ("names.txt", "classes.txt", "labels.txt")

Map = npt.NDArray[np.int16]


@dataclass(frozen=True)
class MapClasses:
    """names: of the class numbers from 0, with `UNLABELLED` last where it is needed. unlabelled: its number, else None."""

    names: tuple[str, ...]
    unlabelled: int | None = None

    @property
    def num(self) -> int:
        return len(self.names)


def find_pictures_root(root: str | os.PathLike[str]) -> Path:
    """The folder to scan for pictures: `images/` of a data set that has maps or boxes beside it, else the folder itself.

    A `metadata.jsonl` or `.csv` in the folder names its pictures: then the folder itself.
    """
    given = Path(root)
    if not given.is_dir() or any((given / name).is_file() for name in ("metadata.jsonl", "metadata.csv")):
        return given
    folders = {child.name.lower(): child for child in sorted(given.iterdir()) if child.is_dir()}
    beside = any(name in folders for name in MAP_FOLDERS) or bool(coco_files(given))
    pictures = next((folders[name] for name in PICTURE_FOLDERS if name in folders), None)
    return pictures if pictures is not None and beside else given


def find_maps(root: str | os.PathLike[str], names: Iterable[str]) -> dict[str, Path]:
    """The map of each picture that has one. root: of the data set; names: relative to it or to its folder of pictures.

    Raises `InputError` when two maps answer to one picture.
    """
    maps: dict[str, tuple[str, Path]] = {}
    for name, path in walk_files(Path(root)):
        parts = PurePosixPath(name)
        if parts.suffix.lower() not in MAP_SUFFIXES or not _has(parts, MAP_FOLDERS):
            continue
        key = _key(parts, MAP_FOLDERS)
        if key in maps:
            raise InputError(f"{root}: {maps[key][0]} and {name} are maps of the same picture; keep one.")
        maps[key] = (name, path)
    keys = {name: _key(PurePosixPath(name), PICTURE_FOLDERS) for name in names}
    return {name: maps[key][1] for name, key in keys.items() if key in maps}


def _has(path: PurePosixPath, folders: Sequence[str]) -> bool:
    return any(part.lower() in folders for part in path.parts[:-1])


def _key(path: PurePosixPath, folders: Sequence[str]) -> str:
    """The path without suffix and without the first folder of that kind."""
    parts = list(path.with_suffix("").parts)
    for index, part in enumerate(parts[:-1]):
        if part.lower() in folders:
            del parts[index]
            break
    return "/".join(parts)


def read_map(
    path: str | os.PathLike[str], target: Target, size: tuple[int, int] | None = None, unlabelled: int = NO_LABEL
) -> Map:
    """(H, W) int16 class numbers, cropped and resized as the picture is.

    size: the upright picture's (width, height) (`decode.upright_size`), which the map must have; None: not checked.
    unlabelled: what pixels without a label become, and what `pad` fills with. Raises `InputError` for a file that is no map
    and for another size.
    """
    values = _indices(Path(path))
    found = (values.shape[1], values.shape[0])
    if size is not None:
        check_size(str(path), size, found, "map")
    placed = placing(found, target)
    left, top, right, bottom = placed.box
    columns = _nearest(left, right, placed.inner[0], found[0])
    rows = _nearest(top, bottom, placed.inner[1], found[1])
    height, width = target.height_width if target.size is not None else values.shape
    result = np.full((height, width), -1, dtype=np.int16)
    x, y = placed.place
    result[y : y + len(rows), x : x + len(columns)] = values[rows][:, columns]
    return np.where(result < 0, np.int16(unlabelled), result)


def _nearest(start: float, stop: float, count: int, side: int) -> npt.NDArray[np.int64]:
    """Which source pixel holds the centre of each of `count` equal parts of [start, stop]."""
    centres = start + (np.arange(count) + 0.5) * ((stop - start) / count)
    return np.clip(np.floor(centres).astype(np.int64), 0, side - 1)


def _indices(path: Path) -> Map:
    """(H, W) class numbers of the whole file, -1 where there is no label."""
    try:
        data = Record(path, str(path)).read()
        image = open_header(data, str(path))
        if image.format not in FORMATS:
            raise DecodeError(str(path), f"{image.format} does not keep class numbers; save maps as PNG")
        try:
            image.load()
        except Exception as error:  # a parser met bytes that its author did not think of: any type can come
            raise DecodeError(str(path), f"damaged or truncated ({str(error)[:80]})") from None
    except DecodeError as error:
        raise InputError(f"{path}: no segmentation map: {error.reason}.") from None
    values = _values(image, path) // _grey_step(data, image)
    top = 65535 if image.mode.startswith("I") else NO_LABEL
    values = np.where(values == top, -1, values)
    if values.max() > np.iinfo(np.int16).max:
        raise InputError(f"{path}: class number {values.max()}; expected at most {np.iinfo(np.int16).max}.")
    return values.astype(np.int16)


def _values(image: Image.Image, path: Path) -> npt.NDArray[np.int32]:
    array = np.asarray(image).astype(np.int32)
    if image.mode in ("L", "P", "1", "I") or image.mode.startswith("I;16"):
        return array
    if image.mode in ("RGB", "RGBA") and (array[..., :1] == array[..., 1:3]).all():  # grey in three channels
        return array[..., 0]
    raise InputError(f"{path}: a picture of mode {image.mode}, not class numbers; save it as an index PNG (mode P or L).")


def _grey_step(data: bytes, image: Image.Image) -> int:
    """Pillow spreads grey PNGs of 2 and 4 bits over 0 ... 255; their numbers are that many apart."""
    if image.format != "PNG" or image.mode != "L" or len(data) < 26:
        return 1
    return {2: 85, 4: 17}.get(data[24], 1)


def map_classes(
    paths: Iterable[str | os.PathLike[str]],
    names: Sequence[str] = (),
    target: Target | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MapClasses:
    """Look at every map: the classes they have, and that they can be read. names: of the classes (`read_class_names`).

    `UNLABELLED` is added where a map has pixels without a label, or where `target` pads. Raises `InputError` for no map,
    for one that cannot be read and for a class number beyond the names.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise InputError(f"no segmentation maps; put them beside the pictures, in a folder {', '.join(MAP_FOLDERS[:4])}.")
    largest, missing = -1, target is not None and target.crop == "pad"
    with ThreadPoolExecutor(max(1, workers if workers is not None else os.cpu_count() or 1)) as pool:
        for done, (file, (low, high)) in enumerate(zip(files, pool.map(_range, files), strict=True), start=1):
            if names and high >= len(names):
                raise InputError(f"{file}: class number {high}, but there are names for 0 to {len(names) - 1} only.")
            largest, missing = max(largest, high), missing or low < 0
            if progress is not None:
                progress(done, len(files))
    known = tuple(names) or tuple(str(number) for number in range(largest + 1))
    if not known:
        raise InputError(f"{files[0]}: the maps have no labels at all; expected class numbers from 0.")
    return MapClasses((*known, UNLABELLED), len(known)) if missing else MapClasses(known)


def _range(path: Path) -> tuple[int, int]:
    values = _indices(path)
    return int(values.min()), int(values.max())


def read_class_names(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the class numbers from what stands in the folder; () for nothing. The first of:

    `classes.json` (a list, or an object name -> number or number -> name), `names.txt`, `classes.txt`, `labels.txt` (one a
    line), the categories of a COCO file (a map has their ids; 0 is then the background). Raises `InputError` for others.
    """
    folder = Path(root)
    if (folder / "classes.json").is_file():
        return _names_of_json(folder / "classes.json")
    for file in NAME_FILES:
        if (folder / file).is_file():
            lines = decode_text(_read(folder / file)).rstrip().splitlines()
            return tuple(line.strip() or str(number) for number, line in enumerate(lines))
    files = coco_files(folder)
    if not files:
        return ()
    words = read_coco_names(files[0])
    return _numbered(
        {number: word for number, word in words.items() if number >= 0} | ({} if 0 in words else {0: "background"})
    )


def _names_of_json(path: Path) -> tuple[str, ...]:
    expected = f'{path}: expected a list of names, or an object like {{"0": "background", "1": "cat"}}.'
    try:
        value = json.loads(_read(path))
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return tuple(value)
        if isinstance(value, dict) and value and all(type(number) is int for number in value.values()):
            return _numbered({number: word for word, number in value.items()})
        if isinstance(value, dict) and value and all(isinstance(word, str) for word in value.values()):
            return _numbered({int(number): word for number, word in value.items()})
    except (ValueError, RecursionError):
        raise InputError(expected) from None
    raise InputError(expected)


def _numbered(words: Mapping[int, str]) -> tuple[str, ...]:
    if min(words) < 0 or max(words) > np.iinfo(np.int16).max:
        raise InputError(f"class numbers {min(words)} to {max(words)}; expected 0 to {np.iinfo(np.int16).max}.")
    return tuple(words.get(number, str(number)) for number in range(max(words) + 1))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MachineError(f"{path}: cannot be read ({error.strerror}); change its permissions.") from None
