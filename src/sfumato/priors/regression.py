"""The plain regression: one network call that predicts the mean latent, beside which diffusion is measured.

    z_hat = network(0, t = 1, tau(y)),   L = || z - z_hat ||^2

The baseline of super-resolution tables (Saharia et al. 2021, arXiv 2104.07636; Rombach et al. 2021, arXiv 2112.10752, Tab. 5):
the same network as the denoiser's, told the condition and no noise. Its best answer is E[z | y], which is blurred where y
leaves z open. As a prior it is the point mass at z_hat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning, Twins
from sfumato.latent import Grid
from sfumato.noise import NoiseSource
from sfumato.priors.base import Loss, Prior, Step
from sfumato.priors.diffusion import NetworkConfig, build_network

LAST_TIME = 999.0  # what the network is told in place of a time: that of pure noise


@dataclass(frozen=True)
class RegressionConfig:
    """network: as a denoiser's. loss: of the difference, "l2" for the mean, "l1" for the median."""

    kind: ClassVar[str] = "regression"
    network: NetworkConfig
    loss: Literal["l2", "l1"] = "l2"


class RegressionPrior(Prior[Any]):
    """z_hat(y), the same for every seed. Guidance has nothing to guide: twins after the first are not looked at."""

    latent: Grid

    def __init__(self, config: RegressionConfig, latent: Grid):
        super().__init__()
        self.config = config
        self.latent = latent
        self.regressor = build_network(config.network)

    @property
    def network(self) -> nn.Module:
        """The regressing network."""
        return self.regressor

    def predict(self, like: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, h, w) of any values -> z_hat, of the same shape, fp32."""
        time = torch.full((len(like),), LAST_TIME, device=like.device)
        predicted: Tensor = self.regressor(torch.zeros_like(like), time, cond)
        return predicted.float()

    def loss(self, z: Tensor, cond: Conditioning, rng: torch.Generator | None) -> Loss:
        """The error in unit scale, averaged over the batch and dimensions."""
        error = self.predict(z, cond) - z
        total = (error.square() if self.config.loss == "l2" else error.abs()).mean()
        return Loss(total, {"loss": total.detach()})

    def steps(self, shape: Sequence[int], twins: Twins, settings: Any, noise: NoiseSource) -> Iterator[Step]:
        """One step, whatever the settings."""
        like = torch.empty(tuple(shape), device=next(self.parameters()).device)
        z = self.predict(like, twins[0][0])
        yield Step(0, 1, z, z)
