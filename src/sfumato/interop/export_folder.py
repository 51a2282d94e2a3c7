"""One of our models as a diffusers folder, which diffusers itself loads: configs in its words, weights as safetensors.

    U-Net, KL first stage, one CLIP tower             StableDiffusionPipeline
    the same with a mask and the masked picture       StableDiffusionInpaintPipeline
    the same with the latents of a picture            StableDiffusionInstructPix2PixPipeline
    U-Net, KL first stage, two towers and sizes       StableDiffusionXLPipeline

A tower whose last layers are left out of the context (Stable Diffusion 2) is written without them, as published folders are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.build import ConditionerConfig, ModelConfig
from sfumato.conditioners import clip_tokens, keys
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.compose import CompositeConfig
from sfumato.conditioners.masked import MaskedImageConfig
from sfumato.conditioners.picture_latent import PictureLatentConfig
from sfumato.conditioners.sizes import SizesConfig
from sfumato.diffusion.prediction import Prediction
from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.interop import compvis, diffusers, diffusers_config
from sfumato.interop.export import OUR_CONDITIONER, behind, diffusion_of, parts_of, published_networks
from sfumato.interop.scale import with_one_scale
from sfumato.io.files import write_bytes, write_json
from sfumato.io.storage import Storage
from sfumato.io.stream import write_tensors
from sfumato.io.weights import pack
from sfumato.networks.clip import ClipTextConfig

BASE, INPAINT, EDIT, XL = (f"StableDiffusion{x}Pipeline" for x in ("", "Inpaint", "InstructPix2Pix", "XL"))
VERSION = "0.30.0"
"""The release of diffusers whose words the configs are in."""
_LAYER = re.compile(r"body\.encoder\.layers\.(\d+)\..+")


@dataclass(frozen=True)
class Part:
    """A folder of the pipeline's. `weights`: name of the file and tensors, none for a part without."""

    library: str
    class_name: str
    settings: Mapping[str, Any]
    file: str = ""
    tensors: Mapping[str, Tensor] | None = None


def folder_parts(config: ModelConfig, state: Mapping[str, Tensor]) -> tuple[str, dict[str, Part], dict[str, Any]]:
    """A `LatentModel`'s state -> (pipeline's class, its parts with weights, its own settings).

    Raises `InputError` in one line for a model that no such pipeline can express.
    """
    unet, stage = published_networks(config)
    pipeline, text, sizes = _pipeline(config)
    if not isinstance(stage, KLConfig):
        raise InputError(f"a first stage of the kind {stage.kind} has no form in {pipeline}, which has a KL autoencoder.")
    text_time = pipeline == XL
    settings = diffusers_config.unet_settings(unet, text_time=text_time)
    if sizes is not None:
        settings["addition_time_embed_dim"] = sizes.channels
    height, width = (side // stage.network.factor for side in config.image_size)
    settings["sample_size"] = height if height == width else [height, width]
    own = diffusers.unet_keys(unet, text_time=text_time).to_theirs(behind(state, compvis.OUR_UNET))
    weights = "diffusion_pytorch_model.safetensors"
    parts = {"unet": Part("diffusers", diffusers_config.unet_class(unet), settings, weights, own)}
    first, factor = with_one_scale(stage, behind(state, compvis.OUR_FIRST_STAGE))
    own = diffusers.first_stage_keys(stage).to_theirs(first)
    settings = diffusers_config.first_stage_settings(stage) | {"scaling_factor": factor, "sample_size": max(config.image_size)}
    parts["vae"] = Part("diffusers", "AutoencoderKL", settings, weights, own)
    parts["scheduler"] = Part("diffusers", "DDIMScheduler", _scheduler(config))
    texts = behind(state, OUR_CONDITIONER + _place(config.conditioner, text))
    for number, tower in enumerate(text.towers):
        end = f"_{number + 1}" if number else ""
        own = behind(texts, f"towers.{number}.")
        parts[f"text_encoder{end}"] = _text_encoder(tower, own, pooled=text.vector and number == len(text.towers) - 1)
        parts[f"tokenizer{end}"] = Part("transformers", "CLIPTokenizer", _tokenizer(tower))
    return pipeline, parts, _own_settings(pipeline, text)


def write_parts(
    folder: Path, pipeline: str, parts: Mapping[str, Part], own: Mapping[str, Any], storage: Storage | None = None
) -> None:
    """Write the pipeline into an empty folder. `storage` None: every tensor in its own type."""
    table = {"_class_name": pipeline, "_diffusers_version": VERSION, **own}
    for name, part in parts.items():
        table[name] = [part.library, part.class_name]
        place, settings = folder / name, dict(part.settings)
        if part.library == "diffusers":
            settings = {"_class_name": part.class_name, "_diffusers_version": VERSION, **settings}
        if part.tensors is not None:
            write_json(place / "config.json", settings)
            write_tensors(place / part.file, part.tensors if storage is None else pack(part.tensors, storage))
        elif part.class_name == "CLIPTokenizer":
            _write_tokenizer(place, settings)
        else:
            write_json(place / "scheduler_config.json", settings)
    write_json(folder / "model_index.json", table)


def _place(config: ConditionerConfig, text: ClipTextsConfig) -> str:
    """Where the text's tensors stand in the conditioner."""
    if isinstance(config, CompositeConfig):
        return next(f"parts.{part.name}." for part in config.parts if part.conditioner is text)
    return ""


def _pipeline(config: ModelConfig) -> tuple[str, ClipTextsConfig, SizesConfig | None]:
    parts = list(parts_of(config.conditioner))
    text = next((part for part in parts if isinstance(part, ClipTextsConfig)), None)
    others = [part for part in parts if part is not text]
    kinds = " and ".join(part.kind for part in parts)
    if text is not None and text.context == "tokens" and len(others) <= 1:
        other = others[0] if others else None
        skips = {(tower.skip, tower.final_norm) for tower in text.towers}
        if (
            isinstance(other, SizesConfig)
            and other.last == "target"
            and text.vector
            and len(text.towers) == 2
            and skips == {(1, False)}
        ):
            return XL, text, other
        if len(text.towers) == 1 and not text.vector and text.towers[0].final_norm and text.null == "empty":
            if other is None:
                return BASE, text, None
            if isinstance(other, MaskedImageConfig) and other == MaskedImageConfig():
                return INPAINT, text, None
            if isinstance(other, PictureLatentConfig):
                return EDIT, text, None
    raise InputError(
        f"a conditioner of the kind {kinds} has no diffusers form here: expected CLIP's text alone or with a mask, a "
        "picture's latents or SDXL's sizes; keep the native or the single-file form."
    )


def _scheduler(config: ModelConfig) -> dict[str, Any]:
    prior = diffusion_of(config)
    schedule = prior.schedule
    return {
        "num_train_timesteps": schedule.num_steps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon" if prior.prediction is Prediction.eps else "v_prediction",
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "timestep_spacing": "trailing" if schedule.zero_terminal_snr else "leading",
        "steps_offset": 1,
        "clip_sample": False,
        "set_alpha_to_one": False,
    }


def _own_settings(pipeline: str, text: ClipTextsConfig) -> dict[str, Any]:
    nothing = [None, None]
    if pipeline == XL:
        zeros = text.null == "zeros"
        return {"force_zeros_for_empty_prompt": zeros, "image_encoder": nothing, "feature_extractor": nothing}
    return {"safety_checker": nothing, "feature_extractor": nothing, "image_encoder": nothing, "requires_safety_checker": False}


def _text_encoder(tower: ClipTextConfig, state: Mapping[str, Tensor], pooled: bool) -> Part:
    """A tower: whole where its layers before the last are asked for by number (SDXL), else as far as it is used."""
    if tower.final_norm:
        tower = replace(tower, layers=tower.layers - tower.skip, skip=0)
    kept = {
        name: value
        for name, value in state.items()
        if (found := _LAYER.fullmatch(name)) is None or int(found[1]) < tower.layers
    }
    if not pooled:
        kept.pop("projection.weight", None)
    name = "CLIPTextModelWithProjection" if pooled else "CLIPTextModel"
    settings = {
        "architectures": [name],
        "model_type": "clip_text_model",
        "hidden_size": tower.dim,
        "intermediate_size": 4 * tower.dim,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": tower.activation,
        "projection_dim": tower.projection or tower.dim,
        "max_position_embeddings": tower.length,
        "vocab_size": tower.vocabulary,
        "layer_norm_eps": 1e-5,
        "bos_token_id": clip_tokens.BEGIN_ID,
        "eos_token_id": clip_tokens.END_ID,
        "pad_token_id": 0 if tower.pad == "zero" else clip_tokens.END_ID,
    }
    return Part("transformers", name, settings, "model.safetensors", keys.to_transformers(kept))


def _tokenizer(tower: ClipTextConfig) -> dict[str, Any]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": tower.length,
        "bos_token": clip_tokens.BEGIN,
        "eos_token": clip_tokens.END,
        "unk_token": clip_tokens.END,
        "pad_token": "!" if tower.pad == "zero" else clip_tokens.END,
        "add_prefix_space": False,
        "do_lower_case": True,
    }


def _write_tokenizer(place: Path, settings: Mapping[str, Any]) -> None:
    merges = clip_tokens.read_merges()
    write_json(place / "vocab.json", clip_tokens.vocabulary(merges))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    write_bytes(place / "merges.txt", ("\n".join(lines) + "\n").encode())
    write_json(place / "special_tokens_map.json", {name: settings[name] for name in settings if name.endswith("_token")})
    write_json(place / "tokenizer_config.json", settings)
