"""One of our models as the authors' single file: names, scale factor, and what has no form there.

    prior.denoiser.network.*   -> model.diffusion_model.*
    first_stage.*              -> first_stage_model.*, its statistics as scale_factor
    conditioner.*              -> cond_stage_model.*, conditioner.embedders.*, embedder.*

Stable Diffusion 2's text tower may be without its last layer and its projection, as diffusers folders hold it: nothing uses
them. Schedule, size and the authors' sampling are not in such files; the card of the published model has them. The
prediction is noted as `modelspec.prediction_type`, zero terminal SNR by fine-tuners' markers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sfumato.build import ConditionerConfig, ModelConfig
from sfumato.conditioners.checkpoint import to_checkpoint
from sfumato.conditioners.clip_text import VIT_H, ClipTextsConfig
from sfumato.conditioners.compose import CompositeConfig
from sfumato.conditioners.image_embedding import ImageEmbeddingConfig
from sfumato.conditioners.label import LabelConfig
from sfumato.conditioners.text import TextConfig
from sfumato.diffusion.prediction import Prediction
from sfumato.diffusion.schedule import ScheduleName
from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop import compvis
from sfumato.interop.markers import MARKERS
from sfumato.interop.scale import with_one_scale
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig

PREDICTIONS = {Prediction.eps: "epsilon", Prediction.v: "v"}
OUR_CONDITIONER = "conditioner."


def single_file(config: ModelConfig, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A `LatentModel`'s state -> (tensors under the authors' names, the file's notes). Types and bits stay.

    A first stage with a shift or with scales by channel is the exception: `with_one_scale`. Raises `InputError` for a model
    that has no form there.
    """
    unet, stage = published_networks(config)
    for part in parts_of(config.conditioner):
        _check_part(part, state)
    first, factor = with_one_scale(stage, behind(state, compvis.OUR_FIRST_STAGE))
    own = {name: value for name, value in state.items() if name.startswith(compvis.OUR_UNET)}
    own |= {compvis.OUR_FIRST_STAGE + name: value for name, value in first.items()}
    tensors = compvis.model_keys(unet, stage).to_theirs(own)
    tensors |= to_checkpoint(config.conditioner, behind(state, OUR_CONDITIONER))
    tensors[compvis.SCALE_FACTOR] = stored_factor(factor)
    if diffusion_of(config).schedule.zero_terminal_snr:
        tensors |= {marker: torch.zeros(1) for marker in MARKERS}  # such a model's prediction is v
    return tensors, {"modelspec.prediction_type": PREDICTIONS[diffusion_of(config).prediction]}


def diffusion_of(config: ModelConfig) -> DiffusionConfig:
    """The prior's config. Raises `InputError` for a prior of another kind, which no published model has."""
    if not isinstance(config.prior, DiffusionConfig):
        raise InputError(
            f"a prior of the kind {config.prior.kind} has no published form, only diffusion has; keep the native form."
        )
    return config.prior


def published_networks(config: ModelConfig) -> tuple[UNetConfig, KLConfig | VQConfig]:
    """U-Net and first stage. Raises `InputError` for networks, predictions and schedules that no published model has."""
    prior, stage = diffusion_of(config), config.first_stage
    unet, schedule = prior.network, prior.schedule
    if not isinstance(unet, UNetConfig):
        raise InputError(f"a denoiser of the kind {unet.kind} has no published form, only U-Nets have; keep the native form.")
    if not isinstance(stage, KLConfig | VQConfig):
        raise InputError(f"a first stage of the kind {stage.kind} has no published form, only kl and vq; keep the native form.")
    if isinstance(stage, VQConfig) and stage.levels:
        raise InputError(
            "a first stage of finite scalar quantization has no published form, only codebooks have; keep the native form."
        )
    if isinstance(stage, VQConfig) and stage.quantizer is not None:
        raise InputError(
            f"a first stage of the quantizer {stage.quantizer.method} has no published form; keep the native form."
        )
    if prior.prediction not in PREDICTIONS:
        raise InputError(f"the prediction {prior.prediction.value} has no published form, only eps and v have.")
    if schedule.name is not ScheduleName.scaled_linear or schedule.num_steps != 1000:
        said = f"{schedule.name.value} of {schedule.num_steps} steps"
        raise InputError(f"the schedule {said} has no published form, only scaled_linear of 1000 steps has.")
    return unet, stage


def parts_of(config: ConditionerConfig) -> Iterator[ConditionerConfig]:
    """The conditioner, or those that it is composed of."""
    if isinstance(config, CompositeConfig):
        yield from (part.conditioner for part in config.parts)
    else:
        yield config


def behind(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What is named `prefix` and more, by the rest of its name."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def stored_factor(factor: float) -> Tensor:
    """A scale factor whose inverse in fp32 is exactly our scale: in fp32 where one is, else in float64."""
    scale = torch.tensor(1 / factor, dtype=torch.float64).float()
    near = torch.tensor(factor, dtype=torch.float64).float()
    for found in (near, near.nextafter(torch.tensor(0.0)), near.nextafter(torch.tensor(torch.inf))):
        if torch.equal((1 / found.double()).float(), scale):
            return found
    return torch.tensor(1 / float(scale), dtype=torch.float64)


def _check_part(config: ConditionerConfig, state: Mapping[str, Tensor]) -> None:
    if isinstance(config, TextConfig | LabelConfig):
        raise InputError(f"a conditioner of the kind {config.kind} has no published form; keep the native form.")
    if isinstance(config, ClipTextsConfig):
        for tower in config.towers:
            if tower.pad == "zero" and tower.skip == 0 and tower.layers >= VIT_H.layers:
                raise InputError(
                    f"the text tower is read to its layer {tower.layers}, which readers of the authors' files leave out; "
                    "keep the native or the diffusers form."
                )
    if isinstance(config, ImageEmbeddingConfig):
        mean, std = (next(v for n, v in state.items() if n.startswith(OUR_CONDITIONER) and n.endswith(e)) for e in _STATISTICS)
        if mean.any() or not (std == 1).all():
            raise InputError(
                "the statistics of this model's image embeddings have no place in a single file; "
                "keep the native or the diffusers form."
            )


_STATISTICS = (".mean", ".std")
