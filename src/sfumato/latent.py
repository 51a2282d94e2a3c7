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
        for name, side in (("height", height), ("width", width)):
            if side <= 0 or side % self.factor:
                raise InputError(f"{name} {side} is not a positive multiple of {self.factor}, the factor of this first stage.")
        return self.channels, height // self.factor, width // self.factor


@dataclass(frozen=True)
class Codes:
    """Discrete indices: a tuple of index grids, each given by its downsampling factor, over one vocabulary."""

    factors: tuple[int, ...]
    vocabulary: int


@dataclass(frozen=True)
class Vector:
    """A flat vector, as a GAN's noise."""

    dim: int


Latent = Grid | Codes | Vector
