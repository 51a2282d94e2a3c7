"""Names of weights in diffusers' folders <-> ours: UNet2DConditionModel, UNet2DModel, AutoencoderKL, VQModel.

Where the published tree numbers its blocks through (input_blocks.7.1), diffusers names level and kind
(down_blocks.2.attentions.0); the maps walk both trees side by side. A U-Net without a context is a UNet2DModel there, whose
attention keeps queries, keys and values apart; like that of the autoencoders it has matrices for 1 x 1 convolutions.
Residual blocks that resample, scale-shift norms and normed queries and keys are refused with `InputError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.first_stages.vq import VQConfig, VQFirstStage
from sfumato.interop.compvis import check_norms, parameter_shapes
from sfumato.interop.keys import Joint, KeyMap
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNet, UNetConfig
from sfumato.nn.layers import num_groups

_BLOCK = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
_TIME_BLOCK = _BLOCK | {"time": "time_emb_proj", "skip": "conv_shortcut"}
_PLAIN_BLOCK = _BLOCK | {"skip": "conv_shortcut"}
_PLAIN_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_TRANSFORMER = {
    **{f"norm{i}": f"norm{i}" for i in (1, 2, 3)},
    **{f"attn{i}.to_{x}": f"attn{i}.to_{x}" for i in (1, 2) for x in "qkv"},
    **{f"attn{i}.to_out": f"attn{i}.to_out.0" for i in (1, 2)},
    "ff.project": "ff.net.0.proj",
    "ff.out": "ff.net.2",
}
_SELF_ATTENTION = {"norm": "group_norm", "qkv": "qkv", "proj_out": "to_out.0"}
_EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names that folders written before diffusers 0.17 have for attention without a context."""


def unet_keys(config: UNetConfig, *, text_time: bool = False) -> KeyMap:
    """Our U-Net <-> UNet2DConditionModel, or UNet2DModel where it has no context.

    `text_time`: the vector is SDXL's and goes by the name `add_embedding`. Raises `InputError` for a U-Net that neither class
    can express.
    """
    check_unet(config)
    places = dict(_unet_places(config, text_time))
    shapes = parameter_shapes(UNet, config)
    joints = {}
    for name in [name for name in shapes if ".qkv." in name]:
        path, _, end = _translate(name, places).rpartition(".")
        stem = path.removesuffix("qkv")
        heads = config.heads(shapes.pop(name)[0] // 3)
        joints[name] = Joint(
            (f"{stem}to_q.{end}", f"{stem}to_k.{end}", f"{stem}to_v.{end}"), heads, config.use_new_attention_order
        )
    matrices = {name: 1 for name, shape in shapes.items() if len(shape) == 3}
    return KeyMap({name: _translate(name, places) for name in shapes}, matrices, joints)


def first_stage_keys(config: KLConfig | VQConfig) -> KeyMap:
    """Our autoencoder <-> AutoencoderKL or VQModel, less our statistics (`scaling_factor` of the config there).

    Raises `InputError` for an autoencoder that the classes cannot express.
    """
    network = config.network
    norm_groups(network)
    _check_first(network.multipliers)
    if isinstance(config, KLConfig) and config.embed_channels not in (0, network.latent_channels):
        raise InputError(
            f"an autoencoder of {network.latent_channels} channels with a latent of {config.embed_channels} has no form as "
            "diffusers' AutoencoderKL, where both are the same."
        )
    kind = KLFirstStage if isinstance(config, KLConfig) else VQFirstStage
    names = parameter_shapes(kind, config)
    places = dict(_autoencoder_places(network))
    matrix = re.compile(r".*\.(q|k|v|proj_out)\.weight")
    return KeyMap({name: _translate(name, places) for name in names}, {n: 2 for n in names if matrix.fullmatch(n)})


def norm_groups(config: AutoencoderConfig) -> int:
    """Groups of all norms of an autoencoder. Raises `InputError` where wide levels have more than narrow ones."""
    counts = sorted({num_groups(width, config.norm_groups) for width in (config.channels, *config.widths())})
    if len(counts) > 1:
        raise InputError(
            f"an autoencoder with norms of {counts[0]} and of {counts[-1]} groups has no form in diffusers, where all have as "
            "many; keep the native form."
        )
    return counts[0]


def today(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a folder of any age under today's names."""
    named = {}
    for name, value in tensors.items():
        parts = name.split(".")
        if len(parts) > 2 and parts[-3].isdigit() and "attentions" in parts:
            parts[-2] = _EARLIER.get(parts[-2], parts[-2])
        named[".".join(parts)] = value
    return named


Place = tuple[str, Mapping[str, str]]
"""Where one of our layers stands there, and what its parts are called."""
_ITSELF: Mapping[str, str] = {"": ""}


def _attention(config: UNetConfig, level: int) -> dict[str, str]:
    if config.context_dim is None:
        return _SELF_ATTENTION
    depth = config.depth(level)
    blocks = {f"blocks.{d}.{a}": f"transformer_blocks.{d}.{b}" for d in range(depth) for a, b in _TRANSFORMER.items()}
    return {"norm": "norm", "proj_in": "proj_in", "proj_out": "proj_out"} | blocks


def _unet_places(config: UNetConfig, text_time: bool) -> Iterator[tuple[str, Place]]:
    """(the path of a layer of ours, its place there)."""
    label = "add_embedding" if text_time else "class_embedding"
    steps = {"0": "linear_1", "2": "linear_2"}
    yield "time_embed", ("time_embedding", steps)
    yield "label_embed", (label, _ITSELF if config.num_classes is not None else steps)
    yield "input_blocks.0.0", ("conv_in", _ITSELF)
    yield "out_norm", ("conv_norm_out", _ITSELF)
    yield "out_conv", ("conv_out", _ITSELF)
    levels, number = len(config.multipliers), 1
    for level in range(levels):
        for i in range(config.num_res_blocks):
            yield f"input_blocks.{number}.0", (f"down_blocks.{level}.resnets.{i}", _TIME_BLOCK)
            yield f"input_blocks.{number}.1", (f"down_blocks.{level}.attentions.{i}", _attention(config, level))
            number += 1
        yield f"input_blocks.{number}.0", (f"down_blocks.{level}.downsamplers.0", {"conv": "conv"})
        number += level + 1 < levels
    yield "middle_block.0", ("mid_block.resnets.0", _TIME_BLOCK)
    yield "middle_block.1", ("mid_block.attentions.0", _attention(config, levels - 1))
    yield "middle_block.2", ("mid_block.resnets.1", _TIME_BLOCK)
    number = 0
    for up, level in enumerate(reversed(range(levels))):
        for i in range(config.num_res_blocks + 1):
            yield f"output_blocks.{number}.0", (f"up_blocks.{up}.resnets.{i}", _TIME_BLOCK)
            yield f"output_blocks.{number}.1", (f"up_blocks.{up}.attentions.{i}", _attention(config, level))
            number += 1
        last = 2 if 2**level in config.attention_factors else 1
        yield f"output_blocks.{number - 1}.{last}", (f"up_blocks.{up}.upsamplers.0", {"conv": "conv"})


def _autoencoder_places(config: AutoencoderConfig) -> Iterator[tuple[str, Place]]:
    for name in ("quant_conv", "post_quant_conv", "quantize.embedding"):
        yield name, (name, _ITSELF)
    for coder, side, more in (("encoder", "down", 0), ("decoder", "up", 1)):
        for ours, theirs in (("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")):
            yield f"{coder}.{ours}", (f"{coder}.{theirs}", _ITSELF)
        yield f"{coder}.mid.0", (f"{coder}.mid_block.resnets.0", _PLAIN_BLOCK)
        if config.mid_attention:
            yield f"{coder}.mid.1", (f"{coder}.mid_block.attentions.0", _PLAIN_ATTENTION)
        yield f"{coder}.mid.{2 if config.mid_attention else 1}", (f"{coder}.mid_block.resnets.1", _PLAIN_BLOCK)
        for place in range(len(config.multipliers)):  # both sides count from where the data comes in
            level = place if side == "down" else len(config.multipliers) - 1 - place
            attended = 2**level in config.attention_resolution_factors
            ours, theirs = f"{coder}.{side}.{place}", f"{coder}.{side}_blocks.{place}"
            count = config.num_res_blocks + more
            for i in range(count):
                at = 2 * i if attended else i
                yield f"{ours}.{at}", (f"{theirs}.resnets.{i}", _PLAIN_BLOCK)
                if attended:
                    yield f"{ours}.{at + 1}", (f"{theirs}.attentions.{i}", _PLAIN_ATTENTION)
            yield f"{ours}.{2 * count if attended else count}", (f"{theirs}.{side}samplers.0", {"conv": "conv"})


def _translate(name: str, places: Mapping[str, Place]) -> str:
    """The longest path that has a place, and the part's name there."""
    path, _, end = name.rpartition(".")
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        place = places.get(".".join(parts[:cut]))
        layer = ".".join(parts[cut:])
        if place is not None and layer in place[1]:
            return ".".join(part for part in (place[0], place[1][layer], end) if part)
    raise InputError(f"diffusers has nothing like {name}; this model has no form there.")


def _check_first(multipliers: tuple[int, ...]) -> None:
    if multipliers[0] != 1:
        raise InputError(f"multipliers {list(multipliers)} have no form in diffusers, where the first is always 1.")


def check_unet(config: UNetConfig) -> None:
    """Raises `InputError` for a U-Net that neither UNet2DConditionModel nor UNet2DModel can express."""
    _check_first(config.multipliers)
    check_norms("U-Net", [config.channels, *(config.channels * m for m in config.multipliers)])
    no = "has no form as a U-Net of diffusers; keep the native or the single-file form."
    for name in ("scale_shift", "resblock_updown", "qk_norm"):
        if getattr(config, name):
            raise InputError(f"a U-Net with {name} {no}")
    if config.context_dim is None and config.vector_dim is not None:
        raise InputError(f"a U-Net with a vector and without a context {no}")
    if config.context_dim is None and head_width(config) is None:
        raise InputError(f"a U-Net without a context whose heads have other widths at other levels {no}")


def head_width(config: UNetConfig) -> int | None:
    """Channels of a head, where they are the same at all levels with attention."""
    used = [config.multipliers[-1], *(config.multipliers[f.bit_length() - 1] for f in config.attention_factors)]
    found = {config.channels * m // config.heads(config.channels * m) for m in used}
    return found.pop() if len(found) == 1 else None
