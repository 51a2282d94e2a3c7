"""A sheet of pictures with words around it: rows with a name, columns with a head, cells with a caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from sfumato.explain.figure import FAINT, Figure, Picture, Text, cut

GAP, EDGE = 6, 10
CAPTION = 16
LETTER = 6.2  # units that a character of size 12 takes, about


@dataclass(frozen=True)
class Row:
    """Pictures side by side. captions: one under each, or none. smooth: between pixels when enlarged, or squares."""

    name: str
    pictures: Sequence[Image]
    captions: Sequence[str] = ()
    smooth: bool = True


@dataclass(frozen=True)
class Sheet:
    """A figure, and where its columns stand: the x of their middles."""

    figure: Figure
    middles: tuple[float, ...]


def sheet(
    rows: Sequence[Row], heads: Sequence[str] = (), title: str = "", side: float = 88, notes: Sequence[str] = ()
) -> Sheet:
    """Lay out rows of pictures, each `side` units wide; rows are named on the left, which takes as much room as they need."""
    columns = max(len(row.pictures) for row in rows)
    left = EDGE + (0 if not any(row.name for row in rows) else max(_width(row.name) for row in rows) + EDGE)
    width = left + columns * (side + GAP) - GAP + EDGE
    width = max(width, 2 * EDGE + _width(title) * 1.2, *(2 * EDGE + _width(note) for note in notes), 0)
    figure = Figure(width, 0)
    middles = tuple(left + side / 2 + i * (side + GAP) for i in range(columns))
    y: float = EDGE
    if title:
        figure.texts.append(Text(EDGE, y + 14, title, size=14))
        y += 28
    if heads:
        figure.texts += [Text(x, y + 11, head, "middle", 12) for x, head in zip(middles, heads, strict=False)]
        y += 18
    for row in rows:
        y += _row(figure, row, left, y, side)
    for note in notes:
        figure.texts.append(Text(EDGE, y + 10, note, size=11, colour=FAINT))
        y += 15
    figure.height = y + EDGE - GAP
    return Sheet(figure, middles)


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, the first and the last among them, evenly spread."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})


def _row(figure: Figure, row: Row, left: float, y: float, side: float) -> float:
    """Draws a row at y; returns the height it took."""
    heights = [side * image.height / image.width for image in row.pictures]
    tallest = max(heights)
    lines = row.name.split("\n")
    for index, words in enumerate(lines):
        place = y + tallest / 2 + 4 + 15 * (index - (len(lines) - 1) / 2)
        figure.texts.append(Text(EDGE, place, words, size=12 if index == 0 else 11))
    for index, (image, height) in enumerate(zip(row.pictures, heights, strict=True)):
        x = left + index * (side + GAP)
        figure.pictures.append(Picture(x, y, side, height, image, row.smooth))
    room = int(side / LETTER * 1.15)
    for index, caption in enumerate(row.captions):
        x = left + index * (side + GAP) + side / 2
        figure.texts.append(Text(x, y + tallest + 12, cut(caption, room), "middle", 11, FAINT))
    return tallest + GAP + (CAPTION if row.captions else 0)


def _width(words: str) -> float:
    return max((len(line) * LETTER for line in words.split("\n")), default=0.0)
