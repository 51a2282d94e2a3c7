"""Names in published files <-> names in a conditioner's state dict.

    ClassEmbedder        cond_stage_model.embedding.weight                  -> embedding.weight
    BertText, Layout     cond_stage_model.transformer.*                     -> embedder.*
    ClipTexts, SD 1      cond_stage_model.transformer.text_model.*          -> towers.0.body.*
               SD 2      cond_stage_model.model.*                           -> towers.0.*     (OpenCLIP's names)
               SDXL      conditioner.embedders.0.transformer.text_model.*   -> towers.0.body.*
                         conditioner.embedders.1.model.*                    -> towers.1.*     (OpenCLIP's names)
    unCLIP               embedder.model.visual.*                            -> tower.*        (OpenCLIP's names)
                         the file of statistics (mean, std)                 -> mean, std
    diffusers folders    text_encoder, text_encoder_2                       -> towers.0.*, towers.1.*   (transformers' names)
                         image_encoder; image_normalizer                    -> tower.*; mean, std
                         bert                                               -> embedder.*     (LDMBertModel's names)
    SpatialRescaler      cond_stage_model.channel_mapper.weight             -> mapper.weight

The functions below work on the names behind those prefixes. OpenCLIP (and OpenAI's own CLIP) keep queries, keys and values in
one matrix and the projection transposed; both directions copy numbers and change none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from sfumato.errors import InputError

OPENCLIP_UNUSED = ("logit_scale", "attn_mask", "input_resolution", "context_length", "vocab_size")
"""In files of OpenCLIP and of OpenAI, and in no computation here."""

TRANSFORMERS_UNUSED = ("embeddings.position_ids",)
"""A buffer of older releases of transformers: 0, 1, 2 ..."""


def bert_names(depth: int) -> dict[str, str]:
    """Published name -> name in `BertEmbedding`, of a transformer of `depth` blocks."""
    names = {
        "transformer.token_emb.weight": "transformer.tokens.weight",
        "transformer.pos_emb.emb.weight": "transformer.positions.weight",
    }
    for block in range(depth):
        ours = f"transformer.blocks.{block}"
        attention, forward = (f"transformer.attn_layers.layers.{2 * block + i}" for i in (0, 1))
        names |= _both(f"{attention}.0", f"{ours}.norm1")
        names |= {f"{attention}.1.to_{x}.weight": f"{ours}.attn.to_{x}.weight" for x in "qkv"}
        names |= _both(f"{attention}.1.to_out", f"{ours}.attn.to_out")
        names |= _both(f"{forward}.0", f"{ours}.norm2")
        names |= _both(f"{forward}.1.net.0.0", f"{ours}.ff.project")
        names |= _both(f"{forward}.1.net.2", f"{ours}.ff.out")
    return names | _both("transformer.norm", "transformer.norm") | _both("transformer.to_logits", "head")


def ldm_bert_names(depth: int) -> dict[str, str]:
    """The same for the class that diffusers has for it, LDMBertModel."""
    names = {
        "model.embed_tokens.weight": "transformer.tokens.weight",
        "model.embed_positions.weight": "transformer.positions.weight",
    }
    for block in range(depth):
        ours, theirs = f"transformer.blocks.{block}", f"model.layers.{block}"
        names |= _both(f"{theirs}.self_attn_layer_norm", f"{ours}.norm1")
        names |= {f"{theirs}.self_attn.{x}_proj.weight": f"{ours}.attn.to_{x}.weight" for x in "qkv"}
        names |= _both(f"{theirs}.self_attn.out_proj", f"{ours}.attn.to_out")
        names |= _both(f"{theirs}.final_layer_norm", f"{ours}.norm2")
        names |= _both(f"{theirs}.fc1", f"{ours}.ff.project")
        names |= _both(f"{theirs}.fc2", f"{ours}.ff.out")
    return names | _both("model.layer_norm", "transformer.norm") | _both("to_logits", "head")


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """`state` under its new names. Raises `InputError` naming the first key that `names` lacks, or that `state` lacks."""
    for key in state:
        if key not in names:
            raise InputError(f"unexpected key {key!r}; expected a published conditioner of this kind.")
    for key in names:
        if key not in state:
            raise InputError(f"the key {key!r} is missing; expected a published conditioner of this kind.")
    return {names[key]: value for key, value in state.items()}


def inverse(names: Mapping[str, str]) -> dict[str, str]:
    """The names the other way around."""
    return {ours: published for published, ours in names.items()}


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Transformers' text or vision tower, with or without projection, of any release -> the state of `ClipText` or
    `ClipVision`. `TRANSFORMERS_UNUSED` is left out."""
    result = {}
    for key, value in state.items():
        if key in ("text_projection.weight", "visual_projection.weight"):
            result["projection.weight"] = value
        else:
            name = key.removeprefix("text_model.").removeprefix("vision_model.")
            if name not in TRANSFORMERS_UNUSED:
                result[f"body.{name}"] = value
    return result


def to_transformers(state: Mapping[str, Tensor], vision: bool = False) -> dict[str, Tensor]:
    """The inverse of `from_transformers`, with the names that diffusers folders and Stable Diffusion 1 have."""
    inner, projection = ("vision_model.", "visual_projection") if vision else ("text_model.", "text_projection")
    return {
        f"{projection}.weight" if key == "projection.weight" else inner + key.removeprefix("body."): value
        for key, value in state.items()
    }


_TEXT = {
    "token_embedding.weight": "body.embeddings.token_embedding.weight",
    "positional_embedding": "body.embeddings.position_embedding.weight",
    "ln_final.weight": "body.final_layer_norm.weight",
    "ln_final.bias": "body.final_layer_norm.bias",
}
_VISION = {
    "class_embedding": "body.embeddings.class_embedding",
    "positional_embedding": "body.embeddings.position_embedding.weight",
    "conv1.weight": "body.embeddings.patch_embedding.weight",
    "ln_pre.weight": "body.pre_layrnorm.weight",
    "ln_pre.bias": "body.pre_layrnorm.bias",
    "ln_post.weight": "body.post_layernorm.weight",
    "ln_post.bias": "body.post_layernorm.bias",
}
_PROJECTION = {"text_projection": "projection.weight", "proj": "projection.weight"}  # (dim, width) there, (width, dim) here
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_THERE = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_HERE = re.compile(r"body\.encoder\.layers\.(\d+)\.(.+)")


def from_openclip(state: Mapping[str, Tensor], vision: bool = False) -> dict[str, Tensor]:
    """OpenCLIP's text tower (or what is behind `visual.`) -> the state of `ClipText` (`ClipVision`).

    `OPENCLIP_UNUSED` is left out. Raises `InputError` naming a key that belongs to no such tower.
    """
    outer = _VISION if vision else _TEXT
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        layer = _THERE.fullmatch(key)
        if key in outer:
            result[outer[key]] = value
        elif key in _PROJECTION and (key == "proj") == vision:
            result[_PROJECTION[key]] = value.T.contiguous()
        elif layer is not None:
            result |= _layer_from(f"body.encoder.layers.{layer[1]}", layer[2], value, key)
        elif key not in OPENCLIP_UNUSED:
            raise InputError(f"unexpected key {key!r}; expected {'a vision' if vision else 'a text'} tower of OpenCLIP.")
    return result


def to_openclip(state: Mapping[str, Tensor], vision: bool = False) -> dict[str, Tensor]:
    """The inverse of `from_openclip`, without what that left out."""
    outer = inverse(_VISION if vision else _TEXT)
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        layer = _HERE.fullmatch(key)
        if key in outer:
            result[outer[key]] = value
        elif key == "projection.weight":
            result["proj" if vision else "text_projection"] = value.T.contiguous()
        elif layer is not None:
            head, _, kind = layer[2].rpartition(".")
            prefix, names = f"transformer.resblocks.{layer[1]}", inverse(_LAYER)
            if head in names:
                result[f"{prefix}.{names[head]}.{kind}"] = value
            elif head == "self_attn.q_proj":
                three = [state[key.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                result[f"{prefix}.attn.in_proj_{kind}"] = torch.cat(three)
    return result


def _layer_from(here: str, name: str, value: Tensor, key: str) -> dict[str, Tensor]:
    head, _, kind = name.rpartition(".")
    if head in _LAYER:
        return {f"{here}.{_LAYER[head]}.{kind}": value}
    if head == "attn" and kind in ("in_proj_weight", "in_proj_bias"):
        kind = kind.removeprefix("in_proj_")
        return {f"{here}.self_attn.{x}_proj.{kind}": part for x, part in zip("qkv", value.chunk(3), strict=True)}
    raise InputError(f"unexpected key {key!r}; expected a tower of OpenCLIP.")


def _both(there: str, here: str) -> dict[str, str]:
    return {f"{there}.{kind}": f"{here}.{kind}" for kind in ("weight", "bias")}
