"""The VQ autoencoder: latents are snapped to codes, and behind a prior that is the decoder's first act.

    z = E(x),   z_q = argmin_{e in codebook} ||z - e||,   x_hat = D(z_q)

(Van den Oord et al. 2017, arXiv 1711.00937, eq. 1-2; Esser et al. 2020, arXiv 2012.09841.) Latent diffusion sees z itself,
before quantization, and quantizing is the first layer of decoding (Rombach et al. 2021, arXiv 2112.10752, Sec. 3.1). The
latents that enter and leave are in unit scale, as in `kl.py`; published files have scale 1.

It has two faces: `VQFirstStage.grid` is what diffusion sees, z in unit scale; `VQFirstStage.codes` is what transformers see,
indices. Trained, z_q takes the place of z with straight-through gradients (`sfumato.nn.quantizers`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.first_stages.base import CodesFace, FirstStage, preview_channels
from sfumato.latent import Codes, Grid
from sfumato.networks.conv_autoencoder import AutoencoderConfig, Decoder, Encoder
from sfumato.nn.packaged import Packaged, PackagedConfig
from sfumato.nn.quantizers import FSQ, Codebook, Quantized, Quantizer
from sfumato.posterior import DiagonalGaussian


def _network() -> AutoencoderConfig:
    return AutoencoderConfig(double_moments=False)


@dataclass(frozen=True)
class VQConfig:
    """`codebook_size`: number of codes. `embed_channels`: channels of a code, 0 for as many as the network's latent.

    The network has `double_moments=False`: the encoder gives a point. `levels`: of finite scalar quantization, one number a
    channel of a code, in the codebook's place; then `codebook_size` is their product. `quantizer`: one of the optional package
    (`sfumato.nn.packaged`) in the place of both; its fsq takes `levels`, its lfq has 2^channels codes.
    """

    kind: ClassVar[str] = "vq"
    network: AutoencoderConfig = field(default_factory=_network)
    codebook_size: int = 8192
    embed_channels: int = 0
    levels: tuple[int, ...] = ()
    quantizer: PackagedConfig | None = None

    def __post_init__(self) -> None:
        if self.codebook_size < 1:
            raise InputError(f"VQ codebook_size is {self.codebook_size}: expected 1 or more; the paper has 8192 and 16384.")
        if self.embed_channels < 0:
            raise InputError(f"VQ embed_channels is {self.embed_channels}: expected 1 or more, or 0 for the network's own.")
        if self.network.double_moments:
            raise InputError("VQ network.double_moments is true: expected false, since a VQ encoder gives no variance.")
        channels, size = self.embed_channels or self.network.latent_channels, math.prod(self.levels)
        if self.levels and (len(self.levels) != channels or size != self.codebook_size or min(self.levels) < 3):
            raise InputError(
                f"VQ levels are {list(self.levels)}: expected numbers from 3, one for each of the {channels} channels of "
                f"a code, and their product {size} as codebook_size, which is {self.codebook_size}."
            )
        method = self.quantizer.method if self.quantizer else ""
        if self.quantizer and bool(self.levels) != (method == "fsq"):
            raise InputError(
                f"VQ quantizer is {method} and levels are {list(self.levels)}: fsq alone has levels, and needs them."
            )
        if method == "lfq" and self.codebook_size != 2**channels:
            raise InputError(
                f"VQ codebook_size is {self.codebook_size}: expected {2**channels}, since codes of lfq are the signs of "
                f"{channels} channels; set it or embed_channels."
            )


@dataclass(frozen=True)
class Level:
    """One level of codes: latents z (B, C, h, w), not in unit scale, and what quantizing them gave."""

    z: Tensor
    found: Quantized


class QuantizedFirstStage(FirstStage):
    """What training needs of a first stage of codes: its quantizers and latents by level. One level has the name ""."""

    encoder: Encoder
    decoder: Decoder

    @property
    @abstractmethod
    def quantizers(self) -> Mapping[str, Quantizer]:
        """By level, the coarsest first."""

    @abstractmethod
    def levels(self, z: Tensor) -> dict[str, Level]:
        """(B, C, h, w) latents in unit scale -> each level's, with gradients, losses and gauges."""

    @abstractmethod
    def decode_levels(self, levels: Mapping[str, Level]) -> Tensor:
        """The codes of every level -> (B, C, H, W) pixels, about [-1, 1]."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight."""

    @abstractmethod
    def set_statistics(self, mean: Tensor, std: Tensor, preview: Tensor) -> None:
        """Store the measured latent statistics (C,), (C,) and the preview map (C + 1, preview channels)."""


class VQFirstStage(QuantizedFirstStage):
    """Encoder, codebook and decoder; `quant_conv`, `quantize` and `post_quant_conv` as published."""

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
        self.quantize = build_quantizer(config)
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
        z = self._raw(z).to(self.post_quant_conv.weight.dtype)  # statistics stay in fp32 where the network is in half precision
        return self.decode_quantized(self.quantize(z))

    def quantized(self, z: Tensor) -> Quantized:
        """(B, C, h, w) latents in unit scale -> their codes (not in unit scale), with gradients, losses and gauges."""
        return self.quantize.quantize(self._raw(z))

    @property
    def quantizers(self) -> Mapping[str, Quantizer]:
        return {"": self.quantize}

    def levels(self, z: Tensor) -> dict[str, Level]:
        return {"": Level(self._raw(z), self.quantized(z))}

    def decode_levels(self, levels: Mapping[str, Level]) -> Tensor:
        return self.decode_quantized(levels[""].found.z_q)

    def decode_quantized(self, z_q: Tensor) -> Tensor:
        """(B, C, h, w) codes as `quantized` and `Quantizer.lookup` give them -> (B, C, H, W) pixels, about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z_q.to(self.post_quant_conv.weight.dtype)))

    def _raw(self, z: Tensor) -> Tensor:
        return z * self.scale.view(-1, 1, 1) + self.shift.view(-1, 1, 1)

    def grid(self) -> VQFirstStage:
        """What diffusion sees: a grid of z in unit scale, quantized by `decode`."""
        return self

    def codes(self) -> VQCodes:
        """What transformers see: a grid of indices, without unit scale."""
        return VQCodes(self)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.last_layer

    def set_statistics(self, mean: Tensor, std: Tensor, preview: Tensor) -> None:
        """Store the measured latent statistics (C,), (C,) and the preview map (C + 1, preview channels)."""
        self.shift.copy_(mean)
        self.scale.copy_(std)
        self.preview.copy_(preview)


class VQCodes(CodesFace):
    """The face of indices: pixels <-> (B, h, w) whole numbers from 0 to K - 1, of residual codes (B, depth, h, w).

    Its weights are those of `stage`.
    """

    preview = None

    def __init__(self, stage: VQFirstStage):
        super().__init__()
        self.stage = stage
        self.channels = stage.channels
        self.latent: Codes = Codes((stage.latent.factor,), stage.quantize.num_codes, stage.quantize.depth)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(B, C, H, W) pixels in [-1, 1] -> indices."""
        return self.stage.quantized(self.stage.posterior(x).mode()).codes

    def decode(self, z: Tensor) -> Tensor:
        """Indices -> (B, C, H, W) pixels, about [-1, 1]. Raises `InputError` for indices that name no code."""
        check_codes(z, self.latent.vocabulary)
        return self.stage.decode_quantized(self.stage.quantize.lookup(z))


def build_quantizer(config: VQConfig) -> Quantizer:
    """The quantizer with random codes."""
    channels = config.embed_channels or config.network.latent_channels
    if config.quantizer is not None:
        return Packaged(config.quantizer, config.codebook_size, channels, config.levels)
    return FSQ(config.levels) if config.levels else Codebook(config.codebook_size, channels)


def check_codes(z: Tensor, vocabulary: int) -> None:
    """Raises `InputError` unless every number of z is from 0 to `vocabulary` - 1."""
    if z.numel() and (int(z.min()) < 0 or int(z.max()) >= vocabulary):
        raise InputError(
            f"VQ codes run from {int(z.min())} to {int(z.max())}: expected whole numbers from 0 to {vocabulary - 1}."
        )
