"""Encoding and decoding of large pictures in overlapping tiles, in memory of one tile.

Neighbouring tiles share `overlap` pixels. Of those, `margin` at each inner border are thrown away, since convolutions padded
with zeros there, and over what is left in the middle the two are blended linearly,

    x = (1 - w) x_left + w x_right,   w from 0 to 1 across the blend.

Where a first stage sees no further than the margin, that is the untiled result. Group norms see the whole picture: their
statistics are measured over all tiles in `passes` passes of their own (`shared_norms`), after which all tiles are normalised
alike and neighbours agree. Attention sees its tile only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.first_stages.base import Decoder, FirstStage
from sfumato.generation.precision import guarded
from sfumato.generation.shared_norms import Core, SharedNorms
from sfumato.latent import Grid
from sfumato.posterior import DiagonalGaussian


@dataclass(frozen=True)
class Tiling:
    """When and how to tile, in pixels, rounded to the first stage's factor. Raises `InputError` when the sizes don't fit.

    largest: height x width up to which a picture is coded whole. tile: side of a tile. overlap: what neighbours share at
    least, up to a third of a tile. margin: of each side of the overlap, what is thrown away. passes: over all tiles before the
    one that counts, to measure group norms: 0 leaves each tile its own statistics, in half the time; 1 is the usual; as many
    as there are norms make all of them exact (in between, errors of early norms may grow in later ones).
    """

    largest: int = 1024 * 1024
    tile: int = 768
    overlap: int = 192
    margin: int = 32
    passes: int = 1

    def __post_init__(self) -> None:
        sizes = 0 <= 3 * self.overlap <= self.tile and 0 <= 2 * self.margin <= self.overlap and self.tile >= 1
        if not sizes or self.largest < 0 or self.passes < 0:
            raise InputError(
                f"tiling: got {self}, expected a tile of 1 or more, an overlap up to a third of it, a margin up to half of "
                "that, and none negative."
            )


TILING = Tiling()
"""The usual one: pictures of up to a megapixel, the sizes that published models were trained at, are coded whole."""


@dataclass(frozen=True)
class Span:
    """A tile on one axis: it is computed on [start, stop) and counts on [first, last), with ramps of `rise` and `fall`."""

    start: int
    stop: int
    first: int
    last: int
    rise: int
    fall: int

    def scaled(self, factor: int) -> Span:
        """The same in units `factor` times smaller."""
        return Span(*(factor * value for value in (self.start, self.stop, self.first, self.last, self.rise, self.fall)))

    @property
    def core(self) -> tuple[float, float]:
        """Begin and end, as fractions of the tile, of what is nearer to it than to its neighbours; cores partition the axis."""
        begin = self.first + self.rise // 2 - self.start
        end = self.last - self.fall + self.fall // 2 - self.start
        return begin / (self.stop - self.start), end / (self.stop - self.start)

    def weights(self, like: Tensor) -> Tensor:
        """(last - first,) weights: 1 where the tile is alone; with its neighbours' they add up to 1 everywhere."""
        weight = torch.ones(self.last - self.first, device=like.device, dtype=like.dtype)
        if self.rise:
            weight[: self.rise] = _ramp(self.rise, like)
        if self.fall:
            weight[-self.fall :] = 1 - _ramp(self.fall, like)
        return weight


def spans(length: int, tile: int, overlap: int, margin: int) -> list[Span]:
    """Tiles over [0, length), spread evenly, each but the only one `tile` long; neighbours share at least `overlap`.

    Two neighbours are blended over the `overlap - 2 margin` in the middle of what they share.
    """
    if length <= tile:
        return [Span(0, length, 0, length, 0, 0)]
    count = -(-(length - overlap) // (tile - overlap))  # rounded up
    starts = [i * (length - tile) // (count - 1) for i in range(count)]
    blend = overlap - 2 * margin
    seams = [(start + before + tile - blend) // 2 for before, start in pairwise(starts)]  # their begins
    result = []
    for i, start in enumerate(starts):
        first, rise = (seams[i - 1], blend) if i else (0, 0)
        last, fall = (seams[i] + blend, blend) if i < count - 1 else (length, 0)
        result.append(Span(start, start + tile, first, last, rise, fall))
    return result


def decode(first_stage: Decoder, z: Tensor, tiling: Tiling | None = TILING) -> Tensor:
    """(B, c, h, w) latents in unit scale -> (B, C, H, W) pixels, about [-1, 1], in tiles above `tiling.largest` pixels.

    None never tiles. A first stage in half precision is helped over its overflows (`precision.guarded`); the pixels are fp32.
    """

    def one(part: Tensor) -> Tensor:
        return guarded(first_stage, part, first_stage.decode)

    plan = _plan(first_stage, tiling, z.shape[-2:], pixels=False)
    return one(z) if plan is None else _tiled(first_stage, one, z, plan.latents, plan.pixels, plan.passes)


def encode(first_stage: FirstStage, x: Tensor, tiling: Tiling | None = TILING) -> DiagonalGaussian:
    """(B, C, H, W) pixels in [-1, 1] -> q(z | x) in unit scale, in tiles above `tiling.largest` pixels; None never tiles.

    Means and log-variances are blended alike. Half precision is helped as in `decode`.
    """

    def moments(part: Tensor) -> Tensor:
        found = first_stage.posterior(part)
        return found.mean if found.log_variance is None else torch.cat([found.mean, found.log_variance], dim=1)

    def one(part: Tensor) -> Tensor:
        return guarded(first_stage, part, moments)  # (B, c or 2 c, h, w)

    plan = _plan(first_stage, tiling, x.shape[-2:], pixels=True)
    found = one(x) if plan is None else _tiled(first_stage, one, x, plan.pixels, plan.latents, plan.passes)
    latent = first_stage.latent
    return DiagonalGaussian(*found.split(latent.channels if isinstance(latent, Grid) else found.shape[1], dim=1))


Axes = tuple[list[Span], list[Span]]
"""Tiles of the rows and of the columns."""


@dataclass(frozen=True)
class _Plan:
    latents: Axes
    pixels: Axes
    passes: int


def _plan(first_stage: Decoder, tiling: Tiling | None, size: torch.Size, pixels: bool) -> _Plan | None:
    """The tiles of a picture whose (height, width) in pixels or in latent units is `size`; None for coding it whole."""
    latent = getattr(first_stage, "latent", None)  # a decoder that names no grid is run whole
    if tiling is None or not isinstance(latent, Grid) or latent.factor == 1:
        return None
    factor = latent.factor
    height, width = (side // factor if pixels else side for side in size)
    if height * width * factor**2 <= tiling.largest:
        return None
    tile = max(3, tiling.tile // factor)
    overlap = min(-(-tiling.overlap // factor), tile // 3)
    margin = min(-(-tiling.margin // factor), overlap // 2)
    rows, columns = (spans(side, tile, overlap, margin) for side in (height, width))
    pixel_axes = [r.scaled(factor) for r in rows], [c.scaled(factor) for c in columns]
    return _Plan((rows, columns), pixel_axes, tiling.passes)


Code = Callable[[Tensor], Tensor]


def _tiled(first_stage: Decoder, code: Code, given: Tensor, inputs: Axes, outputs: Axes, passes: int) -> Tensor:
    """`code` of every tile of `given`, whose spans are `inputs`, blended on the spans `outputs`."""
    norms = SharedNorms(first_stage)
    try:
        for _ in range(passes if norms.norms else 0):
            for row, column in product(*inputs):
                with norms.measuring(Core(*row.core, *column.core)):
                    code(_cut(given, row, column))
            norms.share()
        return _blend(code, given, inputs, outputs)
    finally:
        norms.release()


def _blend(code: Code, given: Tensor, inputs: Axes, outputs: Axes) -> Tensor:
    result: Tensor | None = None
    for (row, column), (to_row, to_column) in zip(product(*inputs), product(*outputs), strict=True):
        part = code(_cut(given, row, column))
        if result is None:
            result = part.new_zeros(*part.shape[:-2], outputs[0][-1].last, outputs[1][-1].last)
        part = part[
            ...,
            to_row.first - to_row.start : to_row.last - to_row.start,
            to_column.first - to_column.start : to_column.last - to_column.start,
        ]
        part = part * (to_row.weights(part)[:, None] * to_column.weights(part))
        result[..., to_row.first : to_row.last, to_column.first : to_column.last] += part
    assert result is not None, "there is at least one tile"
    return result


def _cut(given: Tensor, row: Span, column: Span) -> Tensor:
    return given[..., row.start : row.stop, column.start : column.stop]


def _ramp(length: int, like: Tensor) -> Tensor:
    """`length` weights between 0 and 1, both excluded."""
    return (torch.arange(length, device=like.device, dtype=like.dtype) + 0.5) / length
