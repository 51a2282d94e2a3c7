"""The comparison as one PNG: a row for each family, the best above, its first samples beside its numbers."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sfumato.io.files import write_bytes
from sfumato.studies.findings import millions, number, ranked
from sfumato.studies.results import SAMPLES, Result

OVERVIEW = "compare.png"
WIDTH, ROW, TEXT, MARGIN = 1200, 170, 340, 24
HEAD = 100
INK, FAINT, PAPER, ACCENT = "#1d2025", "#5d6673", "#fbfbfa", "#b5472b"
ACROSS, LINES, SHEET = 12, 2, 8
"""Samples of a row, and those of a line of their sheet."""


def write_overview(results: Sequence[Result], out: Path, conditions: str) -> Path:
    """OUT/compare.png. Returns its path."""
    done = [r for r in results if r.done]
    order = [*ranked(done), *(r for r in done if "fd" not in r.scores), *(r for r in results if not r.done)]
    page = Image.new("RGB", (WIDTH, HEAD + ROW * max(1, len(order)) + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, 18), "The family tree side by side", INK, _font(26))
    lines = _wrapped(draw, conditions, WIDTH - 2 * MARGIN, _font(14))
    draw.text((MARGIN, 54), lines, FAINT, _font(14))
    for index, result in enumerate(order):
        top = HEAD + 12 + index * ROW
        draw.line([(MARGIN, top - 8), (WIDTH - MARGIN, top - 8)], "#d9dde3")
        draw.text((MARGIN, top), _plain(result.title), ACCENT if result.latent else INK, _font(19))
        text = _wrapped(draw, _numbers(result), TEXT - 2 * MARGIN, _font(14))
        draw.multiline_text((MARGIN, top + 28), text, FAINT, _font(14), spacing=5)
        strip = _strip(out / result.family / SAMPLES)
        if strip is not None:
            page.paste(strip, (TEXT, top))
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    write_bytes(out / OVERVIEW, buffer.getvalue())
    return out / OVERVIEW


def _numbers(result: Result) -> str:
    if not result.done:
        return f"{result.status}: {result.reason[:160]}"
    scores = result.scores
    lines = []
    if "fd" in scores:
        lines.append(f"Fréchet distance {number(scores['fd'].value)}")
    if "precision" in scores:
        lines.append(f"precision {number(scores['precision'].value)}, recall {number(scores['recall'].value)}")
    if "bits" in scores:
        kind = "at most " if result.bits_kind == "bound" else ""
        lines.append(f"{kind}{number(scores['bits'].value)} bits per dimension")
    if result.seconds_per_sample is not None:
        lines.append(f"{number(result.seconds_per_sample)} s a sample, {millions(result.num_parameters)} parameters")
    return "\n".join(lines)


def first_samples(path: Path, count: int) -> list[Image.Image]:
    """At most `count` of a family's sheet of samples, which has eight a row, with gaps of two; none where there is no sheet."""
    if not path.is_file():
        return []
    with Image.open(path, formats=["PNG"]) as image:
        sheet = image.convert("RGB")
    side = (sheet.width - 2) // SHEET - 2
    corners = [(2 + (i % SHEET) * (side + 2), 2 + (i // SHEET) * (side + 2)) for i in range(count)]
    return [sheet.crop((x, y, x + side, y + side)) for x, y in corners if y + side <= sheet.height]


def _strip(path: Path) -> Image.Image | None:
    """The first samples of a sheet in two lines, enlarged without blur."""
    cells = first_samples(path, ACROSS * LINES)
    if not cells:
        return None
    side, size = cells[0].width, min((WIDTH - TEXT - MARGIN) // ACROSS, (ROW - 20) // LINES) - 4
    scale = max(1, size // side)
    shown = side * scale if scale * side <= size else size
    method = Image.Resampling.NEAREST if scale > 1 or shown == side else Image.Resampling.BOX
    strip = Image.new("RGB", ((shown + 4) * ACROSS, (shown + 4) * LINES), PAPER)
    for index, cell in enumerate(cells):
        strip.paste(cell.resize((shown, shown), method), ((index % ACROSS) * (shown + 4), (index // ACROSS) * (shown + 4)))
    return strip


def _plain(text: str) -> str:
    """Letters that Pillow's own font has."""
    told = unicodedata.normalize("NFKD", text.replace("×", "x").replace("≤", "at most ").replace("−", "-"))
    return told.encode("ascii", "ignore").decode()


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrapped(draw: ImageDraw.ImageDraw, text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Line breaks where a line would be wider than `width`."""
    lines = []
    for line in _plain(text).split("\n"):
        now = ""
        for word in line.split():
            longer = f"{now} {word}".strip()
            if now and draw.textlength(longer, font) > width:
                lines.append(now)
                longer = word
            now = longer
        lines.append(now)
    return "\n".join(lines)
