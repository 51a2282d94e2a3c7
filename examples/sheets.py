"""Labelled sheets of pictures, drawn with Pillow alone: what the scripts beside this file share.

A sheet is rows of tiles. A tile is one or more pictures, one above the other, with text under them; a row can have a heading
above it and a label at its left, columns can have names. Transparent pictures are laid on white.
"""

from __future__ import annotations

import argparse
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from torch import Tensor

GAP = 8  # between tiles
LINE = 15  # height of a line of small text
SMALL, LARGE = 12, 16
INK, GREY = "#1a1a1a", "#5a5a5a"
HEADING = 34


@dataclass(frozen=True)
class Tile:
    """Pictures of one size, one above the other (None: an empty place), and text under them."""

    pictures: Sequence[Image.Image | None]
    text: str = ""


@dataclass(frozen=True)
class Row:
    """Tiles side by side. heading: above the row. label: at its left."""

    tiles: Sequence[Tile]
    heading: str = ""
    label: str = ""


def sheet(rows: Sequence[Row], top: Sequence[str] = (), label_width: int = 96) -> Image.Image:
    """The rows on white. top: a name for every column."""
    assert rows, "a sheet has at least one row"
    assert all(row.tiles for row in rows), "a row has at least one tile"
    width, height = next(p.size for row in rows for tile in row.tiles for p in tile.pictures if p is not None)
    left = GAP + (label_width if any(row.label for row in rows) else 0)
    columns = max(len(row.tiles) for row in rows)
    names = [wrapped(name, width) for name in top]
    above = GAP + (max(map(len, names)) * LINE + 4 if names else 0)
    heights = [_height(row, height, width) for row in rows]
    page = Image.new("RGB", (left + columns * (width + GAP), above + sum(heights)), "white")
    draw = ImageDraw.Draw(page)
    for column, lines in enumerate(names):
        _text(draw, (left + column * (width + GAP) + width // 2, above - 4 - len(lines) * LINE), lines, SMALL, INK)
    y = above
    for row, tall in zip(rows, heights, strict=True):
        _row(page, draw, row, (left, y), (width, height))
        y += tall
    return page


def plain(pictures: Sequence[Image.Image], columns: int) -> list[Row]:
    """Rows of `columns` tiles without words."""
    tiles = [Tile([picture]) for picture in pictures]
    return [Row(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]


def _height(row: Row, height: int, width: int) -> int:
    lines = max(len(wrapped(tile.text, width)) for tile in row.tiles)
    stacked = max(len(tile.pictures) for tile in row.tiles)
    return (HEADING if row.heading else 0) + stacked * (height + 2) - 2 + (lines * LINE + 4 if lines else 0) + GAP


def _row(page: Image.Image, draw: ImageDraw.ImageDraw, row: Row, corner: tuple[int, int], size: tuple[int, int]) -> None:
    (left, y), (width, height) = corner, size
    if row.heading:
        draw.text((GAP, y + 8), readable(row.heading), fill=INK, font=ImageFont.load_default(LARGE))
        y += HEADING
    if row.label:
        lines = wrapped(row.label, left - 2 * GAP)
        stacked = max(len(tile.pictures) for tile in row.tiles)
        middle = y + (stacked * (height + 2) - len(lines) * LINE) // 2
        _text(draw, (left // 2, middle), lines, SMALL, INK)
    for column, tile in enumerate(row.tiles):
        x, below = left + column * (width + GAP), y
        for picture in tile.pictures:
            if picture is not None:
                page.paste(on_white(picture), (x, below))
            below += height + 2
        _text(draw, (x + width // 2, below + 1), wrapped(tile.text, width), SMALL, GREY)


def _text(draw: ImageDraw.ImageDraw, top: tuple[int, int], lines: Sequence[str], size: int, fill: str) -> None:
    """Centred lines under the point `top`."""
    font = ImageFont.load_default(size)
    for number, line in enumerate(lines):
        draw.text((top[0] - font.getlength(line) / 2, top[1] + number * LINE), line, fill=fill, font=font)


def wrapped(text: str, width: int, size: int = SMALL) -> list[str]:
    """Lines of at most `width` pixels; `text` may hold line breaks. A word that is too long stands on its own line."""
    font, lines = ImageFont.load_default(size), []
    for paragraph in readable(text).split("\n") if text else []:
        line = ""
        for word in paragraph.split():
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    return lines


def readable(text: str) -> str:
    """`text` in the letters that Pillow's own font has: accents are left away, anything else unknown is a question mark."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c in "\n\u2018\u2019\u201c\u201d" or c.isascii() else "?" for c in bare)


def on_white(image: Image.Image) -> Image.Image:
    """An RGB picture, transparency laid on white."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def picture(pixels: Tensor) -> Image.Image:
    """(C, H, W) uint8 with 1, 3 or 4 channels -> a picture."""
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def arguments(doc: str | None, data: bool | None = True) -> argparse.ArgumentParser:
    """The flags that all scripts have. data: whether the data set is needed (None: there is none to give)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    if data is not None:
        add("--data", type=Path, required=data, help="the data set: a folder of pictures or a tar shard")
    add("--model", default="emoji", help="a shipped model or a model directory (default: emoji)")
    add("--out", type=Path, required=True, help="the sheet, a .png; its text goes beside it (.txt)")
    add("--device", default="auto")
    add("--seed", type=int, default=0)
    return parser


def save(page: Image.Image, out: Path, text: str) -> None:
    """Write the sheet and its text beside it, and print the text."""
    out.parent.mkdir(parents=True, exist_ok=True)
    page.save(out, optimize=True)
    out.with_suffix(".txt").write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    print(text.rstrip("\n"))
