"""The tasks on the emoji of the default model, over its first stage: what docs/tasks.md shows."""

from __future__ import annotations

import dataclasses

from sfumato.build import TrainedConditionerConfig
from sfumato.conditioners.compose import TEXT, CompositeConfig, Part
from sfumato.conditioners.label import LabelConfig
from sfumato.conditioners.low_resolution import LowResolutionConfig
from sfumato.conditioners.masked import MaskedImageConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioners.retrieved import RetrievedConfig
from sfumato.conditioners.text import TextConfig
from sfumato.first_stages.identity import IdentityConfig
from sfumato.io.storage import Storage
from sfumato.networks.hourglass import HourglassConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig, NetworkConfig
from sfumato.priors.regression import RegressionConfig
from sfumato.recipes.emoji import emoji
from sfumato.recipes.tasks import ANY_CLASSES, with_conditioner
from sfumato.training.config import FirstStageRun, RunConfig

CHANNELS = 16  # of the default model's latents
_SMALL = HourglassConfig(CHANNELS, CHANNELS, widths=(192, 320), depths=(2, 4), condition_channels=128, dropout=0.1)
_SMALLER = HourglassConfig(CHANNELS, CHANNELS, widths=(192, 256), depths=(2, 4), condition_channels=128, dropout=0.1)
_TEXT = TextConfig(dim=128, depth=2, heads=4, head_channels=32, length=32, vocabulary=2048, vector_dim=128)
_MASK = MaskedImageConfig(convention="paper")


def emoji_inpaint() -> RunConfig:
    """Inpainting with or without words; ships with the package.

    Command: `sfumato train emoji-inpaint --data DIR --out RUN` with DIR from `sfumato data emoji DIR`. Hardware: one H100.
    Result: docs/tasks.md.
    """
    conditioner = CompositeConfig((Part(TEXT, _TEXT), Part("mask", _MASK)))
    return _task("emoji-inpaint", conditioner, _SMALL, 8_000)


def emoji_upscale() -> RunConfig:
    """Super-resolution from 32 to 128 px; ships with the package.

    Command: `sfumato train emoji-upscale --data DIR --out RUN`. Hardware: one H100. Result: docs/tasks.md.
    """
    return _task("emoji-upscale", LowResolutionConfig(), _SMALLER, 6_000)


def emoji_upscale_regression() -> RunConfig:
    """The same network as `emoji-upscale`, trained to say the mean: what diffusion is compared with.

    Command: `sfumato train emoji-upscale-regression --data DIR --out RUN`. Hardware: one H100. Result: docs/tasks.md.
    """
    base = _task("emoji-upscale-regression", LowResolutionConfig(), _SMALLER, 6_000)
    prior = dataclasses.replace(base.prior, model=RegressionConfig(_SMALLER))
    return dataclasses.replace(base, prior=prior)


def emoji_inpaint_latent() -> RunConfig:
    """A U-Net over latents, to be set beside `emoji-inpaint-pixel` at equal training time.

    Command: `sfumato train emoji-inpaint-latent --data DIR --out RUN`. Hardware: one H100. Mirrors the LDM rows of the paper's
    table 6. Result: docs/tasks.md.
    """
    return _unet("emoji-inpaint-latent", CHANNELS, batch_size=256)


def emoji_inpaint_pixel() -> RunConfig:
    """The same U-Net over pixels: 64 times as many places.

    Command: `sfumato train emoji-inpaint-pixel --data DIR --out RUN`. Hardware: one H100. Mirrors LDM-1 of the paper's table 6.
    Result: docs/tasks.md.
    """
    base = _unet("emoji-inpaint-pixel", 4, batch_size=64)
    return dataclasses.replace(base, first_stage=FirstStageRun(IdentityConfig(4)))


def emoji_class() -> RunConfig:
    """The subgroups of Unicode (animal-bird, food-fruit, ...) as classes.

    Command: `sfumato train emoji-class --data DIR --out RUN`. Hardware: one H100. Result: docs/tasks.md.
    """
    base = _task("emoji-class", LabelConfig(ANY_CLASSES, dim=128, as_context=False), _SMALL, 3_500)
    return dataclasses.replace(base, data=dataclasses.replace(base.data, label="subgroup"))


def emoji_style() -> RunConfig:
    """Unconditional, on the emoji of one style.

    Command: `sfumato train emoji-style --data DIR --out RUN`. Hardware: one H100. Result: docs/tasks.md.
    """
    base = _task("emoji-style", NoneConfig(), _SMALL, 2_000)
    return dataclasses.replace(base, data=dataclasses.replace(base.data, where=("style=noto",)))


def emoji_retrieval() -> RunConfig:
    """Told four of each picture's nearest others.

    Command: `sfumato train emoji-retrieval --data DIR --out RUN`. Hardware: one H100. Result: docs/tasks.md.
    """
    return _task("emoji-retrieval", RetrievedConfig(num=4, width=192), _SMALL, 2_500)


def _task(name: str, conditioner: TrainedConditionerConfig, network: NetworkConfig, steps: int) -> RunConfig:
    base = emoji()
    assert isinstance(base.prior.model, DiffusionConfig)
    model = dataclasses.replace(base.prior.model, network=network)
    train = dataclasses.replace(base.prior.train, steps=steps, checkpoint_every=2_000, sample_every=4_000)
    prior = dataclasses.replace(base.prior, model=model, train=train)
    first = dataclasses.replace(base.first_stage, frozen="emoji")
    run = dataclasses.replace(base, name=name, first_stage=first, prior=prior, storage=Storage.int8)
    return with_conditioner(run, conditioner)


def _unet(name: str, channels: int, *, batch_size: int) -> RunConfig:
    network = UNetConfig(
        channels, channels, channels=96, multipliers=(1, 2, 2), num_res_blocks=2, attention_factors=(4,), head_channels=32,
        qk_norm=True,
    )  # fmt: skip
    base = _task(name, _MASK, network, 10_000)
    train = dataclasses.replace(base.prior.train, optimizer="adamw", learning_rate=5e-4, batch_size=batch_size)
    return dataclasses.replace(base, prior=dataclasses.replace(base.prior, train=train), storage=Storage.fp16)
