"""The KL autoencoder: perceptual compression with a slight pull towards a standard normal.

    q(z | x) = N(mu(x), sigma(x)^2),   x_hat = D(z)          (Rombach et al. 2021, arXiv 2112.10752, section 3.1, appendix G)

The latents that enter and leave are in unit scale, z_unit = (z - shift) / scale by channel. `shift` and `scale` are
the mean and standard deviation of latent samples over the whole training set; while the first stage itself is trained
they are 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfumato.first_stages.base import FirstStage, preview_channels
from sfumato.latent import Grid
from sfumato.networks.conv_autoencoder import AutoencoderConfig, Decoder, Encoder
from sfumato.posterior import DiagonalGaussian


@dataclass(frozen=True)
class KLConfig:
    """`embed_channels`: channels of the latent space, 0 for as many as the network's own."""

    kind: ClassVar[str] = "kl"
    network: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    embed_channels: int = 0


class KLFirstStage(FirstStage):
    """Encoder and decoder with a diagonal Gaussian between them; `quant_conv` and `post_quant_conv` as published."""

    shift: Tensor
    scale: Tensor
    preview: Tensor

    def __init__(self, config: KLConfig):
        super().__init__()
        self.config = config
        net = config.network
        embed = config.embed_channels or net.latent_channels
        self.channels = net.image_channels
        self.latent: Grid = Grid(embed, 2 ** (len(net.multipliers) - 1))
        self.encoder = Encoder(net)
        self.decoder = Decoder(net)
        self.quant_conv = nn.Conv2d(2 * net.latent_channels, 2 * embed, 1)
        self.post_quant_conv = nn.Conv2d(embed, net.latent_channels, 1)
        self.register_buffer("shift", torch.zeros(embed))
        self.register_buffer("scale", torch.ones(embed))
        self.register_buffer("preview", torch.zeros(embed + 1, preview_channels(net.image_channels)))

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """(B, C, H, W) pixels in [-1, 1] -> q(z | x) in unit scale; sides must be multiples of the factor."""
        moments = self.quant_conv(self.encoder(x.to(self.quant_conv.weight.dtype))).float()  # (B, 2 C, h, w)
        mean, log_variance = moments.chunk(2, dim=1)
        posterior = DiagonalGaussian(mean, log_variance.clamp(-30.0, 20.0))
        return posterior.affine(self.shift.view(-1, 1, 1), self.scale.view(-1, 1, 1))

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, h, w) latents in unit scale -> (B, C, H, W) pixels, about [-1, 1]."""
        z = z * self.scale.view(-1, 1, 1) + self.shift.view(-1, 1, 1)
        z = z.to(self.post_quant_conv.weight.dtype)  # statistics stay in fp32 where the network is in half precision
        return self.decoder(self.post_quant_conv(z))

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.last_layer

    def set_statistics(self, mean: Tensor, std: Tensor, preview: Tensor) -> None:
        """Store the measured latent statistics (C,), (C,) and the preview map (C + 1, preview channels)."""
        self.shift.copy_(mean)
        self.scale.copy_(std)
        self.preview.copy_(preview)
