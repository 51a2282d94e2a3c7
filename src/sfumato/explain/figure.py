"""Figures as plain parts (texts, lines, boxes, pictures) that are drawn as an SVG file or as pixels, without a library.

Lengths are in units of one SVG pixel, y goes down. The SVG keeps text as text, so that every script can be read; pixels are
drawn at `SCALE` a unit with Pillow's own font, which is Latin.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sfumato.generation.output import write_new
from sfumato.generation.sheet import on_white

FIGURE_FORMATS = {".svg": "SVG", ".png": "PNG", ".webp": "WEBP"}
INK, FAINT, LINE, MARK = "#222222", "#8a8a8a", "#1f5fa8", "#c4422b"
SCALE = 2  # pixels a unit
FILM_SCALE = 1.25  # of the many frames of a film
SMOOTH = 3  # shapes are drawn this much larger again, and averaged
FONT = "sans-serif"


@dataclass(frozen=True)
class Text:
    """Words on a baseline at (x, y); anchor start, middle or end; `turned` reads upwards."""

    x: float
    y: float
    words: str
    anchor: str = "start"
    size: int = 12
    colour: str = INK
    turned: bool = False


@dataclass(frozen=True)
class Line:
    """A line through points."""

    points: Sequence[tuple[float, float]]
    colour: str = INK
    width: float = 1.0


@dataclass(frozen=True)
class Box:
    """A filled rectangle with its upper left corner at (x, y)."""

    x: float
    y: float
    width: float
    height: float
    colour: str = LINE


@dataclass(frozen=True)
class Picture:
    """An image in a box; `smooth` between its pixels, or squares."""

    x: float
    y: float
    width: float
    height: float
    image: Image.Image
    smooth: bool = True


@dataclass
class Figure:
    """What is drawn, in this order whatever the order of parts: boxes, lines, pictures, texts."""

    width: float
    height: float
    boxes: list[Box] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def add(self, other: Figure, x: float = 0.0, y: float = 0.0) -> None:
        """Lay another figure on this one, moved by (x, y)."""
        self.boxes += [Box(b.x + x, b.y + y, b.width, b.height, b.colour) for b in other.boxes]
        self.lines += [Line([(px + x, py + y) for px, py in n.points], n.colour, n.width) for n in other.lines]
        self.pictures += [Picture(p.x + x, p.y + y, p.width, p.height, p.image, p.smooth) for p in other.pictures]
        self.texts += [Text(t.x + x, t.y + y, t.words, t.anchor, t.size, t.colour, t.turned) for t in other.texts]

    def svg(self) -> str:
        """The text of an SVG file."""
        size = f'viewBox="0 0 {_n(self.width)} {_n(self.height)}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}">'
        parts = [head, f'<rect width="{_n(self.width)}" height="{_n(self.height)}" fill="#fff"/>']
        parts += [f'<rect {_placed(b)} fill="{b.colour}"/>' for b in self.boxes]
        for line in self.lines:
            path = " ".join(f"{_n(x)},{_n(y)}" for x, y in line.points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="{_n(line.width)}"/>')
        for p in self.pictures:
            buffer = io.BytesIO()
            _fitting(p).save(buffer, "PNG", optimize=True)
            data = base64.b64encode(buffer.getvalue()).decode()
            how = "" if p.smooth else ' style="image-rendering:pixelated"'
            parts.append(f'<image {_placed(p)} preserveAspectRatio="none"{how} href="data:image/png;base64,{data}"/>')
        for t in self.texts:
            turn = f' transform="rotate(-90 {_n(t.x)} {_n(t.y)})"' if t.turned else ""
            look = f'text-anchor="{t.anchor}" font-size="{t.size}" fill="{t.colour}"{turn}'
            parts.append(f'<text x="{_n(t.x)}" y="{_n(t.y)}" {look}>{escape(printable(t.words))}</text>')
        return "\n".join([*parts, "</svg>", ""])

    def image(self, scale: float = SCALE) -> Image.Image:
        """RGB pixels, `scale` a unit."""
        size = (round(self.width * scale), round(self.height * scale))
        canvas = Image.new("RGB", (size[0] * SMOOTH, size[1] * SMOOTH), "white")
        draw, fine = ImageDraw.Draw(canvas), scale * SMOOTH
        for b in self.boxes:
            left, top, right, floor = (round(v * fine) for v in (b.x, b.y, b.x + b.width, b.y + b.height))
            if right > left and floor > top:
                draw.rectangle((left, top, right - 1, floor - 1), fill=b.colour)
        for line in self.lines:
            points = [(x * fine, y * fine) for x, y in line.points]
            draw.line(points, fill=line.colour, width=max(1, round(line.width * fine)), joint="curve")
        canvas = canvas.reduce(SMOOTH)
        for p in self.pictures:
            place = (round(p.width * scale), round(p.height * scale))
            how = Image.Resampling.LANCZOS if p.smooth else Image.Resampling.NEAREST
            canvas.paste(on_white(p.image).convert("RGB").resize(place, how), (round(p.x * scale), round(p.y * scale)))
        for t in self.texts:
            _write(canvas, t, scale)
        return canvas


def save_figure(figure: Figure, path: Path, *, overwrite: bool = False) -> Path:
    """Write a figure in the format that the suffix names (svg, png, webp), atomically; returns its path."""
    kind = FIGURE_FORMATS[path.suffix.lower()]
    if kind == "SVG":
        return write_new(path, figure.svg().encode("utf-8", "replace"), overwrite=overwrite)
    buffer = io.BytesIO()
    figure.image().save(buffer, kind, **({"quality": 88, "method": 6} if kind == "WEBP" else {"optimize": True}))
    return write_new(path, buffer.getvalue(), overwrite=overwrite)


def printable(words: str) -> str:
    """Words without what neither XML nor a font can show."""
    return "".join(c if c.isprintable() else " " for c in words)


def cut(words: str, longest: int) -> str:
    """Words of at most `longest` characters, with an ellipsis where something is lost."""
    return words if len(words) <= longest else words[: longest - 1] + "…"


def _fitting(picture: Picture) -> Image.Image:
    """Its image on white, with no more pixels than a sharp screen shows."""
    image, most = on_white(picture.image), (round(picture.width * SCALE), round(picture.height * SCALE))
    return image.resize(most, Image.Resampling.LANCZOS) if picture.smooth and image.width > most[0] else image


def _write(canvas: Image.Image, text: Text, scale: float) -> None:
    font = ImageFont.load_default(text.size * scale)
    words, anchor = printable(text.words), {"start": "ls", "middle": "ms", "end": "rs"}[text.anchor]
    if not text.turned:
        ImageDraw.Draw(canvas).text((text.x * scale, text.y * scale), words, text.colour, font, anchor)
        return
    length, height = round(font.getlength(words)) + 4, round(2 * text.size * scale)
    strip = Image.new("L", (length, height), 0)
    ImageDraw.Draw(strip).text((2, height / 2), words, 255, font, "ls")
    ink = strip.rotate(90, expand=True)  # its baseline is the column height / 2, its end is at the top
    share = {"start": 1.0, "middle": 0.5, "end": 0.0}[text.anchor]
    corner = (round(text.x * scale - height / 2), round(text.y * scale - length * share))
    canvas.paste(text.colour, corner, ink)


def _placed(part: Box | Picture) -> str:
    return f'x="{_n(part.x)}" y="{_n(part.y)}" width="{_n(part.width)}" height="{_n(part.height)}"'


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
