"""The prior of VQ-VAE-2: the coarse codes of a picture, then the fine ones, which are told all of the coarse.

    log p(t, b | y) = log p(t | y) + log p(b | t, y),      L = -log p(t, b | y) / N

(Razavi, van den Oord & Vinyals 2019, arXiv 1906.00446, Sec. 3.2, Fig. 2b: "top" and "bottom".) The top's codes are embedded,
mixed by residual blocks and enlarged: a map that the bottom's PixelCNN reads at each place. Both likelihoods are exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.conditioning import Conditioning, Twins
from sfumato.errors import InputError
from sfumato.latent import Codes
from sfumato.networks.pixelcnn import PixelCNNConfig
from sfumato.networks.raster import CodeNetwork, pack, unpack
from sfumato.nn.residual import ResBlock
from sfumato.noise import NoiseSource
from sfumato.priors.autoregressive import (
    AutoregressiveConfig,
    AutoregressivePrior,
    AutoregressiveSettings,
    CodeNetworkConfig,
)
from sfumato.priors.base import Loss, Prior, Step


@dataclass(frozen=True)
class HierarchicalConfig:
    """top: the network of the coarse codes. bottom: that of the fine ones; its `concat_channels` is the map's channels.

    told_depth: residual blocks that mix the top's embeddings. The vector of a condition is told to both levels where both
    ask for it (`num_classes`, `vector_dim`); other slots to the top alone.
    """

    kind: ClassVar[str] = "hierarchical"
    top: CodeNetworkConfig
    bottom: PixelCNNConfig
    told_depth: int = 2

    def __post_init__(self) -> None:
        if self.bottom.concat_channels < 1:
            raise InputError("hierarchical prior: bottom.concat_channels is 0; expected the channels that tell it of the top.")
        if self.told_depth < 0:
            raise InputError(f"hierarchical prior: told_depth is {self.told_depth}; expected 0 or more.")


class HierarchicalPrior(Prior[AutoregressiveSettings]):
    """p(codes | cond) over two grids of codes in one tensor (B, 1 + r^2, h, w) int64, as `raster.pack` makes it."""

    latent: Codes

    def __init__(self, config: HierarchicalConfig, latent: Codes):
        super().__init__()
        if len(latent.factors) != 2 or latent.channels != 1 or latent.factors[0] % latent.factors[1]:
            raise InputError(f"hierarchical prior: got {latent}; expected two grids of single codes, the coarser first.")
        self.config = config
        self.latent = latent
        self.ratio = latent.factors[0] // latent.factors[1]
        top, bottom = (dataclasses.replace(latent, factors=(factor,)) for factor in latent.factors)
        self.top = AutoregressivePrior(AutoregressiveConfig(config.top), top)
        self.bottom = AutoregressivePrior(AutoregressiveConfig(config.bottom), bottom)
        width = config.bottom.concat_channels
        self.embedding = nn.Embedding(latent.vocabulary, width)
        self.told = nn.Sequential(*(ResBlock(width, width, groups=1) for _ in range(config.told_depth)))

    @property
    def network(self) -> CodeNetwork:
        """The bottom's, where most codes are."""
        return self.bottom.network

    def loss(self, z: Tensor, cond: Conditioning, rng: torch.Generator | None) -> Loss:
        """-log p(z | cond) in nats per code; parts `top` and `bottom` are each level's own, in bits per code."""
        t, b = self.split(z)
        count = t[0].numel() + b[0].numel()
        top, bottom = self.top.log_prob(t, cond).mean(), self.bottom.log_prob(b, self.tell(t, cond)).mean()
        total = -(top + bottom) / count
        bits = {"top": -top / t[0].numel(), "bottom": -bottom / b[0].numel(), "bits": total}
        return Loss(total, {"loss": total.detach(), **{name: v.detach() / math.log(2) for name, v in bits.items()}})

    def log_prob(self, z: Tensor, cond: Conditioning) -> Tensor:
        """log p(z | cond), exact, summed over the codes of both levels: (B,) nats."""
        t, b = self.split(z)
        return self.top.log_prob(t, cond) + self.bottom.log_prob(b, self.tell(t, cond))

    def steps(self, shape: Sequence[int], twins: Twins, settings: AutoregressiveSettings, noise: NoiseSource) -> Iterator[Step]:
        """Codes of `shape` (B, 1 + r^2, h, w), top then bottom in raster order: one `Step` a code; codes to come are 0."""
        batch, channels, height, width = shape
        assert channels == 1 + self.ratio**2, f"codes of {channels} a place, expected {1 + self.ratio**2}"
        fine = (batch, height * self.ratio, width * self.ratio)
        device = self.embedding.weight.device
        total = height * width * channels
        t = torch.zeros(batch, height, width, dtype=torch.int64, device=device)
        b = torch.zeros(fine, dtype=torch.int64, device=device)
        for step in self.top.steps(t.shape, twins, settings, noise):
            t = step.z_t
            z = pack([t, b])
            yield Step(step.index, total, z, z)
        with torch.no_grad():
            told = [(self.tell(t, cond), weight) for cond, weight in twins]
        for step in self.bottom.steps(fine, told, settings, noise):
            z = pack([t, step.z_t])
            yield Step(height * width + step.index, total, z, z)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1 + r^2, h, w) -> the top's codes (B, h, w) and the bottom's (B, r h, r w)."""
        t, b = unpack(z, (1, self.ratio))
        return t, b

    def tell(self, t: Tensor, cond: Conditioning) -> Conditioning:
        """The top's codes (B, h, w) and a condition -> what the bottom is told: `concat` (B, concat_channels, r h, r w)."""
        mixed = self.told(self.embedding(t).permute(0, 3, 1, 2).contiguous())  # (B, D, h, w)
        wide = F.interpolate(mixed, scale_factor=float(self.ratio), mode="nearest")
        asks = self.config.bottom.num_classes or self.config.bottom.vector_dim
        return Conditioning(concat=wide, vector=cond.vector if asks else None)
