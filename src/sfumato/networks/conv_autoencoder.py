"""The convolutional encoder and decoder of the first stage, downsampling by f = 2^(levels - 1).

Rombach et al. 2021 (arXiv 2112.10752, Sec. 3.1, App. G; Tab. 8), after Esser et al. 2020 (arXiv 2012.09841). Encoder:
conv, then per level residual blocks and a strided convolution padded right and below, then residual-attention-residual,
norm, conv. Decoder: the mirror image with one residual block more a level and nearest-neighbour upsampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfumato.errors import InputError
from sfumato.nn.attention import PlainAttention2d
from sfumato.nn.layers import Downsample, GroupNorm, Upsample, conv3x3
from sfumato.nn.residual import ResBlock


@dataclass(frozen=True)
class AutoencoderConfig:
    """Which autoencoder.

    channels: width of the first level; `multipliers` times it is the width of each level, each half the size of the one before.
    attention_resolution_factors: downsampling factors (1, 2, 4, ...) at which each residual block is followed by attention.
    mid_attention: attention at the smallest size. latent_channels: of z.
    double_moments: the encoder gives mean and log-variance, that is 2 * latent_channels.
    norm_groups: of the group norms. Narrow networks want fewer than the published 32: at 32 channels those are instance
        norms, which lose how bright a channel is and make the decoder paint bright droplets to carry it.
    """

    image_channels: int = 3
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolution_factors: tuple[int, ...] = ()
    mid_attention: bool = True
    latent_channels: int = 4
    double_moments: bool = True
    dropout: float = 0.0
    norm_groups: int = 32

    def __post_init__(self) -> None:
        for name in ("image_channels", "channels", "num_res_blocks", "latent_channels", "norm_groups"):
            if getattr(self, name) < 1:
                raise InputError(f"autoencoder {name} is {getattr(self, name)}: expected 1 or more.")
        if not self.multipliers or min(self.multipliers) < 1:
            raise InputError(f"autoencoder multipliers are {list(self.multipliers)}: expected one or more numbers from 1.")
        known = [2**level for level in range(len(self.multipliers))]
        for factor in self.attention_resolution_factors:
            if factor not in known:
                raise InputError(f"autoencoder attention_resolution_factors has {factor}: this one has the factors {known}.")

    @property
    def factor(self) -> int:
        """f = H / h."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def moments(self) -> int:
        """Channels that the encoder gives."""
        return self.latent_channels * (2 if self.double_moments else 1)

    def widths(self) -> list[int]:
        """Channels of each level, from the image down."""
        return [self.channels * m for m in self.multipliers]


class _Stack(nn.Module):
    """Runs layers one by one. `checkpointing` recomputes activations in the backward pass to save memory."""

    checkpointing: bool = False

    def _run(self, layer: nn.Module, h: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, h, use_reentrant=False)
        return layer(h)


class Encoder(_Stack):
    """Pixels to moments."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.out_channels = config.moments
        widths = config.widths()
        width = config.channels
        self.conv_in = conv3x3(config.image_channels, width)
        self.down = nn.ModuleList()
        for level, level_width in enumerate(widths):
            layers = _level(config, width, level_width, config.num_res_blocks, 2**level)
            width = level_width
            if level + 1 < len(widths):
                layers.append(Downsample(width, asymmetric=True))
            self.down.append(nn.Sequential(*layers))
        self.mid = _middle(config, width)
        self.norm_out = GroupNorm(width, eps=1e-6, groups=config.norm_groups)
        self.conv_out = conv3x3(width, self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) pixels, H and W multiples of f -> (B, out_channels, H / f, W / f)."""
        h = self.conv_in(x)
        for level in self.down:
            h = self._run(level, h)
        h = self._run(self.mid, h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(_Stack):
    """Latents to pixels. `up[0]` is the smallest size."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        widths = config.widths()
        width = widths[-1]
        self.conv_in = conv3x3(config.latent_channels, width)
        self.mid = _middle(config, width)
        self.up = nn.ModuleList()
        for level, level_width in reversed(list(enumerate(widths))):
            layers = _level(config, width, level_width, config.num_res_blocks + 1, 2**level)
            width = level_width
            if level:
                layers.append(Upsample(width))
            self.up.append(nn.Sequential(*layers))
        self.norm_out = GroupNorm(width, eps=1e-6, groups=config.norm_groups)
        self.conv_out = conv3x3(width, config.image_channels)

    @property
    def last_layer(self) -> nn.Parameter:
        """The last weight, where the adaptive GAN weight is measured (arXiv 2012.09841, Eq. 7)."""
        return cast(nn.Parameter, self.conv_out.weight)

    def features(self, z: Tensor) -> Tensor:
        """(B, latent_channels, h, w) -> (B, channels, f h, f w): what the last layer turns into pixels."""
        h = self._run(self.mid, self.conv_in(z))
        for level in self.up:
            h = self._run(level, h)
        return F.silu(self.norm_out(h))

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent_channels, h, w) -> (B, C, f h, f w) pixels, not clipped."""
        return self.conv_out(self.features(z))


def _level(config: AutoencoderConfig, width: int, level_width: int, num_blocks: int, factor: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for i in range(num_blocks):
        layers.append(ResBlock(level_width if i else width, level_width, config.dropout, config.norm_groups))
        if factor in config.attention_resolution_factors:
            layers.append(PlainAttention2d(level_width, config.norm_groups))
    return layers


def _middle(config: AutoencoderConfig, width: int) -> nn.Sequential:
    blocks: list[nn.Module] = [ResBlock(width, width, config.dropout, config.norm_groups) for _ in range(2)]
    if config.mid_attention:
        blocks.insert(1, PlainAttention2d(width, config.norm_groups))
    return nn.Sequential(*blocks)
