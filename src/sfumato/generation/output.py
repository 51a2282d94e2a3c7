"""Where pictures go: names that are free, files that are whole or not there.

A file is written beside its place, flushed to the disk (fsync) and then linked or renamed into place, so that neither a
full disk nor a kill leaves half a picture, and two runs never overwrite each other's.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sfumato.errors import InputError
from sfumato.generation.limits import shorten
from sfumato.generation.metadata import png_info
from sfumato.generation.request import Picture
from sfumato.io.files import fsync, machine_errors

SHEET_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SLUG = 48  # characters of the prompt that a file's name repeats


@dataclass(frozen=True)
class Destination:
    """What `--out` means: the directory, and the file's stem where the user named one file.

    label: what files are named after where the user named none; None for the prompt.
    """

    directory: Path
    stem: str | None = None
    overwrite: bool = False
    label: str | None = None

    def place(self, picture: Picture, count: int) -> Path:
        """The path of one of `count` pictures, which may be taken."""
        if self.stem is None:
            return self.directory / f"{slug(self.label or picture.prompt)}-{picture.seed}.png"
        return self.directory / (f"{self.stem}.png" if count == 1 else f"{self.stem}-{picture.seed}.png")

    def save(self, image: Image.Image, picture: Picture, count: int) -> Path:
        """Write a picture with its parameters; returns its path. A taken name gets a number, unless `overwrite`."""
        return save_picture(image, self.place(picture, count), overwrite=self.overwrite)


def destination(out: str | None, overwrite: bool = False) -> Destination:
    """Read `--out`: a name that ends in .png is a file, anything else a directory, which is made when needed.

    Raises `InputError` when the file exists and may not be overwritten, or the place cannot be one.
    """
    if out is None:
        return Destination(Path(), None, overwrite)
    path = checked_path("out", out)
    if path.is_dir() or not path.suffix:
        if path.exists() and not path.is_dir():
            raise InputError(f"out: {shorten(out)} is a file and no directory; give a name that ends in .png, or a directory.")
        return Destination(path, None, overwrite)
    if path.suffix.lower() != ".png":
        raise InputError(f"out: got {shorten(out)}, expected a name that ends in .png, or a directory.")
    check_free("out", path, overwrite)
    return Destination(path.parent, path.stem, overwrite)


def checked_path(name: str, text: str) -> Path:
    """`text` as a path that the file system can hold; raises `InputError`."""
    if not text or "\0" in text:
        raise InputError(f"{name}: got {shorten(text)}, expected the path of a file or directory.")
    path = Path(text)
    try:
        path.exists()
        inside_file = next((p for p in path.parents if p.exists() and not p.is_dir()), None)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: got {shorten(text)}, which is no possible path ({error.__class__.__name__}).") from None
    if inside_file is not None:
        raise InputError(f"{name}: got {shorten(text)}, but {shorten(str(inside_file))} is a file, not a directory.")
    return path


def checked_file(name: str, text: str, suffixes: dict[str, str], overwrite: bool) -> Path:
    """The path of a file to write whose suffix says its format; raises `InputError`."""
    path = checked_path(name, text)
    if path.suffix.lower() not in suffixes or path.is_dir():
        raise InputError(f"{name}: got {shorten(text)}, expected a file name that ends in {', '.join(suffixes)}.")
    check_free(name, path, overwrite)
    return path


def check_free(name: str, path: Path, overwrite: bool) -> None:
    """Raise `InputError` when `path` is taken and may not be overwritten."""
    if path.exists() and not overwrite:
        raise InputError(f"{name}: {shorten(str(path))} exists; choose another name, or add --overwrite.")


def slug(prompt: str) -> str:
    """A short file name from a prompt: letters and digits of any script, joined by hyphens."""
    name = re.sub(r"[\W_]+", "-", prompt[: 4 * SLUG].casefold()).strip("-")[:SLUG]
    while len(name.encode()) > 2 * SLUG:  # file systems count bytes
        name = name[:-1]
    return name.strip("-") or "picture"


def save_picture(image: Image.Image, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a PNG with the parameters that `image.info` holds, atomically; returns the path that it got.

    Without `overwrite` a taken name gets -2, -3, ... appended. Raises `MachineError` when the disk is full or not writable.
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=png_info(image.info))
    return write_new(Path(path), buffer.getvalue(), overwrite=overwrite)


def write_new(path: Path, data: bytes, *, overwrite: bool = False) -> Path:
    """Write a whole file at `path`, or at the next free name; returns the name that it got."""
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    with machine_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                os.replace(temporary, path)
            else:
                path = next(name for name in _names(path) if _claim(temporary, name))
        finally:
            temporary.unlink(missing_ok=True)
        fsync(path.parent)
    return path


def _names(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1


def _claim(temporary: Path, path: Path) -> bool:
    """Give `temporary` the name `path` unless that is taken. A hard link fails when it is, in one step."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links (FAT, some network shares): check, then rename
        if path.exists():
            return False
        os.rename(temporary, path)
    return True
