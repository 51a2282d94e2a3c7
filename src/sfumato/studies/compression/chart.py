"""Lines over a plane as an SVG text: no plotting library is needed to see a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 680, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 96, 40, 56
NAME = 8
"""From the end of a line to its name."""
INK, FAINT = "#222", "#ddd"
HALO = 'stroke="#fff" stroke-width="3" paint-order="stroke"'
COLOURS = ("#1f5fa8", "#c4422b", "#2f8f5b", "#8a4fa3", "#b8860b", "#3a9aa8", "#555", "#d1679b")


@dataclass(frozen=True)
class Dot:
    """A point of a line, with the interval of y where there is one; `label` is written beside it where there is room."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Line:
    """Dots in order under one name."""

    name: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Axis:
    """A logarithmic or linear axis; all values of a logarithmic one are above 0."""

    words: str
    log: bool = False


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    log: bool
    start: float
    end: float

    def __call__(self, value: float) -> float:
        low, high, at = (_log(v) if self.log else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low)
        return round(self.start + (self.end - self.start) * min(max(share, 0.0), 1.0), 2)


def chart(title: str, lines: Sequence[Line], across: Axis, up: Axis, level: tuple[str, float] | None = None) -> str:
    """The figure as SVG. level: a name and a value of y that is drawn as a dashed line, such as that of real pictures."""
    dots = [dot for line in lines for dot in line.dots]
    heights = [v for dot in dots for v in (dot.y, dot.low, dot.high) if v is not None]
    heights += [level[1]] if level else []
    x = _scale([dot.x for dot in dots], across.log, LEFT, WIDTH - RIGHT)
    y = _scale(heights, up.log, HEIGHT - BOTTOM, TOP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    parts = [head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', _text(WIDTH / 2, 22, title, "middle", 15)]
    parts += _grid(x, y, across.words, up.words)
    if level is not None:
        at = y(level[1])
        parts.append(f'<path d="M{LEFT} {at}H{WIDTH - RIGHT}" stroke="{INK}" stroke-dasharray="4 4"/>')
        parts.append(_text(WIDTH - RIGHT + 6, at + 4, level[0], "start", 11))
    drawn = [line for line in lines if line.dots]
    names = _apart([y(line.dots[-1].y) for line in drawn])
    room = _Room([_box(x(line.dots[-1].x) + NAME, at + 4, line.name, 12) for line, at in zip(drawn, names, strict=True)])
    for index, line in enumerate(drawn):
        parts += _line(line, x, y, COLOURS[index % len(COLOURS)])
    for index, line in enumerate(drawn):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(_text(x(line.dots[-1].x) + NAME, names[index] + 4, line.name, "start", 12, colour, HALO))
        parts += _labels(line, x, y, colour, room)
    return "\n".join([*parts, "</svg>", ""])


def _line(line: Line, x: _Scale, y: _Scale, colour: str) -> list[str]:
    path = " ".join(f"{x(dot.x)},{y(dot.y)}" for dot in line.dots)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for dot in line.dots:
        if dot.low is not None and dot.high is not None:
            parts.append(f'<path d="M{x(dot.x)} {y(dot.low)}V{y(dot.high)}" stroke="{colour}" stroke-width="1"/>')
        parts.append(f'<circle cx="{x(dot.x)}" cy="{y(dot.y)}" r="3.5" fill="{colour}"/>')
    return parts


def _labels(line: Line, x: _Scale, y: _Scale, colour: str, room: _Room) -> list[str]:
    """Those of the ends first, then those between; each above its dot, or else below, or not at all."""
    order = dict.fromkeys([line.dots[0], line.dots[-1], *line.dots])
    parts = []
    for dot in (one for one in order if one.label):
        for down in (-6, 14):
            at = (x(dot.x) + 5, y(dot.y) + down)
            if room.takes(_box(*at, dot.label, 10)):
                parts.append(_text(*at, dot.label, "start", 10, colour, HALO))
                break
    return parts


class _Room:
    """Where text lies already: boxes of left, top, right, floor."""

    def __init__(self, boxes: list[tuple[float, float, float, float]]):
        self.boxes = boxes

    def takes(self, box: tuple[float, float, float, float]) -> bool:
        """Whether the box lies on no other, and keeps its place then."""
        left, top, right, floor = box
        if any(left < c and a < right and top < d and b < floor for a, b, c, d in self.boxes):
            return False
        self.boxes.append(box)
        return True


def _box(x: float, y: float, words: str, size: int) -> tuple[float, float, float, float]:
    return x, y - 0.8 * size, x + 0.6 * size * len(words), y


def _grid(x: _Scale, y: _Scale, across: str, up: str) -> list[str]:
    floor, parts = HEIGHT - BOTTOM, []
    for value in _ticks(x):
        parts.append(f'<path d="M{x(value)} {TOP}V{floor}" stroke="{FAINT}"/>')
        parts.append(_text(x(value), floor + 18, f"{value:g}", "middle", 11))
    for value in _ticks(y):
        parts.append(f'<path d="M{LEFT} {y(value)}H{WIDTH - RIGHT}" stroke="{FAINT}"/>')
        parts.append(_text(LEFT - 6, y(value) + 4, f"{value:g}", "end", 11))
    parts.append(f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}" fill="none" stroke="{INK}"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, across, "middle", 13))
    middle = (TOP + floor) / 2
    return [*parts, _text(18, middle, up, "middle", 13, INK, f'transform="rotate(-90 18 {middle})"')]


def _scale(values: Sequence[float], log: bool, start: float, end: float) -> _Scale:
    low, high = min(values, default=1.0), max(values, default=2.0)
    if log:
        low, high = low / 1.15, high * 1.15
    else:
        low, high = 0.0, (high or 1.0) * 1.05
    return _Scale(low, high, log, start, end)


def _ticks(scale: _Scale) -> list[float]:
    """Round numbers inside the scale: a linear one has at most eight, a logarithmic one 1, 2, 5 of each power of ten."""
    if not scale.log:
        power = 10.0 ** math.floor(math.log10(scale.high / 8))
        step = next(power * m for m in (1, 2, 5, 10) if power * m * 8 >= scale.high)
        return [round(step * i, 12) for i in range(int(scale.high / step) + 1)]
    powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    many = len(powers) > 4
    found = [m * 10.0**p for p in powers for m in ((1,) if many else (1, 2, 5))]
    return [round(v, 12) for v in found if scale.low <= v <= scale.high]


def _apart(heights: Sequence[float], gap: float = 14.0) -> list[float]:
    """The heights moved down as far as it takes for names not to lie on each other, in the same order."""
    moved, last = list(heights), -math.inf
    for index in sorted(range(len(heights)), key=lambda i: heights[i]):
        moved[index] = last = max(heights[index], last + gap)
    return moved


def _log(value: float) -> float:
    return math.log(max(value, 1e-12))


def _text(x: float, y: float, words: str, anchor: str, size: int, colour: str = INK, more: str = "") -> str:
    place = f'x="{round(x, 2)}" y="{round(y, 2)}"'
    return f'<text {place} text-anchor="{anchor}" font-size="{size}" fill="{colour}" {more}>{escape(words)}</text>'
