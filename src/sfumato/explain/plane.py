"""The rate-distortion plane as a picture: an SVG file, which every browser and editor reads, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from sfumato.explain.axes import tick_step
from sfumato.explain.rate_distortion import Curve, Point

WIDTH, HEIGHT = 640, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 40, 56
INK, LINE, MARK = "#222", "#1f5fa8", "#c4422b"


def plane(curves: Sequence[tuple[str, Curve]], points: Sequence[Point], title: str) -> str:
    """The SVG text: RMSE (0 ... 255) over bits per value of the picture, a line for each named curve, a dot for each point."""
    across = [float(r) for _, one in curves for r in one.rate] + [point.rate for point in points]
    across += [one.lossless for _, one in curves if one.lossless is not None]
    up = [float(e) for _, one in curves for e in one.rmse] + [point.rmse for point in points]
    x_step, y_step = tick_step(max(across, default=0.0)), tick_step(max(up, default=0.0))
    x_max, y_max = (max(1, math.ceil(max(v, default=0.0) / s)) * s for v, s in ((across, x_step), (up, y_step)))

    def place(rate: float, rmse: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * rate / x_max
        return round(x, 2), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rmse / y_max, 2)

    parts = [_text(WIDTH / 2, 22, title, "middle", 15), *_axes(x_max, x_step, y_max, y_step)]
    for index, (name, one) in enumerate(curves):
        pairs = [place(float(r), float(e)) for r, e in zip(one.rate, one.rmse, strict=True)]
        if one.lossless is not None:
            pairs.append(place(one.lossless, 0.0))
        path = " ".join(f"{x},{y}" for x, y in pairs)
        dash = f' stroke-dasharray="{2 * index + 2} 3"' if index else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="2"{dash}/>')
        parts.append(_text(WIDTH - RIGHT, TOP + 14 + 18 * index, name, "end", 12, LINE))
    for point in points:
        x, y = place(point.rate, point.rmse)
        parts.append(f'<circle cx="{x}" cy="{y}" r="4.5" fill="{MARK}"/>')
        end = "end" if x > WIDTH / 2 else "start"
        parts.append(_text(x - 9 if end == "end" else x + 9, y - 7, point.name, end, 12, MARK))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *parts, "</svg>", ""])


def _axes(x_max: float, x_step: float, y_max: float, y_step: float) -> list[str]:
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [f'<path d="M{LEFT} {TOP}V{floor}H{right}" fill="none" stroke="{INK}"/>']
    for index in range(round(x_max / x_step) + 1):
        x = LEFT + (right - LEFT) * index * x_step / x_max
        parts.append(_text(x, floor + 18, f"{index * x_step:g}", "middle", 12))
    for index in range(round(y_max / y_step) + 1):
        y = floor - (floor - TOP) * index * y_step / y_max
        parts.append(_text(LEFT - 8, y + 4, f"{index * y_step:g}", "end", 12))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 14, "rate: bits per value of the picture", "middle", 13))
    middle = (TOP + floor) / 2
    turned = f'transform="rotate(-90 18 {middle})"'
    return [*parts, _text(18, middle, "distortion: RMSE on 0 ... 255", "middle", 13, INK, turned)]


def _text(x: float, y: float, words: str, anchor: str, size: int, colour: str = INK, more: str = "") -> str:
    place = f'x="{round(x, 2)}" y="{round(y, 2)}"'
    return f'<text {place} text-anchor="{anchor}" font-size="{size}" fill="{colour}" {more}>{escape(words)}</text>'
