"""What a card says of a published model: plain facts, nothing built."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

from sfumato.build import ConditionerConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleConfig
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig


class Family(enum.Enum):
    """Who made it."""

    latent_diffusion = "latent diffusion"
    stable_diffusion_1 = "stable diffusion 1"
    stable_diffusion_2 = "stable diffusion 2"
    sdxl = "stable diffusion xl"


class Task(enum.Enum):
    """What it makes pictures from."""

    unconditional = "unconditional"
    class_label = "class label"
    text = "text"
    layout = "layout"
    segmentation = "segmentation map"
    super_resolution = "super-resolution"
    inpainting = "inpainting"
    depth = "depth and text"
    edit = "picture and instruction"
    variation = "image embedding and text"
    retrieval = "retrieved neighbours"
    refine = "refining a picture"


class Source(enum.Enum):
    """What a condition comes from."""

    classes = "table of classes"
    bert = "BERT-style transformer"
    clip_text = "CLIP text tower"
    open_clip_text = "OpenCLIP text tower"
    clip_image = "CLIP image tower, noised"
    neighbours = "CLIP vectors of neighbours"
    segmentation = "spatial rescaler"
    low_resolution = "low-resolution picture"
    masked_picture = "mask and masked latent"
    picture = "latent of a picture"
    depth = "depth map"
    noise_level = "noise level"
    sizes = "sizes and crops"


@dataclass(frozen=True)
class Condition:
    """One condition and where it enters: a described encoder, not a built one.

    dim: channels of its tokens, maps or vector. depth: layers of its encoder. length: tokens (0 for as many as are given).
    vocabulary: entries of its table. detail: which encoder, layer or range, where there is a choice.
    """

    source: Source
    slot: Literal["context", "concat", "vector"]
    dim: int
    depth: int = 0
    length: int = 0
    vocabulary: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Sampling:
    """The authors' own sampling: a sampler's name in `samplers.SAMPLERS`, steps, guidance scale (1 is none), plan of times.

    DDIM with eta = 1 goes by its name here, ddpm. `spacing`: a name of `diffusion.grids.Spacing`, None for the sampler's own.
    """

    sampler: str = "ddim"
    steps: int = 50
    guidance: float = 1.0
    spacing: str | None = "leading"


@dataclass(frozen=True)
class Card:
    """A published model. `scale_factor`: z_unit = scale_factor * z; None where the file alone has it (it was measured).

    `conditions` describes what `conditioner` builds.
    """

    name: str
    family: Family
    task: Task
    source: str
    first_stage: KLConfig | VQConfig
    prior: DiffusionConfig
    image_size: tuple[int, int]
    scale_factor: float | None = 1.0
    conditions: tuple[Condition, ...] = ()
    conditioner: ConditionerConfig = field(default_factory=NoneConfig)
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def unet(self) -> UNetConfig:
        """The denoiser."""
        assert isinstance(self.prior.network, UNetConfig)
        return self.prior.network


@dataclass(frozen=True)
class FirstStageCard:
    """A first stage that was published alone."""

    name: str
    source: str
    config: KLConfig | VQConfig


def prior(
    unet: UNetConfig,
    beta_start: float,
    beta_end: float,
    prediction: Prediction = Prediction.eps,
    loss: Literal["l2", "l1"] = "l2",
) -> DiffusionConfig:
    """A prior over the 1000 steps, linear in sqrt(beta), of all published models."""
    return DiffusionConfig(unet, ScheduleConfig(beta_start=beta_start, beta_end=beta_end), prediction, loss=loss)
