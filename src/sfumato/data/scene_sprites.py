"""The emoji that scenes are made of: drawings of the classes out of a built emoji set, kept decoded.

Sources are what `sfumato data emoji` writes (a folder), or a `.tar` shard of it or of a part of it. Splits are those of that
set, held to its rule: a drawing whose split is not what `emoji.hash_split` gives (or `excluded`) is refused.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sfumato.data.decode import DecodeError, Target, decode
from sfumato.data.emoji import hash_split
from sfumato.data.folder import Record, scan
from sfumato.data.scene_classes import find
from sfumato.errors import InputError, MachineError

SPLITS = ("train", "validation", "test")
FAINT = 16  # alpha up to which a pixel is not seen
SOLID = 128  # alpha from which a pixel belongs to the thing
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Drawing:
    """One emoji in one style. `category`: index of its class; `noun`: what captions call it."""

    category: int
    noun: str
    hexcode: str
    style: str
    record: Record


@dataclass(frozen=True)
class Sprite:
    """What is seen of a drawing. `image`: mode RGBa, colours multiplied by alpha; `ink`: its mean colour, 0...255."""

    image: Image.Image
    ink: tuple[float, float, float]


@dataclass(frozen=True)
class Sprites:
    """Drawings by split and class, each in an order that does not depend on how the sources were stored."""

    drawings: dict[str, dict[int, tuple[Drawing, ...]]]

    @property
    def counts(self) -> dict[str, int]:
        """Drawings a split."""
        return {split: sum(len(some) for some in classes.values()) for split, classes in self.drawings.items()}


def read_sprites(sources: Path) -> Sprites:
    """Find the drawings of the classes in `sources`, a folder or a `.tar` shard; no picture is opened.

    Raises `InputError` when it is no emoji set, or was split by another rule.
    """
    found: dict[str, dict[int, list[Drawing]]] = {split: defaultdict(list) for split in SPLITS}
    for record in scan(sources).records:
        hexcode, style = record.row.get("hexcode"), record.row.get("style")
        if not (isinstance(hexcode, str) and isinstance(style, str)) or "+" in hexcode or record.label is None:
            continue
        member = find(record.label, bool(record.row.get("tone")))
        if member is None or record.split == "excluded":
            continue
        if record.split != hash_split(hexcode, style):
            raise InputError(
                f"{sources}: {record.name} is marked {record.split}, and the held-out rule of emoji says "
                f"{hash_split(hexcode, style)}; build the set again with `sfumato data emoji`."
            )
        found[record.split][member[0]].append(Drawing(*member, hexcode, style, record))
    if not any(found.values()):
        raise InputError(
            f"{sources}: no emoji of a known class; give a folder that `sfumato data emoji` wrote, or a .tar of it."
        )
    ordered = {
        split: {index: tuple(sorted(classes[index], key=lambda d: (d.hexcode, d.style))) for index in sorted(classes)}
        for split, classes in found.items()
    }
    return Sprites(ordered)


def load(drawing: Drawing, size: int) -> Sprite:
    """Decode a drawing for scenes of side `size`. Raises `InputError` when it is smaller than that, or damaged."""
    try:
        pixels = decode(drawing.record.read(), drawing.record.name, Target(channels=4))  # (4, H, W): on white, alpha
    except DecodeError as error:
        raise InputError(f"{drawing.record.name}: {error.reason}; build the emoji again.") from None
    if max(pixels.shape[1:]) < size:
        raise InputError(
            f"{drawing.record.name} is {pixels.shape[2]}x{pixels.shape[1]}, too small for scenes of {size} pixels; "
            f"build the emoji with `sfumato data emoji DIR --size {size}`."
        )
    alpha = pixels[3].astype(np.int16)
    if not (alpha > FAINT).any() or (alpha == 255).all():
        raise InputError(f"{drawing.record.name}: no transparency; build the emoji with --background transparent.")
    ink = (pixels[:3].astype(np.int16) - (255 - alpha)).clip(0, 255)  # colour times alpha
    mean = 255 * ink.sum(axis=(1, 2)) / alpha.sum()
    planes = np.concatenate([ink, alpha[None]]).astype(np.uint8).transpose(1, 2, 0)  # (H, W, 4)
    rows, columns = np.flatnonzero((alpha > FAINT).any(axis=1)), np.flatnonzero((alpha > FAINT).any(axis=0))
    seen = np.ascontiguousarray(planes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    image = Image.frombytes("RGBa", (seen.shape[1], seen.shape[0]), seen.tobytes())
    return Sprite(image, (float(mean[0]), float(mean[1]), float(mean[2])))


def write_sprites(sprites: Sprites, file: Path) -> int:
    """Write the drawings as one `.tar` that `read_sprites` reads, as they are: all that scenes need. Returns its size in bytes.

    Scenes from it equal those from the whole set; the same drawings give the same bytes. Raises `MachineError` when it cannot
    be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(temporary, "w:", format=tarfile.PAX_FORMAT) as archive:
            for split, classes in sprites.drawings.items():
                for drawing in (drawing for some in classes.values() for drawing in some):
                    stem = f"{drawing.style}/{drawing.hexcode}"
                    side = {"text": drawing.noun, "hexcode": drawing.hexcode, "style": drawing.style, "split": split}
                    side |= {"label": drawing.record.label or "", "tone": drawing.record.row.get("tone", [])}
                    _add(archive, f"{stem}{Path(drawing.record.name).suffix}", drawing.record.read())
                    _add(archive, f"{stem}.json", json.dumps(side, ensure_ascii=False).encode())
        os.replace(temporary, file)
    except OSError as error:
        raise MachineError(f"cannot write {file}: {error.strerror or error}; free space or choose another place.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return file.stat().st_size


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
