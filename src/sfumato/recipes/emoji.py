"""The default model: text to 128 px emoji in five styles, trained on `sfumato data emoji`."""

from __future__ import annotations

import dataclasses

from sfumato.conditioners.text import TextConfig
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName
from sfumato.diffusion.weighting import TimeSampling
from sfumato.first_stages.kl import KLConfig
from sfumato.io.pretrained import SamplingDefaults
from sfumato.io.storage import Storage
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.hourglass import HourglassConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig, NetworkConfig
from sfumato.training.config import DataConfig, FirstStageLossConfig, FirstStageRun, OptimConfig, PriorRun, RunConfig


def emoji() -> RunConfig:
    """f = 8 with 16 channels: latents of 16 x 16, so that the denoiser is quick on a laptop.

    Command: `sfumato train emoji --data DIR --out RUN` with DIR from `sfumato data emoji DIR`. Hardware: one H100, 24 minutes,
    of which the first stage trains for 3.3 and the prior for 16.8. Mirrors no row of the paper: the denoiser is a transformer.
    Result: docs/results.md.
    """
    network = HourglassConfig(16, 16, widths=(256, 384), depths=(2, 6), condition_channels=128, dropout=0.1)
    conditioner = TextConfig(dim=192, depth=3, heads=3, head_channels=64, length=32, vocabulary=4096, vector_dim=192)
    base = _emoji("emoji", _AUTOENCODER, network, conditioner)
    train = dataclasses.replace(base.prior.train, optimizer="muon", learning_rate=5e-3, steps=17_000, ema_decay=0.999)
    assert isinstance(base.prior.model, DiffusionConfig)
    model = dataclasses.replace(base.prior.model, time_sampling=TimeSampling.stratified)
    prior = dataclasses.replace(base.prior, train=train, model=model)
    return dataclasses.replace(base, prior=prior, storage=Storage.int8)


def emoji_unet() -> RunConfig:
    """The same with the paper's U-Net, a smaller text encoder and AdamW.

    Command: `sfumato train emoji-unet --data DIR --out RUN`. Hardware: one H100. Not trained whole: after 45 seconds of prior
    its held-out loss is 0.478, the transformer's 0.373 (docs/lab-log.md).
    """
    network = UNetConfig(
        16, 16, channels=96, multipliers=(1, 2), num_res_blocks=1, attention_factors=(1, 2), head_channels=32, qk_norm=True
    )
    return _emoji("emoji-unet", _AUTOENCODER, network, _TEXT)


def emoji_f4() -> RunConfig:
    """The paper's U-Net over f = 4 and 4 channels: as many numbers a latent, four times the denoiser's work; GAN term.

    Command: `sfumato train emoji-f4 --data DIR --out RUN`. Hardware: one H100, 4.2 minutes for the first stage, which on
    512 validation pictures reached 34.98 dB, SSIM 0.977, perceptual distance 0.039. The prior has not been trained.
    """
    autoencoder = AutoencoderConfig(
        channels=32, multipliers=(1, 2, 4), num_res_blocks=2, mid_attention=False, latent_channels=4, norm_groups=8
    )
    network = UNetConfig(
        4, 4, channels=64, multipliers=(1, 2, 3), num_res_blocks=1, attention_factors=(2, 4), head_channels=32, qk_norm=True
    )
    base = _emoji("emoji-f4", autoencoder, network, _TEXT)
    loss = dataclasses.replace(base.first_stage.loss, gan_start=1_500, gan_weight=0.1, discriminator_learning_rate=1e-4)
    train = dataclasses.replace(base.first_stage.train, steps=4_000)
    return dataclasses.replace(base, first_stage=dataclasses.replace(base.first_stage, loss=loss, train=train))


_AUTOENCODER = AutoencoderConfig(
    channels=32, multipliers=(1, 2, 3, 4), num_res_blocks=1, mid_attention=False, latent_channels=16, norm_groups=8
)
_TEXT = TextConfig(dim=128, depth=2, heads=4, head_channels=32, length=32, vocabulary=2048, vector_dim=128)


def _emoji(name: str, autoencoder: AutoencoderConfig, network: NetworkConfig, conditioner: TextConfig) -> RunConfig:
    return RunConfig(
        name=name,
        data=DataConfig(size=128, channels=4),
        first_stage=FirstStageRun(
            model=KLConfig(network=autoencoder),
            loss=FirstStageLossConfig(perceptual_weight=0.3, kl_weight=0.5, gan_start="never"),
            train=OptimConfig(
                steps=7_000, batch_size=64, learning_rate=6e-4, warmup_steps=300, decay="cosine", decay_fraction=0.6,
                ema_decay=0.999, compile=True, cuda_graphs=True, checkpoint_every=2000, sample_every=3500, log_every=200,
            ),
        ),
        prior=PriorRun(
            model=DiffusionConfig(
                network=network,
                schedule=ScheduleConfig(name=ScheduleName.rectified),
                prediction=Prediction.velocity,
                time_sampling=TimeSampling.logit_normal,
            ),
            conditioner=conditioner,
            train=OptimConfig(
                steps=14_000, batch_size=512, learning_rate=1e-3, warmup_steps=500, decay="cosine", decay_fraction=0.6,
                ema_decay=0.9995, grad_clip=1.0, weight_decay=0.01, compile=True, cuda_graphs=True,
                checkpoint_every=1000, sample_every=2000, log_every=500,
            ),
            balance_by="family",
            balance=0.6,
        ),
        sampling=SamplingDefaults(sampler="dpmpp_2m", spacing="trailing", steps=10, guidance=2.0),
    )  # fmt: skip
