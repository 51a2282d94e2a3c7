"""The published first stages (arXiv 2112.10752, Tab. 8): all of 128 channels, two residual blocks a level, for RGB.

The yaml files list attention by the side of a feature map of a 256 pixel picture; here it is the factor, 256 over that.
"""

from __future__ import annotations

from dataclasses import replace

from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop.cards.base import FirstStageCard
from sfumato.networks.conv_autoencoder import AutoencoderConfig


def _kl(multipliers: tuple[int, ...], channels: int, attention: tuple[int, ...] = ()) -> KLConfig:
    return KLConfig(
        AutoencoderConfig(multipliers=multipliers, latent_channels=channels, attention_resolution_factors=attention)
    )


def _vq(
    multipliers: tuple[int, ...], channels: int, codes: int, attention: tuple[int, ...] = (), mid_attention: bool = True
) -> VQConfig:
    network = AutoencoderConfig(
        multipliers=multipliers,
        latent_channels=channels,
        attention_resolution_factors=attention,
        mid_attention=mid_attention,
        double_moments=False,
    )
    return VQConfig(network, codes)


KL_F4 = _kl((1, 2, 4), 3)
KL_F8 = _kl((1, 2, 4, 4), 4)
KL_F16 = _kl((1, 1, 2, 2, 4), 16, (16,))
KL_F32 = _kl((1, 1, 2, 2, 4, 4), 64, (16, 32))
VQ_F4 = _vq((1, 2, 4), 3, 8192)
VQ_F4_WITHOUT_ATTENTION = _vq((1, 2, 4), 3, 8192, mid_attention=False)
VQ_F8 = _vq((1, 2, 2, 4), 4, 16384, (8,))
VQ_F8_SMALL = replace(VQ_F8, codebook_size=256)
VQ_F16 = _vq((1, 1, 2, 2, 4), 8, 16384, (16,))
KL_F4_OF_4 = _kl((1, 2, 4), 4)
"""Of the x4 upscaler; never published alone."""


def _card(name: str, config: KLConfig | VQConfig) -> FirstStageCard:
    return FirstStageCard(name, f"CompVis/latent-diffusion/models/first_stage_models/{name}/config.yaml", config)


FIRST_STAGES: tuple[FirstStageCard, ...] = (
    _card("kl-f4", KL_F4),
    _card("kl-f8", KL_F8),
    _card("kl-f16", KL_F16),
    _card("kl-f32", KL_F32),
    _card("vq-f4", VQ_F4),
    _card("vq-f4-noattn", VQ_F4_WITHOUT_ATTENTION),
    _card("vq-f8", VQ_F8),
    _card("vq-f8-n256", VQ_F8_SMALL),
    _card("vq-f16", VQ_F16),
)
