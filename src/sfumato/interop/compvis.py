"""Names of weights in the authors' files <-> ours.

The files of CompVis/latent-diffusion, CompVis/stable-diffusion, Stability-AI/stablediffusion and
Stability-AI/generative-models hold one flat table of tensors:

    model.diffusion_model.*    the U-Net
    first_stage_model.*        the autoencoder, whose own files have no prefix
    cond_stage_model.*, conditioner.embedders.*     what turns an input into a condition; not mapped here
    model_ema.*                averages of `model.*`, its dots removed; `decay` and `num_updates` beside them
    scale_factor               z_unit = scale_factor * z, so that our `first_stage.scale` is its inverse
    betas, alphas_cumprod, ... tables that follow from the schedule
    v_pred, ztsnr              markers of fine-tuned models (`markers.py`)
    loss.*                     discriminator and perceptual network of the first stage
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache

from torch import nn

from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.first_stages.vq import VQConfig, VQFirstStage
from sfumato.interop.hollow import hollow
from sfumato.interop.keys import KeyMap
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNet, UNetConfig

UNET, FIRST_STAGE, EMA, SCALE_FACTOR = "model.diffusion_model.", "first_stage_model.", "model_ema.", "scale_factor"
OUR_UNET, OUR_FIRST_STAGE = "prior.denoiser.network.", "first_stage."
EMA_COUNTERS = (EMA + "decay", EMA + "num_updates")
GROUPS = 32
STATISTICS = ("shift", "scale", "preview")
"""Buffers of our first stages that a published file does not have (`scale_factor` stands for the second)."""

KNOWN_EXTRAS = re.compile(
    r"scale_factor|betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod"
    r"|sqrt_recip(m1)?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])|lvlb_weights|logvar"
    r"|v_pred|ztsnr|cond_ids|denoiser\.(sigmas|log_sigmas)|(first_stage_model\.)?loss\..*|model_ema\.(decay|num_updates)"
)
"""Names in published files that hold no weight of a generator and may be left out."""

# our layer inside a block -> theirs. A block's layers are told apart by these names alone.
_TIME_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}
_SAME = {"norm": "norm", "qkv": "qkv", "proj_in": "proj_in", "proj_out": "proj_out"}
_TRANSFORMER = {
    **{f"norm{i}": f"norm{i}" for i in (1, 2, 3)},
    **{f"attn{i}.to_{x}": f"attn{i}.to_{x}" for i in (1, 2) for x in "qkv"},
    **{f"attn{i}.to_out": f"attn{i}.to_out.0" for i in (1, 2)},
    "ff.project": "ff.net.0.proj",
    "ff.out": "ff.net.2",
}
_TOP = {
    "time_embed.0": "time_embed.0",
    "time_embed.2": "time_embed.2",
    "label_embed": "label_emb",  # the table of classes
    "label_embed.0": "label_emb.0.0",
    "label_embed.2": "label_emb.0.2",
    "out_norm": "out.0",
    "out_conv": "out.2",
}
_BLOCK = re.compile(r"((input|output)_blocks\.\d+\.\d+|middle_block\.\d+)(?:\.(.+))?")
_DEEP = re.compile(r"blocks\.(\d+)\.(.+)")

_PLAIN_BLOCK = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "skip": "nin_shortcut"}
_PLAIN_ATTENTION = {name: name for name in ("norm", "q", "k", "v", "proj_out")}
_MIDDLE = {"first": "block_1", "attention": "attn_1", "last": "block_2"}


def unet_keys(config: UNetConfig) -> KeyMap:
    """Our U-Net <-> theirs, without prefixes. Raises `InputError` for a U-Net that they cannot express."""
    check_norms("U-Net", [config.channels, *(config.channels * m for m in config.multipliers)])
    return KeyMap({name: _unet_name(name) for name in parameter_shapes(UNet, config)})


def first_stage_keys(config: KLConfig | VQConfig) -> KeyMap:
    """Our autoencoder <-> theirs, without prefixes, less our `STATISTICS`. Raises `InputError` as `unet_keys` does."""
    check_norms("autoencoder", [config.network.channels, *config.network.widths()], config.network.norm_groups)
    kind = KLFirstStage if isinstance(config, KLConfig) else VQFirstStage
    return KeyMap({name: _autoencoder_name(name, config.network) for name in parameter_shapes(kind, config)})


def model_keys(unet: UNetConfig, first_stage: KLConfig | VQConfig) -> KeyMap:
    """The U-Net and the autoencoder of our `LatentModel` <-> those of a whole checkpoint."""
    denoiser = unet_keys(unet).prefixed(OUR_UNET, UNET)
    return denoiser | first_stage_keys(first_stage).prefixed(OUR_FIRST_STAGE, FIRST_STAGE)


def ema_name(name: str) -> str:
    """The name of the average of `model.*`: model_ema. and what follows `model.`, its dots removed."""
    return EMA + name.removeprefix("model.").replace(".", "")


def with_ema(keys: KeyMap) -> KeyMap:
    """The map of a checkpoint, reading its averages in place of `model.*`."""
    pairs = {ours: ema_name(theirs) if theirs.startswith("model.") else theirs for ours, theirs in keys.pairs.items()}
    return KeyMap(pairs)


def check_norms(what: str, widths: Sequence[int], groups: int = GROUPS) -> None:
    """Raises `InputError` unless every norm has the published 32 groups: other numbers have the same names and shapes."""
    odd = [width for width in widths if width % GROUPS]
    if odd or groups != GROUPS:
        said = f"norms of {groups} groups" if groups != GROUPS else f"a level of {odd[0]} channels"
        raise InputError(f"the {what} has {said}, and the published networks have norms of 32 groups: it has no form there.")


def parameter_shapes(kind: type[nn.Module], config: Hashable) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of `kind(config)`, which is built without memory."""
    return dict(_shapes(kind, config))  # type: ignore[arg-type]  # classes are hashable


@lru_cache(maxsize=16)  # a load asks several times for the same few networks
def _shapes(kind: type[nn.Module], config: Hashable) -> tuple[tuple[str, tuple[int, ...]], ...]:
    with hollow():
        return tuple((name, tuple(value.shape)) for name, value in kind(config).named_parameters())


def _unet_name(name: str) -> str:
    path, _, end = name.rpartition(".")
    found = _BLOCK.fullmatch(path)
    if found is None:
        return f"{_lookup(_TOP, path, name)}.{end}"
    block, side, layer = found[1], found[2], found[3]
    if layer is None:  # the first convolution
        return name
    deep = _DEEP.fullmatch(layer)
    if deep is not None:
        return f"{block}.transformer_blocks.{deep[1]}.{_lookup(_TRANSFORMER, deep[2], name)}.{end}"
    if layer == "conv":
        return f"{block}.{'op' if side == 'input' else 'conv'}.{end}"
    return f"{block}.{_lookup(_TIME_BLOCK | _SAME, layer, name)}.{end}"


def _autoencoder_name(name: str, config: AutoencoderConfig) -> str:
    coder, *rest, end = name.split(".")
    if not rest or coder == "quantize" or len(rest) == 1:  # quant_conv, post_quant_conv, quantize; conv_in, norm_out, conv_out
        return name
    if rest[0] == "mid":
        _, index, layer = rest
        last = "2" if config.mid_attention else "1"
        place = "first" if index == "0" else "last" if index == last else "attention"
        names = _PLAIN_ATTENTION if place == "attention" else _PLAIN_BLOCK
        return f"{coder}.mid.{_MIDDLE[place]}.{_lookup(names, layer, name)}.{end}"
    side, place, index, layer = rest
    level = int(place) if side == "down" else len(config.multipliers) - 1 - int(place)  # theirs counts from the image
    if layer == "conv":
        return f"{coder}.{side}.{level}.{side}sample.conv.{end}"
    position, attention = int(index), False
    if 2**level in config.attention_resolution_factors:  # blocks and attention alternate
        position, attention = position // 2, position % 2 == 1
    names = _PLAIN_ATTENTION if attention else _PLAIN_BLOCK
    return f"{coder}.{side}.{level}.{'attn' if attention else 'block'}.{position}.{_lookup(names, layer, name)}.{end}"


def _lookup(names: Mapping[str, str], layer: str, name: str) -> str:
    if layer not in names:
        raise InputError(f"the published networks have nothing like {name}; this model has no form there.")
    return names[layer]
