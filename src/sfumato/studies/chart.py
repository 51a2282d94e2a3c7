"""The page's figures as inline SVG, coloured by the page's own variables so that they read on dark and light."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sfumato.studies.results import Curve

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 20, 56
LETTER, LINE_HEIGHT, DOT = 8.2, 15, 6  # of a label, in the figure's own units
SPARK_WIDTH, SPARK_HEIGHT = 240, 56


@dataclass(frozen=True)
class Dot:
    """A point of the scatter with its name, and the interval of y where there is one. strong: drawn in the accent's colour."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from `low` to `high`, both above 0."""

    low: float
    high: float

    @staticmethod
    def over(values: Sequence[float]) -> Axis:
        """One that holds all of `values` with some air."""
        low, high = min(values), max(values)
        air = max(1.3, (high / low) ** 0.08)
        return Axis(low / air, high * air)

    def place(self, value: float) -> float:
        """From 0 at `low` to 1 at `high`."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten within; only the powers where they are many."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1.0,) if len(powers) > 4 else (1.0, 2.0, 5.0)
        return [m * 10.0**p for p in powers for m in steps if self.low <= m * 10.0**p <= self.high]


def scatter(dots: Sequence[Dot], x_label: str, y_label: str, y_mark: float | None = None, mark_name: str = "") -> str:
    """Both axes logarithmic; `y_mark` is a dashed line, such as what real pictures score. Empty for no dots."""
    dots = [dot for dot in dots if dot.x > 0 and dot.y > 0]
    if not dots:
        return ""
    ends = [v for dot in dots for v in (dot.low, dot.high) if v is not None and v > 0]
    x_axis = Axis.over([dot.x for dot in dots])
    y_axis = Axis.over([*(dot.y for dot in dots), *ends, *([y_mark] if y_mark else [])])

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x_axis.place(x)
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y_axis.place(y)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{y_label} over {x_label}")}">'
    ]
    parts += _grid(x_axis, y_axis, x_label, y_label)
    if y_mark:
        y = place(x_axis.low, y_mark)[1]
        parts.append(f'<path class="mark" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(WIDTH - RIGHT, y - 5, mark_name, "end", "faint"))
    taken = [_box(*place(dot.x, dot.y)) for dot in dots]
    for dot in dots:
        x, y = place(dot.x, dot.y)
        kind = "strong" if dot.strong else "plain"
        if dot.low and dot.high:
            top, bottom = (min(max(place(dot.x, v)[1], TOP), HEIGHT - BOTTOM) for v in (dot.high, dot.low))
            parts.append(f'<path class="{kind} whisker" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{DOT}"/>')
        parts.append(_label(dot.name, x, y, kind, taken))
    return "".join([*parts, "</svg>"])


def spark(curve: Curve) -> str:
    """A small line of a loss over its steps; logarithmic where all of it is above 0. Empty for fewer than two points."""
    points = [(step, value) for step, value in curve.points if math.isfinite(value)]
    if len(points) < 2:
        return ""
    logged = all(value > 0 for _, value in points)
    heights = [math.log(value) if logged else value for _, value in points]
    low, high = min(heights), max(heights)
    first, last = points[0][0], points[-1][0]
    places = [
        (
            (step - first) / max(1, last - first) * (SPARK_WIDTH - 4) + 2,
            SPARK_HEIGHT - 4 - (height - low) / ((high - low) or 1.0) * (SPARK_HEIGHT - 8),
        )
        for (step, _), height in zip(points, heights, strict=True)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    words = f"{curve.name} from {points[0][1]:.3g} at step {first} to {points[-1][1]:.3g} at step {last}"
    label = escape(words)
    return (
        f'<figure class="spark"><svg viewBox="0 0 {SPARK_WIDTH} {SPARK_HEIGHT}" role="img" aria-label="{label}">'
        f'<polyline points="{path}"/></svg><figcaption>{escape(curve.stage.replace("_", " "))}: {label}</figcaption></figure>'
    )


def _grid(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> list[str]:
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in x_axis.ticks():
        x = LEFT + (right - LEFT) * x_axis.place(value)
        parts += [f'<path class="grid" d="M{x:.1f} {TOP}V{floor}"/>', _text(x, floor + 18, f"{value:g}", "middle", "faint")]
    for value in y_axis.ticks():
        y = floor - (floor - TOP) * y_axis.place(value)
        parts += [f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>', _text(LEFT - 8, y + 4, f"{value:g}", "end", "faint")]
    middle = (TOP + floor) / 2
    parts.append(_text((LEFT + right) / 2, HEIGHT - 14, x_label, "middle", "faint"))
    turned = f'<text class="faint" transform="rotate(-90 16 {middle})" x="16" y="{middle}" text-anchor="middle">'
    return [*parts, f"{turned}{escape(y_label)}</text>"]


def _label(name: str, x: float, y: float, kind: str, taken: list[tuple[float, float, float, float]]) -> str:
    """The name beside its dot, above or below it where something is there already, with a line to it from further away."""
    wide, side = LETTER * len(name), DOT + 5
    chosen: tuple[float, float, str, float] = (x + side, y + 4, "start", x + side)
    for lift in (0, 1, -1, 2, -2, 3, -3, 4, -4):
        middle = y + 4 + lift * (LINE_HEIGHT + 1)
        places = [(x + side, middle, "start", x + side), (x - side, middle, "end", x - side - wide)]
        free = [place for place in places if _is_free(place, wide, taken)]
        if free:
            chosen = free[0]
            break
    left, baseline = chosen[3], chosen[1]
    taken.append((left, baseline - LINE_HEIGHT + 3, left + wide, baseline + 3))
    line = ""
    if abs(baseline - 4 - y) > 2 * LINE_HEIGHT:
        line = f'<path class="{kind} leader" d="M{x:.1f} {y:.1f}L{chosen[0]:.1f} {baseline - 4:.1f}"/>'
    return line + _text(chosen[0], baseline, name, chosen[2], kind)


def _is_free(place: tuple[float, float, str, float], wide: float, taken: Sequence[tuple[float, float, float, float]]) -> bool:
    box = (place[3], place[1] - LINE_HEIGHT + 3, place[3] + wide, place[1] + 3)
    inside = box[0] >= LEFT and box[2] <= WIDTH - 4 and box[1] >= 2 and box[3] <= HEIGHT - BOTTOM
    return inside and not any(_overlap(box, other) for other in taken)


def _box(x: float, y: float) -> tuple[float, float, float, float]:
    return (x - DOT, y - DOT, x + DOT, y + DOT)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text(x: float, y: float, words: str, anchor: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
