"""The VQ autoencoder, for use behind a prior: the decoder's first act is to snap each latent to a code.

    z = E(x),   z_q = argmin_{e in codebook} ||z - e||,   x_hat = D(z_q)

(Van den Oord et al. 2017, arXiv 1711.00937, eq. 1-2; Esser et al. 2020, arXiv 2012.09841.) Latent diffusion sees z itself,
before quantization, and quantizing is the first layer of decoding (Rombach et al. 2021, arXiv 2112.10752, Sec. 3.1). The
latents that enter and leave are in unit scale, as in `kl.py`; published files have scale 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.first_stages.base import FirstStage, preview_channels
from sfumato.latent import Grid
from sfumato.networks.conv_autoencoder import AutoencoderConfig, Decoder, Encoder
from sfumato.posterior import DiagonalGaussian

ROWS = 4096  # vectors that are compared with the codebook at a time: bounds the table of distances


def _network() -> AutoencoderConfig:
    return AutoencoderConfig(double_moments=False)


@dataclass(frozen=True)
class VQConfig:
    """`codebook_size`: number of codes. `embed_channels`: channels of a code, 0 for as many as the network's latent.

    The network has `double_moments=False`: the encoder gives a point.
    """

    kind: ClassVar[str] = "vq"
    network: AutoencoderConfig = field(default_factory=_network)
    codebook_size: int = 8192
    embed_channels: int = 0

    def __post_init__(self) -> None:
        if self.codebook_size < 1:
            raise InputError(f"VQ codebook_size is {self.codebook_size}: expected 1 or more; the paper has 8192 and 16384.")
        if self.embed_channels < 0:
            raise InputError(f"VQ embed_channels is {self.embed_channels}: expected 1 or more, or 0 for the network's own.")
        if self.network.double_moments:
            raise InputError("VQ network.double_moments is true: expected false, since a VQ encoder gives no variance.")


class Codebook(nn.Module):
    """K codes e_k of C channels, in `embedding`."""

    def __init__(self, size: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(size, channels)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)

    def indices(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w) whole numbers: k of the nearest code, compared in fp32 whatever type z has."""
        batch, _, height, width = z.shape
        with torch.autocast(z.device.type, enabled=False):
            codes = self.embedding.weight.float()  # (K, C)
            half = 0.5 * codes.square().sum(1)
            vectors = z.float().permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, C)
            # ||z - e||^2 / 2 less ||z||^2 / 2, which is the same for every code
            found = [(half - rows @ codes.T).argmin(1) for rows in vectors.split(ROWS)]
        return torch.cat(found).unflatten(0, (batch, height, width))

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) whole numbers -> (B, C, h, w) codes."""
        return self.embedding(indices).permute(0, 3, 1, 2).contiguous()

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> the nearest codes, the same shape and type."""
        return self.lookup(self.indices(z)).to(z.dtype)


class VQFirstStage(FirstStage):
    """Encoder, codebook and decoder; `quant_conv`, `quantize` and `post_quant_conv` as published. For inference."""

    shift: Tensor
    scale: Tensor
    preview: Tensor

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config = config
        net = config.network
        embed = config.embed_channels or net.latent_channels
        self.channels = net.image_channels
        self.latent: Grid = Grid(embed, net.factor)
        self.encoder = Encoder(net)
        self.decoder = Decoder(net)
        self.quant_conv = nn.Conv2d(net.latent_channels, embed, 1)
        self.quantize = Codebook(config.codebook_size, embed)
        self.post_quant_conv = nn.Conv2d(embed, net.latent_channels, 1)
        self.register_buffer("shift", torch.zeros(embed))
        self.register_buffer("scale", torch.ones(embed))
        self.register_buffer("preview", torch.zeros(embed + 1, preview_channels(net.image_channels)))

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """(B, C, H, W) pixels in [-1, 1] -> the latent before quantization, in unit scale, with no spread."""
        z = self.quant_conv(self.encoder(x.to(self.quant_conv.weight.dtype))).float()
        return DiagonalGaussian(z).affine(self.shift.view(-1, 1, 1), self.scale.view(-1, 1, 1))

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, h, w) latents in unit scale, quantized here -> (B, C, H, W) pixels, about [-1, 1]."""
        z = z * self.scale.view(-1, 1, 1) + self.shift.view(-1, 1, 1)
        z = z.to(self.post_quant_conv.weight.dtype)  # statistics stay in fp32 where the network is in half precision
        return self.decoder(self.post_quant_conv(self.quantize(z)))

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.last_layer

    def set_statistics(self, mean: Tensor, std: Tensor, preview: Tensor) -> None:
        """Store the measured latent statistics (C,), (C,) and the preview map (C + 1, preview channels)."""
        self.shift.copy_(mean)
        self.scale.copy_(std)
        self.preview.copy_(preview)
