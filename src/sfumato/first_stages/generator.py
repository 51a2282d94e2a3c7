"""A first stage that only decodes: a GAN's generator. The prior over its latents is the standard normal distribution.

z ~ N(0, I),   x = G(z)         Goodfellow et al. 2014 (arXiv 1406.2661)
z = [eps, e(y)],   eps ~ N(0, I)      of a class y: the prior joins its embedding, for decoding has no condition
"""

from __future__ import annotations

from torch import Tensor

from sfumato.errors import InputError
from sfumato.first_stages.base import Decoder
from sfumato.latent import Vector
from sfumato.networks.generator import Generator, GeneratorConfig


class GeneratorFirstStage(Decoder):
    """x = G(z). There is no way back from pixels to z."""

    latent: Vector

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        self.channels = config.image_channels
        self.latent = Vector(config.dim)
        self.preview = None
        self.network = Generator(config)

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.config.size

    def decode(self, z: Tensor) -> Tensor:
        """(B, dim) -> (B, C, size, size) pixels in [-1, 1], not clipped. Raises `InputError` for latents of another shape."""
        if z.ndim != 2 or z.shape[1] != self.latent.dim:
            raise InputError(f"generator: latents have the shape {tuple(z.shape)}; expected (B, {self.latent.dim}).")
        return self.network(z)
