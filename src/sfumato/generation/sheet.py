"""Contact sheets: many pictures as one, in a layout near a square."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sfumato.generation.output import SHEET_FORMATS, write_new

GAP = 2
LONGEST_ROW = 32
LARGEST = 8192  # pixels a side; larger sheets are scaled down


def columns_of(prompts: int, num: int) -> int:
    """Columns for `prompts` x `num` pictures: a row a prompt where both are several (and few), else near a square."""
    return num if prompts > 1 and 1 < num <= LONGEST_ROW else math.ceil(math.sqrt(prompts * num))


def make_sheet(pictures: Sequence[Image.Image], columns: int, largest: int = LARGEST) -> Image.Image:
    """Pictures of one size row by row on white, scaled down so that neither side exceeds `largest` pixels.

    Transparent pictures (RGBA) make a transparent sheet.
    """
    assert pictures, "a sheet has at least one picture"
    width, height = pictures[0].size
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    fits = [((largest + GAP) / count - GAP) / side for count, side in ((columns, width), (rows, height))]
    scale = min(1.0, *fits)
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    transparent = all(picture.mode == "RGBA" for picture in pictures)
    sheet = Image.new("RGBA", size, (255, 255, 255, 0)) if transparent else Image.new("RGB", size, "white")
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        tile = picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.BOX)
        corner = (column * (width + GAP), row * (height + GAP))
        sheet.paste(tile, corner)
    return sheet


def on_white(image: Image.Image) -> Image.Image:
    """A transparent picture laid on white; any other as it is."""
    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def save_sheet(sheet: Image.Image, path: Path, *, overwrite: bool = False) -> Path:
    """Write a sheet in the format that the suffix names (png, jpg, webp), atomically; returns its path.

    JPEG holds no transparency: a transparent sheet is on white there.
    """
    buffer = io.BytesIO()
    kind = SHEET_FORMATS[path.suffix.lower()]
    (on_white(sheet) if kind == "JPEG" else sheet).save(buffer, kind, quality=92)
    return write_new(path, buffer.getvalue(), overwrite=overwrite)
