"""What a run is: the typed config that recipes return, `--set` changes and `config.json` keeps.

Learning rates are what was typed: nothing scales them by batch size or number of devices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sfumato.build import ConditionerConfig, FirstStageConfig, PriorConfig
from sfumato.io.pretrained import SamplingDefaults


@dataclass(frozen=True)
class DataConfig:
    """How pictures are read. `size`: side in pixels after resizing; `flip`: mirror half of the training pictures."""

    size: int = 256
    channels: int = 3
    background: str = "white"
    crop: Literal["center", "pad"] = "center"
    flip: bool = False
    max_bad_fraction: float = 0.01


@dataclass(frozen=True)
class OptimConfig:
    """One training stage. `batch_size` is the whole batch, in `accumulate` parts; cadences are in steps.

    `decay`: constant, or cosine to `final_learning_rate` over the last `decay_fraction` of the steps.
    `ema_decay` 0 switches the moving average off. `grad_clip` 0 means no clipping.
    """

    steps: int = 10_000
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-4
    final_learning_rate: float = 0.0
    warmup_steps: int = 100
    decay: Literal["constant", "cosine"] = "constant"
    decay_fraction: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    grad_clip: float = 0.0
    ema_decay: float = 0.999
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpointing: bool = False
    compile: bool = False
    checkpoint_every: int = 1000
    sample_every: int = 1000
    log_every: int = 20
    max_bad_steps: int = 20


@dataclass(frozen=True)
class FirstStageLossConfig:
    """The first stage's objective (Rombach et al. 2021, arXiv 2112.10752, eq. 25; Esser et al. 2020, arXiv 2012.09841).

    `perceptual`: "embedded", or "lpips" with the paths of VGG16 (`lpips_vgg`) and its linear heads, or "none".
    `gan_start`: a step, or "settled" for when reconstruction stops improving, or "never".
    """

    pixel: Literal["l1", "l2"] = "l1"
    perceptual: Literal["embedded", "lpips", "none"] = "embedded"
    perceptual_weight: float = 1.0
    lpips_vgg: str = ""
    lpips_heads: str = ""
    kl_weight: float = 1e-6
    learn_log_variance: bool = True
    gan_weight: float = 0.5
    gan_start: int | Literal["settled", "never"] = "settled"
    gan_loss: Literal["hinge", "non_saturating"] = "hinge"
    discriminator_channels: int = 64
    discriminator_layers: int = 3
    discriminator_learning_rate: float = 0.0


@dataclass(frozen=True)
class FirstStageRun:
    """Stage 1: the first stage, its loss and its optimization."""

    model: FirstStageConfig
    loss: FirstStageLossConfig = field(default_factory=FirstStageLossConfig)
    train: OptimConfig = field(default_factory=OptimConfig)


@dataclass(frozen=True)
class PriorRun:
    """Stage 2: the prior and the conditioner, trained jointly.

    `dropout`: share of conditions replaced by null. `condition`: what pictures are conditioned on; "auto" takes
    captions where the data has them, else classes, else nothing. The conditioner is then adapted to the data.
    """

    model: PriorConfig
    conditioner: ConditionerConfig
    condition: Literal["auto", "text", "class", "none"] = "auto"
    train: OptimConfig = field(default_factory=OptimConfig)
    dropout: float = 0.1


@dataclass(frozen=True)
class RunConfig:
    """A whole run, as `sfumato train` resolves it."""

    name: str
    data: DataConfig
    first_stage: FirstStageRun
    prior: PriorRun
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    seed: int = 0
