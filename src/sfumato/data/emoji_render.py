"""SVG text -> square picture: resvg at k times the size, then the mean of each k x k block.

Averages are taken of colours multiplied by their alpha, so that soft edges meet the background without a halo,
and seams between abutting shapes fade. Each style is drawn at one scale (its own boxes leave different margins);
a drawing whose ink would come nearer to the border than `MARGIN` is shrunk and moved just enough.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sfumato.alpha import straight
from sfumato.errors import InputError, MachineError

# k; two for fluent-3d, whose many blurs cost by area and leave few hard edges
OVERSAMPLING = {"noto": 3, "twemoji": 3, "openmoji": 3, "fluent-3d": 2, "fluent-flat": 3}
MARGIN = 3 / 128
# Side of the style's view box over the side of the picture: chosen so that a face fills about 0.94 of it
# (openmoji: 0.8, because its figures reach further beyond the size of its faces).
SCALE = {"noto": 1.0, "twemoji": 0.953, "openmoji": 1.2, "fluent-3d": 1.07, "fluent-flat": 1.07}


@dataclass(frozen=True)
class Job:
    """One drawing to render; plain values, so that it can cross to a worker process.

    background: `white` for RGB, `transparent` for straight RGBA.
    """

    style: str
    hexcode: str
    svg: str
    size: int
    background: str


@dataclass(frozen=True)
class Rendered:
    """PNG file bytes, and the SHA-256 of the (H, W, 3) pixels of the picture laid on white.

    Pictures that are equal on white have equal digests, whatever `Job.background`: groups and splits hang on them.
    """

    style: str
    hexcode: str
    png: bytes
    digest: str


def render(job: Job) -> Rendered:
    """Draw one job. Raises `InputError` naming the drawing when resvg refuses it or draws nothing."""
    k = OVERSAMPLING[job.style]
    side = job.size * k
    limit = int(side * (1 - 2 * MARGIN))
    ink = _ink(_rasterize(job, round(side * SCALE[job.style])), job)
    longest = max(ink.shape[:2])
    if longest > limit:
        width = round(side * SCALE[job.style] * limit / longest) - 1
        ink = _ink(_rasterize(job, width), job)
    canvas = _place(ink, side)
    mean = canvas.reshape(job.size, k, job.size, k, 4).mean(axis=(1, 3))  # (H, W, 4) premultiplied
    white, alpha = _on_white(mean)
    pixels = white if job.background == "white" else _straight(white, alpha)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return Rendered(job.style, job.hexcode, stream.getvalue(), hashlib.sha256(white.tobytes()).hexdigest())


@dataclass(frozen=True)
class _Ink:
    """The part of a raster that is not empty, and the centre of its view box in the part's own pixels."""

    pixels: np.ndarray  # (h, w, 4) float32, premultiplied, 0...255
    centre: tuple[float, float]

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])


def _rasterize(job: Job, width: int) -> np.ndarray:
    """(h, w, 4) uint8; the longer side of the view box becomes `width` pixels."""
    try:
        import resvg_py
    except ImportError:
        raise MachineError("rendering SVG needs resvg: pip install 'sfumato[data]'") from None
    box = re.search(r'viewBox="\s*([-\d.e]+)[\s,]+([-\d.e]+)[\s,]+([\d.e]+)[\s,]+([\d.e]+)', job.svg)
    wide = box is None or float(box[3]) >= float(box[4])
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=job.svg, skip_system_fonts=True, width=width if wide else None, height=None if wide else width
        )
    except ValueError as error:
        raise InputError(f"{job.style} {job.hexcode}: resvg cannot draw it ({error})") from None
    return np.asarray(Image.open(io.BytesIO(bytes(png)), formats=["PNG"]).convert("RGBA"))


def _ink(raster: np.ndarray, job: Job) -> _Ink:
    alpha = raster[..., 3] > 4  # fainter than that is the tail of a blur
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not len(rows):
        raise InputError(f"{job.style} {job.hexcode}: the drawing is empty")
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    part = raster[top:bottom, left:right].astype(np.float32)
    part[..., :3] *= part[..., 3:] / 255
    return _Ink(part, (raster.shape[0] / 2 - top, raster.shape[1] / 2 - left))


def _place(ink: _Ink, side: int) -> np.ndarray:
    """(side, side, 4): the view box centred, moved only where ink would enter the margin."""
    canvas = np.zeros((side, side, 4), dtype=np.float32)
    margin = int(side * MARGIN)
    corner = []
    for axis in (0, 1):
        at = round(side / 2 - ink.centre[axis])
        corner.append(min(max(at, margin), side - margin - ink.shape[axis]))
    y, x = corner
    canvas[y : y + ink.shape[0], x : x + ink.shape[1]] = ink.pixels
    return canvas


def _on_white(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Premultiplied (H, W, 4), 0...255 -> uint8 (H, W, 3) laid on white, and alpha (H, W, 1).

    Alpha is rounded with the white that it lets through, so that no pixel on white is darker than its alpha allows.
    """
    colour, through = mean[..., :3], 255 - mean[..., 3:]
    white = np.clip(np.rint(colour + through), 0, 255).astype(np.uint8)
    return white, (255 - np.clip(np.rint(through), 0, 255)).astype(np.uint8)


def _straight(white: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 4) that gives `white` again, to the last bit, when it is laid on white."""
    pixels = np.concatenate([white, alpha], axis=-1).transpose(2, 0, 1)
    return np.ascontiguousarray(straight(pixels).transpose(1, 2, 0))
