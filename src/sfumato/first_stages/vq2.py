"""VQ-VAE-2: codes on two levels, a coarse one for the whole of a picture and a fine one for its detail.

    h = E(x),   e_t = Q_t(E_t(h)),   e_b = Q_b([h, D_t(e_t)]),   x_hat = D([up(e_t), e_b])

(Razavi, van den Oord & Vinyals 2019, arXiv 1906.00446, algorithm 1 and Fig. 2a: "top" and "bottom".) The top is `top_factor`
times smaller than the bottom. Both are trained as a VQ-VAE's one level is; its loss is the sum over levels.

It has two faces, as `vq.py`: diffusion sees [up(z_t), z_b] before quantization, one grid of the bottom's size in unit scale,
which decoding quantizes; `VQ2FirstStage.codes` is what autoregressive priors see, both grids of indices in one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.first_stages.base import CodesFace, preview_channels
from sfumato.first_stages.vq import Level, QuantizedFirstStage, check_codes
from sfumato.latent import Codes, Grid
from sfumato.networks.conv_autoencoder import AutoencoderConfig, Decoder, Encoder
from sfumato.networks.raster import pack, unpack
from sfumato.nn.quantizers import Codebook, Quantizer
from sfumato.posterior import DiagonalGaussian


def _network() -> AutoencoderConfig:
    return AutoencoderConfig(multipliers=(1, 1, 1), mid_attention=False, latent_channels=128, double_moments=False)


@dataclass(frozen=True)
class VQ2Config:
    """network: between pixels and bottom; its `latent_channels` are the features that also the top is made of.

    top_factor: how many times smaller the top is than the bottom, a power of 2. codebook_size: codes of each level.
    embed_channels: channels of a code, 0 for as many as there are features. The paper: 512 codes of 64 channels, f = 4 and 8.
    """

    kind: ClassVar[str] = "vq2"
    network: AutoencoderConfig = field(default_factory=_network)
    codebook_size: int = 512
    embed_channels: int = 64
    top_factor: int = 2

    def __post_init__(self) -> None:
        if self.codebook_size < 1:
            raise InputError(f"VQ2 codebook_size is {self.codebook_size}: expected 1 or more; the paper has 512.")
        if self.embed_channels < 0:
            raise InputError(f"VQ2 embed_channels is {self.embed_channels}: expected 1 or more, or 0 for the network's own.")
        if self.network.double_moments:
            raise InputError("VQ2 network.double_moments is true: expected false, since a VQ encoder gives no variance.")
        if self.top_factor < 2 or self.top_factor & (self.top_factor - 1):
            raise InputError(f"VQ2 top_factor is {self.top_factor}: expected a power of 2, such as 2 or 4.")

    def top_network(self) -> AutoencoderConfig:
        """Between the bottom's features and the top, as wide as the bottom's last level."""
        net = self.network
        return AutoencoderConfig(
            image_channels=net.latent_channels,
            channels=net.widths()[-1],
            multipliers=(1,) * self.top_factor.bit_length(),
            num_res_blocks=net.num_res_blocks,
            mid_attention=net.mid_attention,
            latent_channels=net.latent_channels,
            double_moments=False,
            dropout=net.dropout,
            norm_groups=net.norm_groups,
        )


class VQ2FirstStage(QuantizedFirstStage):
    """Encoders, codebooks and decoders of both levels. Latents are (B, 2 E, h, w): E channels of the top, E of the bottom."""

    shift: Tensor
    scale: Tensor
    preview: Tensor

    def __init__(self, config: VQ2Config):
        super().__init__()
        self.config = config
        net, top = config.network, config.top_network()
        features = net.latent_channels
        embed = config.embed_channels or features
        self.channels = net.image_channels
        self.latent: Grid = Grid(2 * embed, net.factor)
        self.encoder, self.decoder = Encoder(net), Decoder(net)
        self.top_encoder, self.top_decoder = Encoder(top), Decoder(top)
        self.top_quant_conv, self.top_post_quant_conv = nn.Conv2d(features, embed, 1), nn.Conv2d(embed, features, 1)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(2 * features, embed, 1), nn.Conv2d(2 * embed, features, 1)
        self.top_quantize, self.quantize = Codebook(config.codebook_size, embed), Codebook(config.codebook_size, embed)
        self.register_buffer("shift", torch.zeros(2 * embed))
        self.register_buffer("scale", torch.ones(2 * embed))
        self.register_buffer("preview", torch.zeros(2 * embed + 1, preview_channels(net.image_channels)))

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """(B, C, H, W) pixels in [-1, 1] -> latents of both levels before quantization, in unit scale, with no spread.

        Raises `InputError` where the top's factor does not divide a side.
        """
        self.codes_latent.shapes(*x.shape[-2:])
        h = self.encoder(x.to(self.quant_conv.weight.dtype))  # (B, features, h, w)
        z_t = self.top_quant_conv(self.top_encoder(h)).float()
        e_t = self.top_quantize.quantize(z_t).z_q.to(h.dtype)
        z_b = self.quant_conv(torch.cat([h, self.top_decoder(self.top_post_quant_conv(e_t))], dim=1)).float()
        z = torch.cat([self._up(z_t), z_b], dim=1)  # (B, 2 E, h, w)
        return DiagonalGaussian(z).affine(self.shift.view(-1, 1, 1), self.scale.view(-1, 1, 1))

    def decode(self, z: Tensor) -> Tensor:
        """(B, 2 E, h, w) latents in unit scale, quantized here -> (B, C, H, W) pixels, about [-1, 1]."""
        return self.decode_levels(self.levels(z))

    @property
    def quantizers(self) -> Mapping[str, Quantizer]:
        return {"top": self.top_quantize, "bottom": self.quantize}

    def levels(self, z: Tensor) -> dict[str, Level]:
        wide, z_b = (z * self.scale.view(-1, 1, 1) + self.shift.view(-1, 1, 1)).chunk(2, dim=1)
        z_t = F.avg_pool2d(wide, self.config.top_factor)  # the inverse of `_up`
        return {"top": Level(z_t, self.top_quantize.quantize(z_t)), "bottom": Level(z_b, self.quantize.quantize(z_b))}

    def decode_levels(self, levels: Mapping[str, Level]) -> Tensor:
        return self.decode_codes(levels["top"].found.z_q, levels["bottom"].found.z_q)

    def decode_codes(self, e_t: Tensor, e_b: Tensor) -> Tensor:
        """(B, E, h / top_factor, w / top_factor) and (B, E, h, w) codes, as `Quantizer.lookup` gives them -> pixels."""
        z_q = torch.cat([self._up(e_t), e_b], dim=1)
        return self.decoder(self.post_quant_conv(z_q.to(self.post_quant_conv.weight.dtype)))

    def codes(self) -> VQ2Codes:
        """What autoregressive priors see: both grids of indices, without unit scale."""
        return VQ2Codes(self)

    @property
    def codes_latent(self) -> Codes:
        """The top's and the bottom's grid, over one vocabulary."""
        bottom = self.config.network.factor
        return Codes((bottom * self.config.top_factor, bottom), self.config.codebook_size)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.last_layer

    def set_statistics(self, mean: Tensor, std: Tensor, preview: Tensor) -> None:
        self.shift.copy_(mean)
        self.scale.copy_(std)
        self.preview.copy_(preview)

    def _up(self, z: Tensor) -> Tensor:
        return F.interpolate(z, scale_factor=float(self.config.top_factor), mode="nearest")


class VQ2Codes(CodesFace):
    """The face of indices: pixels <-> (B, 1 + top_factor^2, h, w) whole numbers from 0 to K - 1, h and w the top's.

    At each place of the top: its code, then those of the bottom there (`sfumato.networks.raster.pack`). Its weights are those
    of `stage`.
    """

    preview = None

    def __init__(self, stage: VQ2FirstStage):
        super().__init__()
        self.stage = stage
        self.channels = stage.channels
        self.latent: Codes = stage.codes_latent

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(B, C, H, W) pixels in [-1, 1] -> indices of both levels."""
        return pack([level.found.codes for level in self.stage.levels(self.stage.posterior(x).mode()).values()])

    def decode(self, z: Tensor) -> Tensor:
        """Indices of both levels -> (B, C, H, W) pixels, about [-1, 1]. Raises `InputError` for those that name no code."""
        check_codes(z, self.latent.vocabulary)
        top, bottom = unpack(z, (1, self.stage.config.top_factor))
        return self.stage.decode_codes(self.stage.top_quantize.lookup(top), self.stage.quantize.lookup(bottom))
