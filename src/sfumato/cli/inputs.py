"""Reading the files that tasks begin with: pictures of any origin, masks, maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import InputError
from sfumato.generation.limits import shorten
from sfumato.generation.output import checked_path

if TYPE_CHECKING:
    from PIL.Image import Image


def read_picture(name: str, text: str, keep_profile: bool = False) -> Image:
    """A picture file, upright in sRGB: mode L, RGB or RGBA with its own bytes. Raises `InputError` that names the argument.

    keep_profile: in its own colours, with the profile.
    """
    from sfumato.data.decode import open_picture

    return open_picture(_bytes(name, text), _shown(name, text), keep_profile=keep_profile)


def read_map(name: str, text: str) -> Image:
    """A map file as it is stored: its values are numbers of classes, so no profile or orientation applies."""
    from sfumato.data.decode import DecodeError, open_header

    image = open_header(_bytes(name, text), _shown(name, text))
    try:
        image.load()
    except Exception as error:  # a decoder met bytes that its author did not think of: any type can come
        raise DecodeError(_shown(name, text), f"damaged or truncated ({type(error).__name__})") from None
    return image


def _bytes(name: str, text: str) -> bytes:
    from sfumato.data.folder import Record

    path = checked_path(name, text)
    if path.is_dir():
        raise InputError(f"{name}: got {shorten(text)}, which is a directory, expected a file.")
    if not path.exists():
        raise InputError(f"{_shown(name, text)}: the file is not there; give the path of a picture.")
    return Record(path, _shown(name, text)).read()


def _shown(name: str, text: str) -> str:
    return f"{name}: {shorten(Path(text).name)}"
