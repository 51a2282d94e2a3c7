"""The normalizing flow as a prior: exact log-likelihood by a change of variables.

    log p(z | y) = log N(f(z, y); 0, 1) + log |det df/dz|,    z = f^-1(eps, y), eps ~ N(0, 1)

(Dinh et al. 2016, arXiv 1605.08803, eq. 2 and 3; Kingma & Dhariwal 2018, arXiv 1807.03039.) Over an identity first stage it
is a model of pixels, dequantized; over a KL first stage one of latents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning, Twins
from sfumato.errors import InputError
from sfumato.latent import Grid, Vector
from sfumato.metrics.dequantization import bits_per_dimension, dequantize, requantize
from sfumato.networks.coupling import CouplingConfig, CouplingFlow
from sfumato.noise import NoiseSource
from sfumato.priors.base import Loss, Prior, Step


@dataclass(frozen=True)
class FlowConfig:
    """`dequantize`: the latents are 8-bit pixels in [-1, 1], to be given uniform noise within their level."""

    kind: ClassVar[str] = "flow"
    network: CouplingConfig
    dequantize: bool = False


@dataclass(frozen=True)
class FlowSettings:
    """temperature: standard deviation of the noise, 1 for the model's own distribution, above 0; below 1 it is narrower."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"temperature: got {self.temperature}, expected above 0; 1 samples the model itself.")


class FlowPrior(Prior[FlowSettings]):
    """p(z | cond) by a coupling flow, over a `Grid` or a `Vector`. It reads the condition's vector and no other slot.

    Guidance has no place in an exact density: twins after the first are not looked at.
    """

    latent: Grid | Vector

    def __init__(self, config: FlowConfig, latent: Grid | Vector):
        super().__init__()
        channels = latent.channels if isinstance(latent, Grid) else latent.dim
        if config.network.in_channels != channels:
            raise InputError(
                f"prior.network.in_channels is {config.network.in_channels}, but the latent has {channels}; set both alike."
            )
        if isinstance(latent, Grid) == (config.network.num_scales == 0):
            wanted = "1 or more" if isinstance(latent, Grid) else "0"
            raise InputError(f"prior.network.num_scales is {config.network.num_scales}: over {latent} it is {wanted}.")
        self.config = config
        self.latent = latent
        self.flow = CouplingFlow(config.network)
        self._ready = False  # spares the question to the device once `flow.initialised` is known to be true

    @property
    def network(self) -> CouplingFlow:
        """The flow."""
        return self.flow

    def log_prob(self, z: Tensor, cond: Conditioning) -> Tensor:
        """log p(z | cond) of continuous latents z (B, ...): (B,) nats, exact. Pixels have to be dequantized beforehand."""
        eps, log_det = self.flow(z, self._vector(cond))
        return -0.5 * (eps.square() + math.log(2 * math.pi)).flatten(1).sum(1) + log_det

    def bits_per_dimension(self, x: Tensor, cond: Conditioning, rng: torch.Generator | None) -> Tensor:
        """8-bit pixels x (B, C, H, W) in [-1, 1] -> (B,) bits, an upper bound by one draw of the dequantizing noise.

        Raises `InputError` where the flow is over latents that are not 8-bit pixels: they have no bits per dimension.
        """
        if not self.config.dequantize:
            raise InputError("bits per dimension: this flow's latents are not 8-bit pixels; use log_prob, in nats.")
        return bits_per_dimension(self.log_prob(dequantize(x, rng), cond), x[0].numel())

    def initialise(self, z: Tensor, cond: Conditioning, rng: torch.Generator | None = None) -> None:
        """Set the activation norms from a batch z (B, ...). `loss` does so by the first batch where nobody has."""
        self.flow.initialise(dequantize(z, rng) if self.config.dequantize else z, self._vector(cond))
        self._ready = True

    def loss(self, z: Tensor, cond: Conditioning, rng: torch.Generator | None) -> Loss:
        """-log p(z | cond) in nats per dimension, averaged over the batch; of 8-bit pixels also the bits per dimension."""
        if not self._ready:
            if not bool(self.flow.initialised):
                self.initialise(z, cond, rng)
            self._ready = True
        if self.config.dequantize:
            z = dequantize(z, rng)
        num_dims, log_prob = z[0].numel(), self.log_prob(z, cond)
        total = -log_prob.mean() / num_dims
        parts = {"loss": total.detach()}
        if self.config.dequantize:
            parts["bpd"] = bits_per_dimension(log_prob.detach().mean(), num_dims)
        return Loss(total, parts)

    def steps(self, shape: Sequence[int], twins: Twins, settings: FlowSettings, noise: NoiseSource) -> Iterator[Step]:
        """One step: noise through the inverse. Dequantized pixels come back as 8-bit ones."""
        self.flow.check(shape)
        eps = noise(torch.empty(tuple(shape), device=self.flow.initialised.device)) * settings.temperature
        z = self.flow.inverse(eps, self._vector(twins[0][0]))
        z = requantize(z) if self.config.dequantize else z
        yield Step(0, 1, z, z)

    def _vector(self, cond: Conditioning) -> Tensor | None:
        network = self.config.network
        cond.check(context=False, vector=network.vector_dim is not None or network.num_classes is not None, concat=False)
        return cond.vector
