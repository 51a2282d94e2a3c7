"""The normal prior: p(z) = N(0, 1), with nothing to learn.

    log p(z) = -1/2 sum ( z^2 + log(2 pi) )

Behind a KL first stage trained with the full weight of its KL term it makes the variational autoencoder (Kingma & Welling
2013, arXiv 1312.6114); behind a generator it is the noise of a GAN. The z is the one that the first stage hands out: a VAE's
own prior is over latents whose statistics were left at mean 0 and scale 1, and after standardising them by measured ones
N(0, 1) is a prior over the standardised latents, another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning, Twins
from sfumato.errors import InputError
from sfumato.latent import Grid, Vector
from sfumato.noise import NoiseSource
from sfumato.priors.base import Loss, Prior, Step


@dataclass(frozen=True)
class NormalConfig:
    """vector_dim: how many of a vector's numbers, its last ones, are the condition's vector and no noise; None for none."""

    kind: ClassVar[str] = "normal"
    vector_dim: int | None = None


@dataclass(frozen=True)
class NormalSettings:
    """temperature: standard deviation of what is drawn, 1 for the prior itself, above 0."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"temperature: got {self.temperature}, expected above 0; 1 samples the prior itself.")


class NormalPrior(Prior[NormalSettings]):
    """N(0, 1) over a `Grid` or a `Vector`, without parameters. With `vector_dim` z = [eps, cond.vector]: a GAN with classes."""

    latent: Grid | Vector
    place: Tensor

    def __init__(self, config: NormalConfig, latent: Grid | Vector):
        super().__init__()
        taken = config.vector_dim or 0
        if taken and not (isinstance(latent, Vector) and taken < latent.dim):
            raise InputError(f"normal prior: vector_dim {taken} leaves no noise in {latent}; expected a longer Vector.")
        self.config = config
        self.latent = latent
        self.nothing = nn.Identity()
        self.register_buffer("place", torch.zeros(()), persistent=False)  # on the device where samples are wanted

    @property
    def network(self) -> nn.Module:
        """The identity: there is nothing to compile."""
        return self.nothing

    def log_prob(self, z: Tensor, cond: Conditioning) -> Tensor:
        """log N(z; 0, 1) summed over the dimensions that are noise, z (B, ...): (B,) nats, fp32."""
        z = z[:, : z.shape[1] - (self.config.vector_dim or 0)]
        return -0.5 * (z.float().square() + math.log(2 * math.pi)).flatten(1).sum(1)

    def loss(self, z: Tensor, cond: Conditioning, rng: torch.Generator | None) -> Loss:
        """-log p(z) in nats per dimension, averaged over the batch: how normal the latents are. It moves no parameter here."""
        total = -self.log_prob(z, cond).mean() / z[0].numel()
        return Loss(total, {"loss": total.detach()})

    def steps(self, shape: Sequence[int], twins: Twins, settings: NormalSettings, noise: NoiseSource) -> Iterator[Step]:
        """One step: the noise itself, and the condition's vector behind it where z holds that."""
        taken, cond = self.config.vector_dim or 0, twins[0][0]
        cond.check(context=False, vector=taken > 0, concat=False)
        own = (shape[0], shape[1] - taken, *shape[2:])
        z = noise(torch.empty(own, device=self.place.device)) * settings.temperature
        z = z if cond.vector is None else torch.cat([z, cond.vector.to(z)], dim=1)
        yield Step(0, 1, z, z)
