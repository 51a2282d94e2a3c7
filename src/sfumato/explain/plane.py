"""The rate-distortion plane as a picture: an SVG file, which every browser and editor reads, without a plotting library.

Nothing is written between the lines, where another model's would cross it: names stand below, with their marks and numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

from sfumato.errors import InputError
from sfumato.explain.axes import ticks
from sfumato.explain.figure import printable
from sfumato.explain.rate_distortion import Curve, Point

WIDTH, HEIGHT = 760, 440
"""Of the figure above its legend."""
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 60, 62
ROW, SWATCH = 18, 26
GAP = 0.05  # of the axis, between its numbers
INK, FAINT = "#222", "#6e6e6e"
COLOURS = ("#1f5fa8", "#c4422b", "#2a8a4a", "#8a4fb0", "#c98a00", "#12919c", "#7a4a22", "#d0559b")
"""As many models as can be told apart."""


@dataclass(frozen=True)
class Series:
    """What is drawn in one colour, each with its line of the legend: curves, the second and later ones dashed; first stages,
    rings; latents under a prior, squares."""

    curves: Sequence[tuple[str, Curve]] = ()
    stages: Sequence[tuple[str, Point]] = ()
    priors: Sequence[tuple[str, Point]] = ()

    @property
    def points(self) -> list[Point]:
        """All of them."""
        return [point for _, point in (*self.stages, *self.priors)]


def plane(curves: Sequence[tuple[str, Curve]], points: Sequence[Point], title: str) -> str:
    """The SVG text of one model: RMSE (0 ... 255) over bits per value of the picture, a line for each named curve, a ring for
    each first stage. Raises `InputError` for numbers that are not finite."""
    return planes([Series(curves, [(f"{point.name}, {point.under}", point) for point in points])], title)


def planes(series: Sequence[Series], title: str, note: str = "", *, root: bool = False) -> str:
    """The same of several models, each in its colour. note: a line below the title. root: rates stand at their square roots,
    so that latents, which cost a tenth of what pixels do, have room beside these.

    Raises `InputError` for more models than there are colours, and for numbers that are not finite.
    """
    if len(series) > len(COLOURS):
        raise InputError(f"rate and distortion: got {len(series)} models, expected at most {len(COLOURS)} on a pair of axes.")
    scale, legend = _Scale.of(series, root), list[str]()
    lines, rings, squares = list[str](), list[str](), list[str]()

    def listed(swatch: Callable[[float], str], name: str, numbers: str) -> None:
        y = HEIGHT + ROW * len(legend)
        words = _text(24 + SWATCH + 10, y + 4, name, "start", 11) + _text(WIDTH - RIGHT, y + 4, numbers, "end", 11, FAINT)
        legend.append(swatch(y) + words)

    for one, colour in zip(series, COLOURS, strict=False):
        for index, (name, curve) in enumerate(one.curves):
            dash = f' stroke-dasharray="{2 * index + 2} 3"' if index else ""
            look = f'fill="none" stroke="{colour}" stroke-width="2"{dash}'
            lines.append(_line(curve, scale, look))
            listed(partial(_stroke, look), name, _ends(curve))
        for drawn, draw, key, named in (
            (rings, _ring, _ring_key, one.stages),
            (squares, _square, _square_key, one.priors),
        ):
            for name, point in named:
                drawn.append(draw(*scale.place(point.rate, point.rmse), colour))
                listed(partial(key, colour), name, f"{point.rate:.4f} bits, RMSE {point.rmse:.2f}")
    height = HEIGHT + ROW * len(legend)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    paper = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    words = [_text(WIDTH / 2, 24, title, "middle", 15), _text(WIDTH / 2, 44, note, "middle", 12, FAINT)]
    return "\n".join([head, paper, *words, *_axes(scale), *lines, *rings, *squares, *legend, "</svg>", ""])


def root_ticks(most: float) -> list[float]:
    """0 and 1, 2 or 5 times powers of ten up to `most`, whose square roots are not too near to one another."""
    if not (most > 0 and math.isfinite(most)):
        return [0.0]
    power, found = math.floor(math.log10(most)), list[float]()
    for value in (digit * 10.0**exponent for exponent in range(power, power - 6, -1) for digit in (5, 2, 1)):
        place = math.sqrt(value / most)
        if place <= 1 + 1e-9 and place > GAP and (not found or math.sqrt(found[-1] / most) - place > GAP):
            found.append(value)
    return [0.0, *reversed(found)]


@dataclass(frozen=True)
class _Scale:
    """The numbers at the right and at the top, a little above the largest; rates at their square roots, or as they are."""

    x_max: float
    y_max: float
    root: bool

    @staticmethod
    def of(series: Sequence[Series], root: bool) -> _Scale:
        curves, points = [curve for one in series for _, curve in one.curves], [p for one in series for p in one.points]
        across = [float(r) for one in curves for r in one.rate] + [point.rate for point in points]
        across += [one.lossless for one in curves if one.lossless is not None]
        up = [float(e) for one in curves for e in one.rmse] + [point.rmse for point in points]
        if not all(math.isfinite(value) for value in (*across, *up)):
            raise InputError(
                "rate and distortion: some rates or errors are not finite, and have no place on axes; look for the model that "
                "diverged in what is printed, and leave it out."
            )
        x_max, y_max = (1.03 * max(values, default=0.0) or 1.0 for values in (across, up))
        return _Scale(x_max, y_max, root)

    def place(self, rate: float, rmse: float) -> tuple[float, float]:
        """Where numbers stand."""
        share = max(0.0, rate / self.x_max)
        x = LEFT + (WIDTH - LEFT - RIGHT) * (math.sqrt(share) if self.root else share)
        return round(x, 2), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rmse / self.y_max, 2)


def _line(curve: Curve, scale: _Scale, look: str) -> str:
    pairs = [scale.place(float(r), float(e)) for r, e in zip(curve.rate, curve.rmse, strict=True)]
    if curve.lossless is not None:
        pairs.append(scale.place(curve.lossless, 0.0))
    path = " ".join(f"{x},{y}" for x, y in pairs)
    return f'<polyline points="{path}" {look}/>'


def _ring(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x}" cy="{y}" r="6" fill="none" stroke="{colour}" stroke-width="2.4"/>'


def _square(x: float, y: float, colour: str) -> str:
    return f'<rect x="{x - 3.5:.2f}" y="{y - 3.5:.2f}" width="7" height="7" fill="{colour}"/>'


def _stroke(look: str, y: float) -> str:
    return f'<path d="M24 {y}h{SWATCH}" {look}/>'


def _ring_key(colour: str, y: float) -> str:
    """A round-cornered box: circles are data."""
    place = f'x="{24 + SWATCH / 2 - 5}" y="{y - 5}" width="10" height="10"'
    return f'<rect {place} rx="5" fill="none" stroke="{colour}" stroke-width="2.4"/>'


def _square_key(colour: str, y: float) -> str:
    return _square(24 + SWATCH / 2, y, colour)


def _ends(curve: Curve) -> str:
    if curve.lossless is not None:
        return f"lossless at {curve.lossless:.4f} bits"
    return f"to {float(curve.rate[-1]):.4f} bits, RMSE {float(curve.rmse[-1]):.2f}"


def _axes(scale: _Scale) -> list[str]:
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [f'<path d="M{LEFT} {TOP}V{floor}H{right}" fill="none" stroke="{INK}"/>']
    for value in root_ticks(scale.x_max) if scale.root else ticks(0.0, scale.x_max):
        x, _ = scale.place(value, 0.0)
        parts += [f'<path d="M{x} {floor}v5" stroke="{INK}"/>', _text(x, floor + 19, f"{value:g}", "middle", 12)]
    for value in ticks(0.0, scale.y_max):
        _, y = scale.place(0.0, value)
        parts += [f'<path d="M{LEFT - 5} {y}h5" stroke="{INK}"/>', _text(LEFT - 9, y + 4, f"{value:g}", "end", 12)]
    name = "rate: bits per dimension of the picture" + (" (square-root scale)" if scale.root else "")
    parts.append(_text((LEFT + right) / 2, floor + 40, name, "middle", 13))
    middle = (TOP + floor) / 2
    turned = f'transform="rotate(-90 18 {middle})"'
    return [*parts, _text(18, middle, "distortion: RMSE on 0 ... 255", "middle", 13, INK, turned)]


def _text(x: float, y: float, words: str, anchor: str, size: int, colour: str = INK, more: str = "") -> str:
    place = f'x="{round(x, 2)}" y="{round(y, 2)}"'
    return f'<text {place} text-anchor="{anchor}" font-size="{size}" fill="{colour}" {more}>{escape(printable(words))}</text>'
