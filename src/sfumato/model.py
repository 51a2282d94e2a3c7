"""`LatentModel`: first stage x prior x conditioner, the one idea of this library.

train:    z ~ q(z | x),   L = prior.loss(z, conditioner(y))
sample:   z ~ p(z | y),   x = first_stage.decode(z)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.conditioners.base import Conditioner, Prepared, Scales
from sfumato.errors import InputError
from sfumato.first_stages.base import CodesFace, Decoder, FirstStage
from sfumato.latent import Codes, Grid, Vector
from sfumato.noise import NoiseSource
from sfumato.priors.base import Loss, Prior


class LatentModel(nn.Module):
    """A whole image generator. `image_size` is the (height, width) it was trained at, in pixels."""

    def __init__(
        self, first_stage: Decoder, prior: Prior[Any], conditioner: Conditioner[Any, Any], image_size: tuple[int, int]
    ):
        super().__init__()
        self.first_stage = first_stage
        self.prior = prior
        self.conditioner = conditioner
        self.image_size = image_size

    @property
    def space(self) -> Decoder:
        """The first stage as its prior sees it: itself, or its face of codes."""
        if not isinstance(self.prior.latent, Codes):
            return self.first_stage
        return self.encoder.codes()

    @property
    def encoder(self) -> FirstStage:
        """The first stage where it encodes. Raises `InputError` for a generator, to whose noise nothing leads back."""
        if not isinstance(self.first_stage, FirstStage):
            raise InputError("this model has no encoder: its first stage is a generator, and nothing leads back to its noise.")
        return self.first_stage

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of a picture of `height` x `width` pixels: (C, h, w) of a grid, (D,) of a vector, codes as `Codes.shape`.

        Raises `InputError` when a side does not fit.
        """
        match self.space.latent:
            case Grid() | Codes() as latent:
                return latent.shape(height, width)
            case Vector(dim):
                if (height, width) != self.image_size:
                    own = "x".join(map(str, self.image_size))
                    raise InputError(f"size: got {height}x{width}, and a generator draws its own {own} only.")
                return (dim,)

    def encode(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """(B, C, H, W) pixels in [-1, 1] -> a sample of q(z | x), in unit scale, or codes. Raises `InputError`: no encoder."""
        space = self.space
        if isinstance(space, CodesFace):
            return space.encode(x)
        return self.encoder.posterior(x).sample(rng)

    def decode(self, z: Tensor) -> Tensor:
        """Latents in unit scale, or codes -> (B, C, H, W) pixels, not clipped."""
        return self.space.decode(z)

    def loss(self, z: Tensor, prepared: Prepared, rng: torch.Generator | None = None) -> Loss:
        """Training loss of the prior and the conditioner together, for latents z and prepared inputs."""
        return self.prior.loss(z, self.conditioner(prepared), rng)

    @torch.no_grad()
    def sample(
        self, prepared: Prepared, settings: Any, noise: NoiseSource, guidance: Scales = 1.0, negative: Prepared | None = None
    ) -> Tensor:
        """Pictures (B, C, H, W) of the trained size, about [-1, 1], for prepared inputs (B, ...)."""
        twins = self.conditioner.twins(prepared, guidance, negative)
        shape: Sequence[int] = (len(prepared), *self.latent_shape(*self.image_size))
        return self.decode(self.prior.sample(shape, twins, settings, noise))
