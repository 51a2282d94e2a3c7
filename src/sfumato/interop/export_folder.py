"""One of our models as a diffusers folder, which diffusers itself loads: configs in its words, weights as safetensors.

unet, vae or vqvae, scheduler     of every pipeline (`pipelines.py`)
text encoders, tokenizers, ...    as the pipeline has them (`export_parts.py`)
model_index.json                  what they are, and the pipeline's own settings
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.build import ConditionerConfig, ModelConfig
from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.compose import CompositeConfig
from sfumato.conditioners.image_embedding import ImageEmbeddingConfig
from sfumato.conditioners.low_resolution import NoisedLowResolutionConfig
from sfumato.conditioners.picture_latent import PictureLatentConfig
from sfumato.conditioners.sizes import SizesConfig
from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop import compvis, diffusers, diffusers_config, export_parts, pipelines
from sfumato.interop.export import OUR_CONDITIONER, behind, diffusion_of
from sfumato.interop.export_parts import DIFFUSERS_WEIGHTS, VERSION, Part
from sfumato.interop.folder_schedules import LOW_RESOLUTION, MAIN, NOISING, noise_settings, scheduler_settings
from sfumato.interop.pipelines import Form
from sfumato.interop.scale import with_one_scale
from sfumato.io.files import write_json
from sfumato.io.storage import Storage
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig
from sfumato.priors.regression import RegressionConfig

UPSCALE_FACTOR = 0.08333
NOTHING = [None, None]
_PIXELS = 8
"""Sides of a latent in LDMTextToImagePipeline, whatever the first stage's."""


def folder_parts(
    config: ModelConfig, state: Mapping[str, Tensor], tokenizer: str | None = None
) -> tuple[str, dict[str, Part], dict[str, Any]]:
    """A `LatentModel`'s state -> (pipeline's class, its parts with weights, its own settings). `tokenizer`: JSON of BERT's.

    Raises `InputError` in one line for a model that no such pipeline can express.
    """
    form = pipelines.form_of(config.conditioner)
    unet, stage = _networks(config, form)
    first, factor = with_one_scale(stage, behind(state, compvis.OUR_FIRST_STAGE))
    factor = _factor(form, short_factor(factor))
    parts = {"unet": _unet(config, unet, form, behind(state, compvis.OUR_UNET))}
    parts |= _first_stage(config, stage, form, first, factor)
    schedule = scheduler_settings(diffusion_of(config).schedule, diffusion_of(config).prediction)
    parts[MAIN] = Part("diffusers", "DDIMScheduler", schedule)
    inputs = behind(state, OUR_CONDITIONER)
    if isinstance(form.text, ClipTextsConfig):
        parts |= _texts(form, form.text, behind(inputs, _place(config.conditioner, form.text)))
    if isinstance(form.text, BertConfig):
        assert tokenizer is not None, "a BERT-style text encoder has its tokenizer"
        parts["bert"] = export_parts.bert_encoder(form.text, inputs)
        parts["tokenizer"] = export_parts.bert_tokenizer(tokenizer, form.text.length)
    if isinstance(form.other, NoisedLowResolutionConfig):
        parts[LOW_RESOLUTION] = Part("diffusers", "DDPMScheduler", noise_settings(form.other.schedule))
    if isinstance(form.other, ImageEmbeddingConfig):
        parts |= _image_embedding(form.other, behind(inputs, _place(config.conditioner, form.other)))
    return form.pipeline, parts, _own_settings(form)


def folder_notes(config: ModelConfig) -> tuple[str, ...]:
    """What the user of a folder must know to load it with diffusers, a sentence each."""
    pipeline = pipelines.form_of(config.conditioner).pipeline
    factor = config.first_stage.network.factor  # type: ignore[union-attr]  # of those that have a form
    if pipeline == pipelines.DEPTH:
        return (
            "the folder has no depth estimator: give from_pretrained depth_estimator=None and feature_extractor=None, and each "
            "call its depth_map.",
        )
    if pipeline == pipelines.BERT and factor != _PIXELS:
        height, width = (side * _PIXELS // factor for side in config.image_size)
        return (
            f"{pipeline} takes a latent for {_PIXELS} x {_PIXELS} pixels, here it has {factor} x {factor}: "
            f"ask it for height={height}, width={width}.",
        )
    return ()


def write_parts(
    folder: Path, pipeline: str, parts: Mapping[str, Part], own: Mapping[str, Any], storage: Storage | None = None
) -> None:
    """Write the pipeline into an empty folder. `storage` None: every tensor in its own type."""
    table = {"_class_name": pipeline, "_diffusers_version": VERSION, **own}
    for name, part in parts.items():
        table[name] = [part.library, part.class_name]
        export_parts.write_part(folder / name, part, storage)
    write_json(folder / "model_index.json", table)


def short_factor(factor: float) -> float:
    """The factor of fewest digits whose inverse in fp32 is the same: 0.18215, not 0.18214999735355377."""

    def scale(value: float) -> float:
        return float(torch.tensor(1 / value, dtype=torch.float64).float())

    shorter = (float(f"{factor:.{digits}g}") for digits in range(1, 17))
    return next((value for value in shorter if scale(value) == scale(factor)), factor)


def _networks(config: ModelConfig, form: Form) -> tuple[UNetConfig, KLConfig | VQConfig]:
    prior, stage = config.prior, config.first_stage
    no = "has no diffusers form here"
    if not isinstance(prior, DiffusionConfig | RegressionConfig):
        raise InputError(f"a prior of the kind {prior.kind} {no}, only diffusion has; keep the native form.")
    unet = prior.network
    if not isinstance(unet, UNetConfig):
        raise InputError(f"a denoiser of the kind {unet.kind} {no}, only U-Nets have; keep the native form.")
    if not isinstance(stage, KLConfig | VQConfig):
        raise InputError(f"a first stage of the kind {stage.kind} {no}, only kl and vq have; keep the native form.")
    if isinstance(stage, VQConfig) and stage.levels:
        raise InputError(f"a first stage of finite scalar quantization {no}, only codebooks have; keep the native form.")
    if isinstance(stage, VQConfig) and stage.quantizer is not None:
        raise InputError(
            f"a first stage of the quantizer {stage.quantizer.method} {no}, only codebooks have; keep the native form."
        )
    if not isinstance(stage, KLConfig) and form.pipeline not in pipelines.LATENT_DIFFUSION:
        raise InputError(f"a first stage of the kind {stage.kind} has no form in {form.pipeline}, which has a KL autoencoder.")
    colours = stage.network.image_channels
    if colours not in (1, 3):
        raise InputError(f"pictures of {colours} channels have no form in {form.pipeline}, which draws without transparency.")
    return unet, stage


def _factor(form: Form, factor: float) -> float:
    """The scale factor, or the pipeline's own where that is the same but for fp32's last digit.

    Raises `InputError` where a pipeline has a scale of its own, and the model another.
    """
    wanted = {pipelines.UPSCALE: UPSCALE_FACTOR, pipelines.SMALL: 1.0}.get(form.pipeline, factor)
    if not math.isclose(factor, wanted, rel_tol=1e-6):
        raise InputError(
            f"{form.pipeline} has latents of the scale factor {wanted:g}, this model of {factor:g}: no form there."
        )
    if isinstance(form.other, PictureLatentConfig) and not math.isclose(form.other.factor * factor, 1, rel_tol=1e-4):
        raise InputError(
            f"{form.pipeline} takes a picture's latents as the encoder gives them, this model {form.other.factor * factor:g} "
            "times as large: no form there."
        )
    return wanted


def _unet(config: ModelConfig, unet: UNetConfig, form: Form, state: Mapping[str, Tensor]) -> Part:
    text_time = form.pipeline in (pipelines.XL, pipelines.REFINER)
    own = diffusers.unet_keys(unet, text_time=text_time).to_theirs(state)
    settings = diffusers_config.unet_settings(unet, text_time=text_time)
    if isinstance(form.other, SizesConfig):
        settings["addition_time_embed_dim"] = form.other.channels
    height, width = (side // config.first_stage.network.factor for side in config.image_size)  # type: ignore[union-attr]
    settings["sample_size"] = height if height == width else [height, width]
    if form.pipeline == pipelines.PLAIN and height != width:
        raise InputError(f"{form.pipeline} draws squares, this model {config.image_size[0]} x {config.image_size[1]} pixels.")
    return Part("diffusers", diffusers_config.unet_class(unet), settings, DIFFUSERS_WEIGHTS, own)


def _first_stage(
    config: ModelConfig, stage: KLConfig | VQConfig, form: Form, state: Mapping[str, Tensor], factor: float
) -> dict[str, Part]:
    own = diffusers.first_stage_keys(stage).to_theirs(state)
    settings = diffusers_config.first_stage_settings(stage) | {"scaling_factor": factor, "sample_size": max(config.image_size)}
    name = "vqvae" if form.pipeline in pipelines.LATENT_DIFFUSION else "vae"
    kind = "AutoencoderKL" if isinstance(stage, KLConfig) else "VQModel"
    return {name: Part("diffusers", kind, settings, DIFFUSERS_WEIGHTS, own)}


def _texts(form: Form, text: ClipTextsConfig, state: Mapping[str, Tensor]) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    first = 2 if form.pipeline == pipelines.REFINER else 1  # SDXL's second tower is alone there
    for number, tower in enumerate(text.towers):
        end = "" if number + first == 1 else f"_{number + first}"
        pooled = text.vector and number == len(text.towers) - 1
        parts[f"text_encoder{end}"] = export_parts.text_encoder(tower, behind(state, f"towers.{number}."), pooled)
        parts[f"tokenizer{end}"] = export_parts.clip_tokenizer(tower)
    return parts


def _image_embedding(config: ImageEmbeddingConfig, state: Mapping[str, Tensor]) -> dict[str, Part]:
    return {
        "image_encoder": export_parts.image_encoder(config.tower, behind(state, "tower.")),
        "image_normalizer": export_parts.image_normalizer(state["mean"], state["std"]),
        NOISING: Part("diffusers", "DDPMScheduler", noise_settings(config.schedule)),
        "feature_extractor": export_parts.image_processor(config.tower),
    }


def _place(config: ConditionerConfig, wanted: object) -> str:
    """Where a part's tensors stand in the conditioner."""
    if isinstance(config, CompositeConfig):
        return next(f"parts.{part.name}." for part in config.parts if part.conditioner is wanted)
    return ""


def _own_settings(form: Form) -> dict[str, Any]:
    own = dict.fromkeys(_ABSENT.get(form.pipeline, ()), NOTHING)
    match form.pipeline:
        case pipelines.XL:
            assert isinstance(form.text, ClipTextsConfig)
            return own | {"force_zeros_for_empty_prompt": form.text.null == "zeros"}
        case pipelines.REFINER:
            return own | {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
        case pipelines.UPSCALE:
            assert isinstance(form.other, NoisedLowResolutionConfig)
            return own | {"max_noise_level": form.other.largest_level}
        case pipelines.BASE | pipelines.INPAINT | pipelines.EDIT:
            return own | {"requires_safety_checker": False}
        case _:
            return own


_CHECKED = ("safety_checker", "feature_extractor", "image_encoder")
_ABSENT = {
    pipelines.BASE: _CHECKED,
    pipelines.INPAINT: _CHECKED,
    pipelines.EDIT: _CHECKED,
    pipelines.XL: ("image_encoder", "feature_extractor"),
    pipelines.REFINER: ("text_encoder", "tokenizer", "image_encoder", "feature_extractor"),
    pipelines.UPSCALE: ("safety_checker", "feature_extractor", "watermarker"),
    pipelines.DEPTH: ("depth_estimator", "feature_extractor"),
}
"""Parts of a pipeline that are written as none."""
