"""One run for each downsampling factor f, to be compared at equal compute: what `sfumato study compression` trains.

The denoisers have one number of parameters, 16.3 million, give or take 7 %, as in the paper's study (table 13: 391 to 396
million). Where latents are large the U-Net halves them down to 8 x 8, with attention on the last two sizes; where they are
small it is one level, and wider. Hence compute a step falls with f, and what is equal is time.
"""

from __future__ import annotations

import dataclasses

from sfumato.conditioners.none import NoneConfig
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig, ScheduleName
from sfumato.diffusion.weighting import TimeSampling
from sfumato.errors import InputError
from sfumato.first_stages.identity import IdentityConfig
from sfumato.first_stages.kl import KLConfig
from sfumato.io.pretrained import SamplingDefaults
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.training.config import DataConfig, FirstStageLossConfig, FirstStageRun, OptimConfig, PriorRun, RunConfig

FACTORS = (1, 2, 4, 8, 16, 32)
LATENT_CHANNELS = {2: 3, 4: 3, 8: 4, 16: 8, 32: 32}
"""As in the paper's tables 12 and 13, but for f = 2, which has two there; three did no better in three minutes, and the results
in docs/studies.md are of three. f = 1 is pixels themselves."""
SMALLEST_SIDE = 4
"""Of latents."""

_WIDTHS = {1: (256, (1,)), 2: (128, (1, 2)), 3: (64, (1, 2, 4)), 4: (64, (1, 1, 2, 4)), 5: (64, (1, 1, 1, 2, 4))}
_AUTOENCODER = (1, 2, 3, 4, 4, 4)
_MANY = 10**9  # steps: the time budget ends a stage


def compression(factor: int, size: int = 128, *, seconds: float = 180.0) -> RunConfig:
    """The run of f = `factor` on pictures of `size` pixels, `seconds` for each of its stages; f = 1 has no first stage.

    Command: `sfumato study compression --data DIR --out OUT`. Hardware: one H100. Mirrors the paper's LDM-1 ... LDM-32 of
    figures 6 and 7, but for the U-Net's size, rectified flow in place of the 1,000 noise levels, no GAN term in the
    first stages and no classes. Raises `InputError` for factors and sizes that do not go together.
    """
    check(factor, size)
    side = size // factor
    levels = min(max(side.bit_length() - 3, 1), max(_WIDTHS))
    channels, multipliers = _WIDTHS[levels]
    attention = tuple(2**level for level in range(max(0, levels - 2), levels))
    latent = 3 if factor == 1 else LATENT_CHANNELS[factor]
    network = UNetConfig(
        latent, latent, channels=channels, multipliers=multipliers, attention_factors=attention, head_channels=32, qk_norm=True
    )
    autoencoder = AutoencoderConfig(
        channels=32,
        multipliers=_AUTOENCODER[: factor.bit_length()],
        num_res_blocks=1,
        mid_attention=False,
        latent_channels=latent,
        norm_groups=8,
    )
    return RunConfig(
        name=f"compression-f{factor}",
        data=DataConfig(size=size),
        first_stage=FirstStageRun(
            model=IdentityConfig() if factor == 1 else KLConfig(autoencoder),
            loss=FirstStageLossConfig(perceptual_weight=0.3, kl_weight=0.5, gan_start="never"),
            train=OptimConfig(
                steps=_MANY, seconds=seconds, batch_size=64, learning_rate=6e-4, warmup_steps=300, decay="cosine",
                decay_fraction=0.6, cuda_graphs=True, checkpoint_every=10_000, sample_every=100_000, log_every=200,
            ),
        ),
        prior=PriorRun(
            model=DiffusionConfig(
                network=network,
                schedule=ScheduleConfig(name=ScheduleName.rectified),
                prediction=Prediction.velocity,
                time_sampling=TimeSampling.logit_normal,
            ),
            conditioner=NoneConfig(),
            condition="given",
            train=OptimConfig(
                steps=_MANY, seconds=seconds, batch_size=max(32, min(256, 4096 // side)), learning_rate=4e-4,
                warmup_steps=200, ema_decay=0.999, grad_clip=1.0, cuda_graphs=True, checkpoint_every=10_000,
                sample_every=100_000, log_every=500,
            ),
            dropout=0.0,
        ),
        sampling=SamplingDefaults(sampler="ddim", spacing="trailing", steps=50, guidance=1.0),
    )  # fmt: skip


def compression_tiny(factor: int, size: int = 16, *, seconds: float = 1.0) -> RunConfig:
    """The same with networks of a few thousand parameters. Hardware: any. To see that everything works."""
    base = compression(factor, size, seconds=seconds)
    first, prior = base.first_stage, base.prior
    model = first.model
    if isinstance(model, KLConfig):
        small = dataclasses.replace(model.network, channels=8, multipliers=(1,) * factor.bit_length(), norm_groups=4)
        model = dataclasses.replace(model, network=small)
    assert isinstance(prior.model, DiffusionConfig)
    assert isinstance(prior.model.network, UNetConfig)
    levels = len(prior.model.network.multipliers)
    network = dataclasses.replace(prior.model.network, channels=32, multipliers=(1,) * levels, num_res_blocks=1)
    first = dataclasses.replace(first, model=model, loss=dataclasses.replace(first.loss, perceptual="none"))
    prior = dataclasses.replace(prior, model=dataclasses.replace(prior.model, network=network))
    return dataclasses.replace(
        base,
        name=f"compression-tiny-f{factor}",
        first_stage=dataclasses.replace(first, train=_quick(first.train)),
        prior=dataclasses.replace(prior, train=_quick(prior.train)),
        sampling=dataclasses.replace(base.sampling, steps=2),
    )


def _quick(train: OptimConfig) -> OptimConfig:
    return dataclasses.replace(train, batch_size=8, warmup_steps=2)


def check(factor: int, size: int) -> None:
    """Raises `InputError` unless `factor` is one of `FACTORS` and `size` a power of two that it leaves large enough."""
    if factor not in FACTORS:
        raise InputError(f"factor {factor}: expected one of {', '.join(map(str, FACTORS))}.")
    if size < SMALLEST_SIDE or size & (size - 1):
        raise InputError(f"size {size}: expected a power of two, such as 64 or 128, which every factor divides.")
    if size // factor < SMALLEST_SIDE:
        raise InputError(
            f"factor {factor} leaves {size} px pictures latents of {size // factor} x {size // factor}: expected "
            f"{SMALLEST_SIDE} or more; leave this factor out or take --size {SMALLEST_SIDE * factor}."
        )
