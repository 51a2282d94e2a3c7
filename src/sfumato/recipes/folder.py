"""Runs for a folder of one's own."""

from __future__ import annotations

from sfumato.conditioners.text import TextConfig
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName
from sfumato.diffusion.weighting import TimeSampling
from sfumato.first_stages.kl import KLConfig
from sfumato.io.pretrained import SamplingDefaults
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.training.config import DataConfig, FirstStageLossConfig, FirstStageRun, OptimConfig, PriorRun, RunConfig


def tiny() -> RunConfig:
    """Both stages end to end in under a minute on two CPU cores: to see that everything works, not to get a good model.

    Command: `sfumato train tiny --data DIR --out RUN`. Hardware: any. Mirrors no row of the paper.
    """
    return RunConfig(
        name="tiny",
        data=DataConfig(size=32),
        first_stage=FirstStageRun(
            model=KLConfig(
                network=AutoencoderConfig(channels=16, multipliers=(1, 2, 2), num_res_blocks=1, mid_attention=False)
            ),
            loss=FirstStageLossConfig(gan_start=120, discriminator_channels=16, discriminator_layers=2),
            train=_short(160, 8),
        ),
        prior=PriorRun(
            model=DiffusionConfig(
                network=UNetConfig(
                    4, 4, channels=32, multipliers=(1, 2), num_res_blocks=1, attention_factors=(2,), head_channels=16
                ),
            ),
            conditioner=TextConfig(dim=32, depth=1, heads=2, head_channels=16, length=16, vocabulary=512),
            train=_short(300, 16),
        ),
        sampling=SamplingDefaults(steps=10, guidance=2.0),
    )


def _short(steps: int, batch_size: int) -> OptimConfig:
    return OptimConfig(
        steps=steps, batch_size=batch_size, learning_rate=1e-3, warmup_steps=10, ema_decay=0.99, grad_clip=0.0,
        checkpoint_every=100, sample_every=200, log_every=20,
    )  # fmt: skip


def folder() -> RunConfig:
    """A model of one's own pictures at 128 px: a few hundred to a hundred thousand of them, one GPU overnight or less.

    Command: `sfumato train folder --data DIR --out RUN`. Hardware: one GPU of 12 GB or more (on less,
    `--set prior.train.accumulate=4`); a CPU works and takes days. The paper's method at f = 4 with a smaller network.
    """
    return RunConfig(
        name="folder",
        data=DataConfig(size=128),
        first_stage=FirstStageRun(
            model=KLConfig(network=AutoencoderConfig(channels=64, multipliers=(1, 2, 4), num_res_blocks=2, latent_channels=4)),
            loss=FirstStageLossConfig(),
            train=OptimConfig(
                steps=20_000, batch_size=16, learning_rate=2e-4, warmup_steps=500, decay="cosine", decay_fraction=0.3,
            ),
        ),
        prior=PriorRun(
            model=DiffusionConfig(
                network=UNetConfig(4, 4, channels=128, multipliers=(1, 2, 3), num_res_blocks=2, attention_factors=(2, 4)),
                schedule=ScheduleConfig(name=ScheduleName.rectified),
                prediction=Prediction.velocity,
                time_sampling=TimeSampling.logit_normal,
            ),
            conditioner=TextConfig(dim=256, depth=4, heads=4, length=64, vocabulary=4096),
            train=OptimConfig(
                steps=60_000, batch_size=64, learning_rate=3e-4, warmup_steps=1000, decay="cosine", decay_fraction=0.3,
                ema_decay=0.9995, grad_clip=1.0, weight_decay=0.01,
            ),
        ),
        sampling=SamplingDefaults(sampler="dpmpp_2m", spacing="trailing", steps=25, guidance=3.0),
    )  # fmt: skip
