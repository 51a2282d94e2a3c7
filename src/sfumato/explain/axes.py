"""A pair of axes in a figure: where numbers stand, ticks at round ones, lines and bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sfumato.explain.figure import INK, LINE, Box, Figure, Line, Text

MOST_TICKS = 6


@dataclass(frozen=True)
class Axes:
    """Inside a figure: the rectangle (left, top, width, height), and the numbers at its edges. y grows upwards."""

    figure: Figure
    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        """Where a number stands across."""
        low, high = self.x_range
        return self.left + self.width * (value - low) / (high - low)

    def y(self, value: float) -> float:
        """Where a number stands upwards, kept inside the rectangle."""
        low, high = self.y_range
        return self.top + self.height * (1 - min(max((value - low) / (high - low), 0.0), 1.0))

    def frame(
        self, x_name: str = "", y_name: str = "", *, size: int = 11, y_text: Callable[[float], str] = "{:g}".format
    ) -> None:
        """The two axes with ticks and names."""
        floor, right = self.top + self.height, self.left + self.width
        self.figure.lines.append(Line([(self.left, self.top), (self.left, floor), (right, floor)]))
        for value in ticks(*self.x_range):
            self.figure.texts.append(Text(self.x(value), floor + size + 4, f"{value:g}", "middle", size))
        for value in ticks(*self.y_range):
            self.figure.texts.append(Text(self.left - 5, self.y(value) + 4, y_text(value), "end", size))
        middle = self.left + self.width / 2
        if x_name:
            self.figure.texts.append(Text(middle, floor + 2 * size + 10, x_name, "middle", size + 1))
        if y_name:
            place = self.left - 5 - 4.2 * size
            self.figure.texts.append(Text(place, self.top + self.height / 2, y_name, "middle", size + 1, turned=True))

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str = LINE, width: float = 1.8) -> None:
        """A line through points."""
        points = [(self.x(x), self.y(y)) for x, y in zip(xs, ys, strict=True)]
        self.figure.lines.append(Line(points, colour, width))

    def bars(self, edges: Sequence[float], heights: Sequence[float], colour: str = LINE, gap: float = 0.0) -> None:
        """Bars from 0 (or the floor) between edges, one fewer than these."""
        floor = self.y(max(0.0, self.y_range[0]))
        for low, high, value in zip(edges, edges[1:], heights, strict=False):
            x, top = self.x(low) + gap / 2, self.y(value)
            self.figure.boxes.append(Box(x, top, self.x(high) - self.x(low) - gap, floor - top, colour))

    def say(self, x: float, y: float, words: str, anchor: str = "start", colour: str = INK, size: int = 11) -> None:
        """Words at shares (x, y) of the rectangle, from its upper left corner."""
        place = (self.left + x * self.width, self.top + y * self.height)
        self.figure.texts.append(Text(*place, words, anchor, size, colour))


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high."""
    step = tick_step(high - low)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def tick_step(width: float) -> float:
    """1, 2 or 5 times a power of ten, of which at most `MOST_TICKS` cover `width`."""
    if not (width > 0 and math.isfinite(width)):
        return 1.0
    power = 10.0 ** math.floor(math.log10(width / MOST_TICKS))
    return next(power * m for m in (1, 2, 5, 10) if power * m * MOST_TICKS >= width * (1 - 1e-9))
