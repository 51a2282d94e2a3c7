"""What a latent is: the shape of the space that a first stage opens and a prior lives in."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.errors import InputError


@dataclass(frozen=True)
class Grid:
    """A continuous feature map: (channels, H / factor, W / factor)."""

    channels: int
    factor: int

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Latent shape (C, h, w) of a picture of `height` x `width` pixels.

        Raises `InputError` when a side is not a positive multiple of the factor.
        """
        return self.channels, *_sides(height, width, self.factor)


@dataclass(frozen=True)
class Codes:
    """Discrete indices: a tuple of index grids, each given by its downsampling factor, over one vocabulary.

    channels: codes at each place, as the red, green and blue of 8-bit pixels; a codebook gives one.
    """

    factors: tuple[int, ...]
    vocabulary: int
    channels: int = 1

    def shapes(self, height: int, width: int) -> tuple[tuple[int, int, int], ...]:
        """(C, h, w) of each grid of a picture of `height` x `width` pixels, in the order of `factors`.

        Raises `InputError` when a side is not a positive multiple of a factor.
        """
        return tuple((self.channels, *_sides(height, width, factor)) for factor in self.factors)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """(h, w) of one picture's codes, or (C, h, w) where a place has several: of the one tensor that holds all grids.

        h and w are those of the first, coarsest grid; at each place stand its codes, then those of each finer grid there, as
        `sfumato.networks.raster.pack` puts them. Raises `InputError` where a grid is no whole number of times as fine as the
        first, or a side does not fit.
        """
        first, *finer = self.factors
        for factor in finer:
            if first % factor:
                raise InputError(f"code factors {list(self.factors)}: expected the coarsest first, a multiple of the others.")
        places = self.shapes(height, width)[0][1:]
        codes = sum(self.channels * (first // factor) ** 2 for factor in self.factors)
        return places if codes == 1 else (codes, *places)


@dataclass(frozen=True)
class Vector:
    """A flat vector, as a GAN's noise."""

    dim: int


Latent = Grid | Codes | Vector


def _sides(height: int, width: int, factor: int) -> tuple[int, int]:
    for name, side in (("height", height), ("width", width)):
        if side <= 0 or side % factor:
            raise InputError(f"{name} {side} is not a positive multiple of {factor}, the factor of this first stage.")
    return height // factor, width // factor
