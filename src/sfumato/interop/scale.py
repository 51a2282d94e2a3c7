"""Unit scale: one published number <-> our shift and scale by channel.

    published   z_unit = scale_factor * z
    ours        z_unit = (z - shift) / scale            by channel (`first_stages/kl.py`)

A published number becomes scale = 1 / scale_factor. The other way, an affine map by channel goes into the 1 x 1 convolutions
beside the latent, where it changes nothing but the latent's own units: with r = scale * scale_factor,

    quant_conv        mean: W / r, (b - shift) / r;   log-variance: b - 2 log r
    post_quant_conv   W r, b + W shift

in float64, rounded once. A first stage with one scale and no shift keeps its weights bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.first_stages.base import preview_channels
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig


def statistics(config: KLConfig | VQConfig, scale_factor: float) -> dict[str, Tensor]:
    """`shift`, `scale` and `preview` (of no colour: it was not measured) of a first stage with a published scale factor.

    Raises `InputError` unless the factor is finite and above 0.
    """
    if not 0 < scale_factor < float("inf"):
        raise InputError(f"scale_factor is {scale_factor}: expected a finite number above 0; Stable Diffusion has 0.18215.")
    channels = config.embed_channels or config.network.latent_channels
    return {
        "shift": torch.zeros(channels),
        "scale": torch.full((channels,), 1 / scale_factor, dtype=torch.float64).float(),
        "preview": torch.zeros(channels + 1, preview_channels(config.network.image_channels)),
    }


def with_one_scale(config: KLConfig | VQConfig, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """A first stage's weights without statistics, and the scale factor with which they give the same unit latents.

    Raises `InputError` for a VQ first stage whose channels have scales of their own: distances to codes would change.
    """
    shift, scale = tensors["shift"].double(), tensors["scale"].double()
    weights = {name: value for name, value in tensors.items() if name not in ("shift", "scale", "preview")}
    uniform = bool((scale == scale[0]).all())
    factor = float(1 / scale.mean())
    if uniform and not shift.any():
        return weights, factor
    if isinstance(config, VQConfig):
        if not uniform:
            raise InputError(
                "this VQ first stage has a scale by channel, which one scale factor cannot express; train with one."
            )
        codes = weights["quantize.embedding.weight"]
        weights["quantize.embedding.weight"] = (codes.double() - shift).to(codes.dtype)
    ratio = scale * factor
    channels = len(ratio)
    weight, bias = (weights[f"quant_conv.{end}"] for end in ("weight", "bias"))
    rows = torch.ones(len(bias), dtype=torch.float64)
    moved = bias.double().clone()
    rows[:channels] = 1 / ratio
    moved[:channels] = (moved[:channels] - shift) / ratio
    moved[channels:] -= 2 * ratio.log()[: len(bias) - channels]  # nothing in a VQ first stage
    weights["quant_conv.weight"] = (weight.double() * rows.view(-1, 1, 1, 1)).to(weight.dtype)
    weights["quant_conv.bias"] = moved.to(bias.dtype)
    weight, bias = (weights[f"post_quant_conv.{end}"] for end in ("weight", "bias"))
    wide = weight.double()
    weights["post_quant_conv.weight"] = (wide * ratio.view(1, -1, 1, 1)).to(weight.dtype)
    weights["post_quant_conv.bias"] = (bias.double() + wide[:, :, 0, 0] @ shift).to(bias.dtype)
    return weights, factor
