"""Rows of the paper at their published widths (Rombach et al. 2021, arXiv 2112.10752, tables 12 and 18)."""

from __future__ import annotations

from sfumato.conditioners.text import TextConfig
from sfumato.diffusion.schedule import ScheduleConfig
from sfumato.first_stages.kl import KLConfig
from sfumato.io.pretrained import SamplingDefaults
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.training.config import DataConfig, FirstStageLossConfig, FirstStageRun, OptimConfig, PriorRun, RunConfig


def ldm_f4() -> RunConfig:
    """LDM-4 at 256 px over the KL autoencoder f = 4: the 274 M denoiser of the CelebA-HQ, FFHQ and LSUN-Bedrooms rows.

    Command: `sfumato train ldm-f4 --data DIR --out RUN`. Hardware: one GPU of 80 GB. Not trained here: no result.
    """
    network = UNetConfig(3, 3, channels=224, multipliers=(1, 2, 3, 4), num_res_blocks=2, attention_factors=(2, 4, 8))
    return _paper(
        "ldm-f4", AutoencoderConfig(multipliers=(1, 2, 4), latent_channels=3), network, batch_size=48, beta_end=0.0195
    )


def ldm_f8() -> RunConfig:
    """LDM-8 at 256 px over the KL autoencoder f = 8: the denoiser of the LSUN-Churches row.

    Command: `sfumato train ldm-f8 --data DIR --out RUN`. Hardware: one GPU of 80 GB. Not trained here: no result.
    """
    network = UNetConfig(
        4, 4, channels=192, multipliers=(1, 2, 2, 4, 4), num_res_blocks=2, attention_factors=(1, 2, 4, 8),
        head_channels=None, num_heads=8, scale_shift=True, resblock_updown=True,
    )  # fmt: skip
    return _paper("ldm-f8", AutoencoderConfig(multipliers=(1, 2, 4, 4)), network, batch_size=96, beta_end=0.0155)


def _paper(name: str, autoencoder: AutoencoderConfig, network: UNetConfig, *, batch_size: int, beta_end: float) -> RunConfig:
    return RunConfig(
        name=name,
        data=DataConfig(size=256, flip=True),
        first_stage=FirstStageRun(
            model=KLConfig(network=autoencoder),
            loss=FirstStageLossConfig(gan_start=50_001, gan_weight=0.5),
            train=OptimConfig(steps=200_000, batch_size=12, learning_rate=5.4e-5, betas=(0.5, 0.9), checkpoint_every=5000),
        ),
        prior=PriorRun(
            model=DiffusionConfig(network=network, schedule=ScheduleConfig(beta_start=0.0015, beta_end=beta_end)),
            conditioner=TextConfig(dim=512, depth=16),
            train=OptimConfig(
                steps=400_000, batch_size=batch_size, learning_rate=9.6e-5, ema_decay=0.9999, checkpoint_every=5000
            ),
        ),
        sampling=SamplingDefaults(sampler="ddim", steps=200, guidance=1.0),
    )
