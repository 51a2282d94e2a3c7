"""What a run is: the typed config that recipes return, `--set` changes and `config.json` keeps.

Learning rates are what was typed: nothing scales them by batch size or number of devices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from sfumato.build import FirstStageConfig, PriorConfig, TrainedConditionerConfig
from sfumato.data.decode import MAX_SIDE
from sfumato.errors import InputError
from sfumato.generation.limits import shorten
from sfumato.io.pretrained import SamplingDefaults
from sfumato.io.storage import Storage
from sfumato.networks.discriminator import DiscriminatorConfig
from sfumato.noise import MAX_SEED
from sfumato.training.operations import as_typed

GAMES = ("non-saturating", "hinge", "relativistic")  # as `sfumato.losses.adversarial.Game` has them
GAMES = ("non-saturating", "hinge", "relativistic")  # as `sfumato.losses.adversarial.Game` has them
MAX_STEPS, MAX_BATCH_SIZE = 10**9, 2**16  # more is a slip of the finger


@dataclass(frozen=True)
class DataConfig:
    """How pictures are read. `size`: side in pixels after resizing; `flip`: mirror half of the training pictures.

    `channels`: 1 grey, 3 RGB, 4 with transparency (laid on white, and alpha); the first stage follows. `where`: FIELD=VALUE
    of the metadata that pictures must have. `label`: the metadata field that is a picture's class.
    """

    size: int = 256
    channels: int = 3
    background: str = "white"
    crop: Literal["center", "pad"] = "center"
    flip: bool = False
    max_bad_fraction: float = 0.01
    where: tuple[str, ...] = ()
    label: str = "label"

    def __post_init__(self) -> None:
        wrong = next((item for item in self.where if not item.partition("=")[1] or not item.partition("=")[0]), None)
        if wrong is not None:
            raise InputError(f"data.where has {shorten(wrong)}: expected FIELD=VALUE, such as style=noto.")
        _at_least(self, 1, "size", "channels")
        _at_most(self, MAX_SIDE, "size")


@dataclass(frozen=True)
class OptimConfig:
    """One training stage. `batch_size` is the whole batch, in `accumulate` parts; cadences are in steps.

    `decay`: constant, or cosine to `final_learning_rate` over the last `decay_fraction` of the steps.
    `optimizer`: "adamw", or "muon" (`sfumato.training.muon`) for matrices, at the same learning rate and decay.
    `ema_decay` 0 switches the moving average off. `grad_clip` 0 means no clipping. `cuda_graphs`: launch a whole step as one
    recorded piece, for networks so small that launching takes longer than computing; without effect on a CPU.
    `seconds`: a time budget that ends the stage before `steps` are done (`sfumato.training.clock` says what counts), and the
    cosine with it; 0 for none. `flops`: a budget in floating-point operations (`sfumato.training.operations` says which); of
    both, the one that is spent first.
    `keep`: of a prior, which weights become the model: the last, or those with the smallest loss of held-out pictures, which
    is measured every `held_out_every` steps (`sfumato.training.held_out`).
    """

    steps: int = 10_000
    batch_size: int = 32
    accumulate: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
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
    cuda_graphs: bool = False
    checkpoint_every: int = 1000
    sample_every: int = 1000
    log_every: int = 20
    max_bad_steps: int = 20
    seconds: float = 0.0
    flops: float = 0.0
    held_out_every: int = 1000
    keep: Literal["last", "best"] = "last"

    @property
    def length(self) -> str:
        """How long the stage is, in words."""
        budgets = [f"{self.seconds:g} s"] if self.seconds > 0 else []
        budgets += [f"{as_typed(self.flops)} operations"] if self.flops > 0 else []
        return f"{' or '.join(budgets)} in steps" if budgets else f"{self.steps} steps"

    def __post_init__(self) -> None:
        _at_least(
            self, 1, "steps", "batch_size", "accumulate", "checkpoint_every", "sample_every", "log_every", "max_bad_steps",
            "held_out_every",
        )  # fmt: skip
        _at_most(self, MAX_STEPS, "steps", "warmup_steps")
        _at_most(self, MAX_BATCH_SIZE, "batch_size")
        _at_least(self, 0, "final_learning_rate", "warmup_steps", "weight_decay", "grad_clip", "seconds", "flops")
        if self.learning_rate <= 0:
            raise InputError(f"learning_rate is {self.learning_rate}: expected more than 0.")
        if self.accumulate > self.batch_size:
            raise InputError(f"accumulate is {self.accumulate}: expected at most batch_size, {self.batch_size}.")
        if not 0 < self.decay_fraction <= 1:
            raise InputError(f"decay_fraction is {self.decay_fraction}: expected above 0, at most 1.")
        if not all(0 <= b < 1 for b in (*self.betas, self.ema_decay)):
            raise InputError(f"betas are {self.betas}, ema_decay is {self.ema_decay}: expected from 0 to below 1.")


@dataclass(frozen=True)
class FirstStageLossConfig:
    """The first stage's objective (Rombach et al. 2021, arXiv 2112.10752, eq. 25; Esser et al. 2020, arXiv 2012.09841).

    `perceptual`: "embedded", or "lpips" with the paths of VGG16 (`lpips_vgg`) and its linear heads, or "none".
    `gan_start`: a step, or "settled" for when reconstruction stops improving, or "never".
    `half_size_weight`: of the same reconstruction loss between the picture halved and the decoded latent halved, which
        makes latents of large shapes large shapes too, easier to denoise (Skorokhodov et al. 2025, arXiv 2502.14831).
    `codebook_weight`, `commitment_weight`: of a VQ first stage (van den Oord et al. 2017, arXiv 1711.00937, eq. 3); the
        second, beta, is times the first. `codebook_decay` above 0 makes codes moving averages instead of learning them (its
        App. A.1; 0.99), and those used less than `codebook_revive` times as often as the mean code are drawn anew.
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
    half_size_weight: float = 0.0
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    codebook_decay: float = 0.0
    codebook_revive: float = 0.0

    def __post_init__(self) -> None:
        _at_least(self, 0, "perceptual_weight", "kl_weight", "gan_weight", "discriminator_learning_rate", "half_size_weight")
        _at_least(self, 0, "codebook_weight", "commitment_weight", "codebook_decay", "codebook_revive")
        _at_least(self, 1, "discriminator_channels", "discriminator_layers")
        if self.codebook_decay >= 1 or self.codebook_revive >= 1:
            raise InputError(
                f"codebook_decay is {self.codebook_decay}, codebook_revive is {self.codebook_revive}: "
                "expected both from 0 to below 1."
            )
        if self.codebook_revive > 0 and self.codebook_decay == 0:
            raise InputError("codebook_revive without codebook_decay: expected codebook_decay above 0 too, such as 0.99.")
        if isinstance(self.gan_start, int):
            _at_least(self, 0, "gan_start")


@dataclass(frozen=True)
class GanConfig:
    """A GAN's game (`sfumato.training.tasks.gan`).

    game: which losses. r1, r2: weights of the penalties, 0 for none; papers that sum the two halves of `d`, which is
    their mean here but for the relativistic game, have twice the weight. penalty_every, generator_every: steps between.

    discriminator_learning_rate: 0 is the generator's. Optimizers want betas such as (0, 0.99).
    """

    game: Literal["non-saturating", "hinge", "relativistic"] = "non-saturating"
    r1: float = 1.0
    r2: float = 0.0
    penalty_every: int = 1
    generator_every: int = 1
    discriminator_learning_rate: float = 0.0

    def __post_init__(self) -> None:
        if min(self.r1, self.r2, self.discriminator_learning_rate) < 0:
            raise InputError(
                f"gan: r1 {self.r1}, r2 {self.r2}, discriminator_learning_rate {self.discriminator_learning_rate}; "
                "expected 0 or more."
            )
        if min(self.penalty_every, self.generator_every) < 1:
            raise InputError(
                f"gan: penalty_every {self.penalty_every}, generator_every {self.generator_every}; expected 1 or more steps."
            )
        if self.game not in GAMES:
            raise InputError(f"gan: game is {self.game!r}; expected non-saturating, hinge or relativistic.")


@dataclass(frozen=True)
class FirstStageRun:
    """Stage 1: the first stage, its loss and its optimization. `gan` and `discriminator` are a generator's in place of `loss`.

    `init`: weights to begin from, with a fresh optimizer: a model directory, or a run's first_stage.safetensors.
    `frozen`: a model or run whose first stage is taken as it is, with its unit scale: nothing is trained here.
    """

    model: FirstStageConfig
    loss: FirstStageLossConfig = field(default_factory=FirstStageLossConfig)
    train: OptimConfig = field(default_factory=OptimConfig)
    init: str = ""
    frozen: str = ""
    gan: GanConfig = field(default_factory=GanConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    @property
    def squared_error_alone(self) -> bool | None:
        """Whether the decoder learned from squared error alone, a Gaussian's; None: it is taken from elsewhere."""
        if self.frozen:
            return None
        loss = self.loss
        perceptual = loss.perceptual != "none" and loss.perceptual_weight > 0
        critic = loss.gan_start != "never" and loss.gan_weight > 0
        return loss.pixel == "l2" and not perceptual and not critic


@dataclass(frozen=True)
class PriorRun:
    """Stage 2: the prior and the conditioner, trained jointly.

    `dropout`: share of conditions replaced by null. `condition`: what pictures are conditioned on; "auto" takes
    captions where the data has them, else classes, else nothing; "given" takes the conditioner's own kind, as every
    kind but those three does. The conditioner is then adapted to the data.
    `init`: a model directory to begin from, with a fresh optimizer; its first stage has to be this run's.
    `balance_by`: a metadata field; of its values, one with n pictures is drawn n^(1 - balance) times as often as one
    with a single picture: at 0 as often as its pictures come, at 1 all values alike. Empty: every picture once an epoch.
    """

    model: PriorConfig
    conditioner: TrainedConditionerConfig
    condition: Literal["auto", "text", "class", "none", "given"] = "auto"
    train: OptimConfig = field(default_factory=OptimConfig)
    dropout: float = 0.1
    init: str = ""
    balance_by: str = ""
    balance: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1:
            raise InputError(f"balance is {self.balance}: expected from 0 (as the data is) to 1 (all values alike).")
        if not 0 <= self.dropout <= 1:
            raise InputError(f"dropout is {self.dropout}: expected a share from 0 to 1.")


@dataclass(frozen=True)
class RunConfig:
    """A whole run, as `sfumato train` resolves it. `storage`: of the finished model's weights; training is not touched."""

    name: str
    data: DataConfig
    first_stage: FirstStageRun
    prior: PriorRun
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    seed: int = 0
    storage: Storage = Storage.fp16

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise InputError(f"seed is {self.seed}: expected from 0 to {MAX_SEED}.")
        if not re.fullmatch(r"[^/\\\x00-\x1f]{1,100}", self.name) or self.name in (".", ".."):
            raise InputError(f"name is {shorten(self.name)}: expected a plain name, without slashes; it names a folder.")


def _at_most(config: Any, most: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) > most:
            raise InputError(f"{name} is {shorten(getattr(config, name))}: expected {most} or less.")


def _at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}: expected {least} or more.")
