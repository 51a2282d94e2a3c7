"""The parts of a diffusers folder beside the U-Net and the first stage, and how each is written.

    text_encoder, text_encoder_2      CLIPTextModel, CLIPTextModelWithProjection
    bert                              LDMBertModel
    image_encoder, image_normalizer   CLIPVisionModelWithProjection, StableUnCLIPImageNormalizer
    tokenizer, tokenizer_2            CLIPTokenizer, BertTokenizer
    feature_extractor                 CLIPImageProcessor

A tower whose last layers are left out of the context (Stable Diffusion 2) is written without them, as published folders are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.conditioners import clip_tokens, keys, wordpiece
from sfumato.conditioners.bert import BertConfig
from sfumato.errors import InputError
from sfumato.io.files import write_bytes, write_json
from sfumato.io.storage import Storage
from sfumato.io.stream import write_tensors
from sfumato.io.weights import pack
from sfumato.networks.clip import MEAN, STD, ClipTextConfig, ClipVisionConfig

VERSION = "0.30.0"
"""The release of diffusers whose words the configs are in."""
DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
_LAYER = re.compile(r"body\.encoder\.layers\.(\d+)\..+")
_BICUBIC = 3  # Pillow's number for it


@dataclass(frozen=True)
class Part:
    """A folder of the pipeline's. `weights`: name of the file and tensors, none for a part without.

    exact: beginnings of names that keep their type in every storage. words: a BERT tokenizer's.
    """

    library: str
    class_name: str
    settings: Mapping[str, Any]
    file: str = ""
    tensors: Mapping[str, Tensor] | None = None
    exact: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def text_encoder(tower: ClipTextConfig, state: Mapping[str, Tensor], pooled: bool) -> Part:
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
    return Part("transformers", name, settings, TRANSFORMERS_WEIGHTS, keys.to_transformers(kept))


def clip_tokenizer(tower: ClipTextConfig) -> Part:
    """The tokenizer of a tower, padded as it is."""
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": tower.length,
        "bos_token": clip_tokens.BEGIN,
        "eos_token": clip_tokens.END,
        "unk_token": clip_tokens.END,
        "pad_token": "!" if tower.pad == "zero" else clip_tokens.END,
        "add_prefix_space": False,
        "do_lower_case": True,
    }
    return Part("transformers", "CLIPTokenizer", settings)


def bert_encoder(config: BertConfig, state: Mapping[str, Tensor]) -> Part:
    """The jointly trained transformer, its head included."""
    settings = {
        "architectures": ["LDMBertModel"],
        "model_type": "ldmbert",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.length,
        "encoder_layers": config.depth,
        "encoder_ffn_dim": 4 * config.dim,
        "encoder_attention_heads": config.heads,
        "head_dim": config.head_channels,
        "activation_function": "gelu",
        "d_model": config.dim,
        "pad_token_id": 0,
    }
    inner = {name.removeprefix("embedder."): value for name, value in state.items()}
    tensors = keys.renamed(inner, keys.inverse(keys.ldm_bert_names(config.depth)))
    return Part("latent_diffusion", "LDMBertModel", settings, TRANSFORMERS_WEIGHTS, tensors)


def bert_tokenizer(tokenizer: str, length: int) -> Part:
    """BERT's, from its JSON. Raises `InputError` for one that is not made of word pieces."""
    model = json.loads(tokenizer)["model"]
    if model.get("type") != "WordPiece":
        raise InputError("this model's tokenizer is not made of BERT's word pieces; keep the native form.")
    words = tuple(sorted(model["vocab"], key=model["vocab"].__getitem__))
    marks = {"pad": wordpiece.PAD, "unk": wordpiece.UNKNOWN, "cls": wordpiece.BEGIN, "sep": wordpiece.END}
    settings = {
        "tokenizer_class": "BertTokenizer",
        "model_max_length": length,
        "do_lower_case": True,
        **{f"{name}_token": mark for name, mark in marks.items()},
        "mask_token": wordpiece.MASK,
    }
    return Part("transformers", "BertTokenizer", settings, words=words)


def image_encoder(tower: ClipVisionConfig, state: Mapping[str, Tensor]) -> Part:
    """CLIP's vision tower with its projection."""
    settings = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": tower.dim,
        "intermediate_size": tower.hidden,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": tower.activation,
        "projection_dim": tower.projection,
        "patch_size": tower.patch,
        "image_size": tower.size,
        "layer_norm_eps": 1e-5,
    }
    own = keys.to_transformers(state, vision=True)
    return Part("transformers", "CLIPVisionModelWithProjection", settings, TRANSFORMERS_WEIGHTS, own)


def image_processor(tower: ClipVisionConfig) -> Part:
    """How diffusers prepares a picture for the vision tower."""
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": tower.size},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": tower.size, "width": tower.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "do_convert_rgb": True,
    }
    return Part("transformers", "CLIPImageProcessor", settings)


def image_normalizer(mean: Tensor, std: Tensor) -> Part:
    """Mean and deviation (D,) of the embeddings, as rows (1, D)."""
    tensors, settings = {"mean": mean[None], "std": std[None]}, {"embedding_dim": len(mean)}
    name = "StableUnCLIPImageNormalizer"
    return Part("stable_diffusion", name, settings, DIFFUSERS_WEIGHTS, tensors, exact=("mean", "std"))


def write_part(place: Path, part: Part, storage: Storage | None) -> None:
    """Write one part. `storage` None: every tensor in its own type."""
    settings = dict(part.settings)
    if part.library == "diffusers" or part.file == DIFFUSERS_WEIGHTS:
        settings = {"_class_name": part.class_name, "_diffusers_version": VERSION, **settings}
    if part.tensors is not None:
        write_json(place / "config.json", settings)
        write_tensors(place / part.file, part.tensors if storage is None else pack(part.tensors, storage, part.exact))
    elif part.class_name.endswith("Tokenizer"):
        _write_tokenizer(place, part, settings)
    elif part.class_name.endswith("Processor"):
        write_json(place / "preprocessor_config.json", settings)
    else:
        write_json(place / "scheduler_config.json", settings)


def _write_tokenizer(place: Path, part: Part, settings: Mapping[str, Any]) -> None:
    if part.words:
        write_bytes(place / wordpiece.FILE, ("\n".join(part.words) + "\n").encode())
    else:
        merges = clip_tokens.read_merges()
        write_json(place / "vocab.json", clip_tokens.vocabulary(merges))
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
        write_bytes(place / "merges.txt", ("\n".join(lines) + "\n").encode())
    write_json(place / "special_tokens_map.json", {name: settings[name] for name in settings if name.endswith("_token")})
    write_json(place / "tokenizer_config.json", settings)
