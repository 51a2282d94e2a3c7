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
from sfumato.first_stages.base import FirstStage
from sfumato.latent import Grid
from sfumato.noise import NoiseSource
from sfumato.priors.base import Loss, Prior


class LatentModel(nn.Module):
    """A whole image generator. `image_size` is the (height, width) it was trained at, in pixels."""

    def __init__(
        self, first_stage: FirstStage, prior: Prior[Any], conditioner: Conditioner[Any, Any], image_size: tuple[int, int]
    ):
        super().__init__()
        self.first_stage = first_stage
        self.prior = prior
        self.conditioner = conditioner
        self.image_size = image_size

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture of `height` x `width` pixels; raises `InputError` when a side does not fit."""
        assert isinstance(self.first_stage.latent, Grid)
        return self.first_stage.latent.shape(height, width)

    def encode(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """(B, C, H, W) pixels in [-1, 1] -> a sample of q(z | x), in unit scale."""
        return self.first_stage.posterior(x).sample(rng)

    def decode(self, z: Tensor) -> Tensor:
        """Latents in unit scale -> (B, C, H, W) pixels, not clipped."""
        return self.first_stage.decode(z)

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
