"""Emoji scenes: pictures with boxes, labels, captions and segmentation maps that are exact, made from a seed.

    DST/images/<split>/000001.png   RGB pictures
    DST/maps/<split>/000001.png     index PNGs (mode P) of the same names: 0 is the background, i the class i
    DST/instances_<split>.json      COCO: images, annotations (bbox x, y, w, h in pixels), categories; names relative to DST
    DST/metadata.jsonl              one row a picture: file_name, text, texts, split, map, objects, relations, said, background
    DST/classes.txt                 the name of class i in line i, counted from 0

Held-out rule. Splits are those of the emoji set (`data.emoji`): of (emoji, style) pairs by their hash, pairs that look like a
held-out one excluded. A scene of a split has only drawings of that split: a test scene only held-out ones, a train scene none.
The class may well be seen in training in another style. Classes all of whose drawings train (the zebra) are in no test scene.

Scene i of a split is a function of (seed, split, i, size, max_objects) and the drawings: the order of work, the number of
processes and the number of scenes don't matter. With one version of Pillow files are equal byte for byte.
"""

from __future__ import annotations

import colorsys
import hashlib
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from sfumato.data import emoji_sources
from sfumato.data.emoji import build_emoji
from sfumato.data.emoji_sources import default_cache
from sfumato.data.scene_classes import NAMES
from sfumato.data.scene_draw import MAX_OBJECTS, Painter, Scene
from sfumato.data.scene_sprites import SPLITS, Sprites, read_sprites, write_sprites
from sfumato.errors import InputError, MachineError

MIN_SIZE, MAX_SIZE = 32, 512
MAX_COUNT = 999_999
_CHUNK = 32  # scenes a task
_CLASSES = "".join(f"{name}\n" for name in NAMES)
Progress = Callable[[str, int, int], None]
Json = dict[str, Any]


@dataclass(frozen=True)
class SceneLayout:
    """Where the files of a folder of scenes are (see the top of this module)."""

    root: Path

    @property
    def metadata(self) -> Path:
        return self.root / "metadata.jsonl"

    @property
    def classes(self) -> Path:
        return self.root / "classes.txt"

    def instances(self, split: str) -> Path:
        return self.root / f"instances_{split}.json"

    def image(self, split: str, index: int) -> Path:
        """The picture of scene `index`, counted from 1."""
        return self.root / "images" / split / f"{index:06d}.png"

    def map(self, split: str, index: int) -> Path:
        return self.root / "maps" / split / f"{index:06d}.png"

    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the indices; the first is the background. Raises `InputError` when there are none."""
        try:
            return tuple(self.classes.read_text(encoding="utf-8").splitlines())
        except OSError as error:
            raise InputError(f"{self.classes}: cannot be read ({error.strerror}); give a folder of scenes.") from None


@dataclass(frozen=True)
class SceneReport:
    """What `build_scenes` made: scenes by split, drawings they were drawn from by split, things in them, bytes on disk."""

    directory: Path
    counts: dict[str, int]
    drawings: dict[str, int]
    num_things: int
    num_bytes: int
    sprites_bytes: int = 0


@dataclass(frozen=True)
class _Plan:
    """What every process needs to know."""

    root: Path
    sources: Path
    size: int
    seed: int
    max_objects: int


def build_scenes(
    directory: str | os.PathLike[str],
    count: int = 20_000,
    test_count: int = 1000,
    validation_count: int = 500,
    size: int = 128,
    seed: int = 0,
    max_objects: int = 4,
    sources: str | os.PathLike[str] | None = None,
    sprites: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> SceneReport:
    """Write a folder of scenes.

    count, test_count, validation_count: scenes a split, not all 0. size: side in pixels, 32 to 512. max_objects: most things in
    a scene, 1 to 8. sources: a folder that `build_emoji` wrote with pictures of at least `size`, or a `.tar` of it; without it
    the set is built, once, below `cache` (where npm tarballs are kept). sprites: also write the drawings that scenes need as a
    `.tar`, which `sources` takes. workers: processes, by default one a core. progress is called with (stage, done, total).

    `metadata.jsonl` is written last: a folder that has one is complete. Scenes of an earlier call are replaced. Raises
    `InputError` for a bad argument or a folder that holds something else, `MachineError` for a disk that is full.
    """
    root = Path(directory)
    counts = {"train": count, "validation": validation_count, "test": test_count}
    _check(root, counts, size, max_objects)
    tell = progress or (lambda stage, done, total: None)
    processes = workers or os.cpu_count() or 1
    origin = Path(sources) if sources is not None else _emoji_set(size, cache, processes, tell)
    found = read_sprites(origin)
    for split, number in counts.items():
        if number and not found.drawings[split]:
            raise InputError(f"{origin}: no {split} drawing of a known class; ask for 0 {split} scenes or build all styles.")
    plan = _Plan(root, origin, size, seed, max_objects)
    try:
        rows = _write(plan, counts, found, processes, tell)
        sprites_bytes = write_sprites(found, Path(sprites)) if sprites is not None else 0
    except OSError as error:
        raise MachineError(f"cannot write {root}: {error.strerror or error}; free space or choose another folder.") from None
    on_disk = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    return SceneReport(root, counts, found.counts, sum(len(r["objects"]["bbox"]) for r in rows), on_disk, sprites_bytes)


def _check(root: Path, counts: Mapping[str, int], size: int, max_objects: int) -> None:
    for split, number in counts.items():
        if not 0 <= number <= MAX_COUNT:
            raise InputError(f"{number} {split} scenes: expected 0 to {MAX_COUNT:,}.")
    if not any(counts.values()):
        raise InputError("0 scenes asked for; give a count above 0.")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"size {size}: expected {MIN_SIZE} to {MAX_SIZE} pixels.")
    if not 1 <= max_objects <= MAX_OBJECTS:
        raise InputError(f"max_objects {max_objects}: expected 1 to {MAX_OBJECTS}.")
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; give a folder for the scenes.")
    own = SceneLayout(root).classes
    if root.is_dir() and any(root.iterdir()) and not (own.is_file() and own.read_bytes() == _CLASSES.encode()):
        raise InputError(f"{root} holds other files; give an empty or new folder for the scenes.")


def _emoji_set(size: int, cache: str | os.PathLike[str] | None, workers: int, tell: Progress) -> Path:
    """The whole emoji set at `size`, built when it is not there: splits hang on all its drawings."""
    folder = Path(cache) if cache is not None else default_cache()
    packages = (
        emoji_sources.EMOJIBASE, emoji_sources.TWEMOJI, emoji_sources.OPENMOJI, emoji_sources.FLUENT, emoji_sources.NOTO,
        emoji_sources.NOTO_FLAGS,
    )  # fmt: skip
    pinned = hashlib.sha256("".join(package.sha256 for package in packages).encode()).hexdigest()[:8]
    target = folder / f"emoji-{size}-{pinned}"
    if not (target / "metadata.jsonl").is_file():
        build_emoji(target, size, cache=folder, workers=workers, progress=tell, num_pairs=0)
    return target


def _write(plan: _Plan, counts: Mapping[str, int], found: Sprites, workers: int, tell: Progress) -> list[Json]:
    layout = SceneLayout(plan.root)
    plan.root.mkdir(parents=True, exist_ok=True)
    _write_text(layout.classes, _CLASSES)  # first: by it a later call knows the folder as its own, and not someone's
    layout.metadata.unlink(missing_ok=True)  # the folder is not complete until it is written again
    for split in SPLITS:
        layout.instances(split).unlink(missing_ok=True)
        for kind in ("images", "maps"):
            _clear(plan.root / kind / split, counts[split])
    rows: list[Json] = []
    total = sum(counts.values())
    for split, number in counts.items():
        if number:
            made = []
            for row in _rows(plan, split, number, found, workers):
                made.append(row)
                tell("drawing scenes", len(rows) + len(made), total)
            _write_text(layout.instances(split), json.dumps(_coco(made, plan, split), ensure_ascii=False) + "\n")
            rows += made
    notice = resources.files("sfumato").joinpath("assets/NOTICE-emoji.md").read_text(encoding="utf-8")
    _write_text(plan.root / "NOTICE", notice)
    _write_text(layout.metadata, "".join(json.dumps(_public(row), ensure_ascii=False) + "\n" for row in rows))
    return rows


def _clear(folder: Path, count: int) -> None:
    """Take away the scenes of an earlier call that this one will not replace; a folder that stays empty, too."""
    if count:
        folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.png"):
        if re.fullmatch(r"\d{6}", path.stem) and not 1 <= int(path.stem) <= count:
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()) and not count:
        folder.rmdir()


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _rows(plan: _Plan, split: str, count: int, found: Sprites, workers: int) -> Iterator[Json]:
    """Draw and write the scenes of one split; their rows in order."""
    tasks = [(plan, split, first, min(first + _CHUNK, count + 1)) for first in range(1, count + 1, _CHUNK)]
    if workers <= 1 or len(tasks) < 2:
        painter = Painter(found, plan.size, plan.seed, plan.max_objects)
        for _, _, first, end in tasks:
            yield from (_draw(painter, plan.root, split, index) for index in range(first, end))
        return
    # spawn: a fork of a process that runs torch threads may hang
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for rows in pool.map(_draw_chunk, tasks):
            yield from rows


@lru_cache(maxsize=1)
def _painter(plan: _Plan) -> Painter:
    """Once a worker process."""
    return Painter(read_sprites(plan.sources), plan.size, plan.seed, plan.max_objects)


def _draw_chunk(task: tuple[_Plan, str, int, int]) -> list[Json]:
    plan, split, first, end = task
    return [_draw(_painter(plan), plan.root, split, index) for index in range(first, end)]


def _draw(painter: Painter, root: Path, split: str, index: int) -> Json:
    layout = SceneLayout(root)
    scene = painter.scene(split, index)
    Image.fromarray(scene.image).save(layout.image(split, index), "PNG")
    indexed = Image.fromarray(scene.map)
    indexed.putpalette(list(palette()))
    indexed.save(layout.map(split, index), "PNG")
    return _row(scene, layout, split, index)


def _row(scene: Scene, layout: SceneLayout, split: str, index: int) -> Json:
    things = scene.things
    return {
        "file_name": layout.image(split, index).relative_to(layout.root).as_posix(),
        "text": scene.captions.texts[0],
        "texts": list(scene.captions.texts),
        "split": split,
        "map": layout.map(split, index).relative_to(layout.root).as_posix(),
        "objects": {
            "bbox": [list(thing.box) for thing in things],
            "categories": [thing.drawing.category for thing in things],
            "names": [thing.drawing.noun for thing in things],
            "hexcodes": [thing.drawing.hexcode for thing in things],
            "styles": [thing.drawing.style for thing in things],
        },
        "relations": [asdict(relation) for relation in scene.relations],
        "said": [asdict(relation) for relation in scene.captions.said],
        "background": {"kind": scene.background.kind, "colour": scene.background.colour},
        "areas": [thing.area for thing in things],
    }


def _public(row: Json) -> Json:
    """The row without what only the COCO file has."""
    return {key: value for key, value in row.items() if key != "areas"}


def _coco(rows: list[Json], plan: _Plan, split: str) -> Json:
    annotations: list[Json] = []
    images = []
    for number, row in enumerate(rows, start=1):
        images.append({"id": number, "file_name": row["file_name"], "width": plan.size, "height": plan.size})
        for box, category, area in zip(row["objects"]["bbox"], row["objects"]["categories"], row["areas"], strict=True):
            own = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            annotations.append(own | {"bbox": box, "area": area, "iscrowd": 0, "segmentation": []})
    return {
        "info": {"description": f"sfumato emoji scenes, {split}, seed {plan.seed}"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(NAMES) if index],
    }


@lru_cache(maxsize=1)
def palette() -> tuple[int, ...]:
    """RGB of every class in turn, for maps: black is the background, hues are a golden angle apart, in three brightnesses."""
    colours = [0, 0, 0]
    for index in range(1, len(NAMES)):
        value, saturation = ((1.0, 0.75), (0.72, 0.9), (0.95, 0.4))[index % 3]
        red, green, blue = colorsys.hsv_to_rgb(index * 0.618033988749895 % 1, saturation, value)
        colours += [round(255 * red), round(255 * green), round(255 * blue)]
    return tuple(colours)
