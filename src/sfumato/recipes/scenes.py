"""Scenes of several emoji (`sfumato data scenes`): words with relations, boxes and class maps over one first stage."""

from __future__ import annotations

import dataclasses

from sfumato.build import TrainedConditionerConfig
from sfumato.conditioners.layout import LayoutConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.conditioners.text import TextConfig
from sfumato.first_stages.kl import KLConfig
from sfumato.io.storage import Storage
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.hourglass import HourglassConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.recipes.emoji import emoji
from sfumato.recipes.tasks import with_conditioner
from sfumato.training.config import RunConfig

REACH = 3  # "left of a zebra": the word that says where is three tokens from the thing
_NETWORK = HourglassConfig(16, 16, widths=(192, 320), depths=(2, 4), condition_channels=128, dropout=0.1)


def scenes() -> RunConfig:
    """Text with relations: "a zebra left of a red apple".

    Command: `sfumato train scenes --data DIR --out RUN` with DIR from `sfumato data scenes DIR --count 40000`. Hardware: one
    H200; over a first stage that is there (`--first-stage RUN`) the prior takes 10 minutes. Result: docs/tasks.md.
    """
    conditioner = TextConfig(
        dim=192, depth=3, heads=3, head_channels=64, length=48, vocabulary=2048, vector_dim=192, reach=REACH
    )
    return _scenes("scenes", conditioner, 13_400)


def scenes_layout() -> RunConfig:
    """Boxes with labels; `--first-stage RUN` takes that of a `scenes` run.

    Command: `sfumato train scenes-layout --data DIR --out RUN`. Hardware: one H100. Result: docs/tasks.md.
    """
    config = LayoutConfig(dim=192, depth=3, heads=3, head_channels=64, vocabulary=1100, num_objects=6)
    return _scenes("scenes-layout", config)


def scenes_semantic() -> RunConfig:
    """Class maps; `--first-stage RUN` takes that of a `scenes` run.

    Command: `sfumato train scenes-semantic --data DIR --out RUN`. Hardware: one H100. Result: docs/tasks.md.
    """
    return _scenes("scenes-semantic", SegmentationConfig(channels=16, halvings=3), 3_500)


def _scenes(name: str, conditioner: TrainedConditionerConfig, steps: int = 5_000) -> RunConfig:
    base = emoji()
    autoencoder = AutoencoderConfig(
        channels=32, multipliers=(1, 2, 3, 4), num_res_blocks=1, mid_attention=False, latent_channels=16, norm_groups=8
    )
    first = dataclasses.replace(base.first_stage, model=KLConfig(network=autoencoder))
    first = dataclasses.replace(first, train=dataclasses.replace(first.train, steps=4_000))
    train = dataclasses.replace(base.prior.train, steps=steps, checkpoint_every=2_000, sample_every=4_000)
    assert isinstance(base.prior.model, DiffusionConfig)
    model = dataclasses.replace(base.prior.model, network=_NETWORK)
    prior = dataclasses.replace(base.prior, model=model, train=train, balance_by="")
    data = dataclasses.replace(base.data, channels=3)
    run = dataclasses.replace(base, name=name, data=data, first_stage=first, prior=prior, storage=Storage.fp16)
    return with_conditioner(run, conditioner)
