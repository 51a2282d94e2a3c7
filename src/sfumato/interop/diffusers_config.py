"""The config.json of diffusers' UNet2DConditionModel, UNet2DModel, AutoencoderKL and VQModel <-> our configs.

Only settings that change the network are read and written. A setting that our networks cannot express is refused by name.
One trap has a name there: `attention_head_dim` is the number of heads of a UNet2DConditionModel and the width of a head
of a UNet2DModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig
from sfumato.first_stages.vq import VQConfig
from sfumato.interop.diffusers import head_width, norm_groups
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNetConfig

TEXT_TIME = "text_time"
SDXL_TIME_CHANNELS = 256
VQ_DEFAULT_FACTOR = 0.18215
MAX_LEVELS = 16
_UNET_FIXED = {
    "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_type": "UNetMidBlock2DCrossAttn",
    "mid_block_scale_factor": 1, "downsample_padding": 1, "act_fn": "silu", "norm_num_groups": 32, "norm_eps": 1e-5,
    "reverse_transformer_layers_per_block": None, "encoder_hid_dim": None, "encoder_hid_dim_type": None,
    "num_attention_heads": None, "dual_cross_attention": False, "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False, "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional",
    "time_embedding_dim": None, "time_embedding_act_fn": None, "timestep_post_act": None, "time_cond_proj_dim": None,
    "conv_in_kernel": 3, "conv_out_kernel": 3, "attention_type": "default", "class_embeddings_concat": False,
    "cross_attention_norm": None, "mid_block_only_cross_attention": None,
}  # fmt: skip
_PLAIN_UNET_FIXED = {
    "center_input_sample": False, "time_embedding_type": "positional", "time_embedding_dim": None, "freq_shift": 0,
    "flip_sin_to_cos": True, "mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1, "downsample_padding": 1,
    "downsample_type": "conv", "upsample_type": "conv", "act_fn": "silu", "norm_num_groups": 32, "attn_norm_num_groups": None,
    "norm_eps": 1e-5, "resnet_time_scale_shift": "default", "add_attention": True, "class_embed_type": None,
}  # fmt: skip
CONDITIONED, PLAIN = "UNet2DConditionModel", "UNet2DModel"
_FIRST_STAGE_FIXED = {"act_fn": "silu", "norm_type": "group", "lookup_from_codebook": False, "use_quant_conv": True,
                      "use_post_quant_conv": True}  # fmt: skip


def is_text_time(settings: Mapping[str, Any]) -> bool:
    """Whether a U-Net's vector is SDXL's, named `add_embedding`."""
    return settings.get("addition_embed_type") == TEXT_TIME


def unet_class(config: UNetConfig) -> str:
    """The class of a U-Net there: `_class_name` of its config.json."""
    return PLAIN if config.context_dim is None else CONDITIONED


def unet_settings(config: UNetConfig, *, text_time: bool = False) -> dict[str, Any]:
    """The settings of UNet2DConditionModel, or of UNet2DModel where there is no context. `text_time`: the vector is SDXL's.

    For U-Nets that `unet_keys` can map.
    """
    if config.context_dim is None:
        return _plain_settings(config)
    levels = range(len(config.multipliers))
    widths = [config.channels * m for m in config.multipliers]
    attended = [2**level in config.attention_factors for level in levels]
    settings: dict[str, Any] = {
        "in_channels": config.in_channels + config.concat_channels,
        "out_channels": config.out_channels,
        "block_out_channels": widths,
        "layers_per_block": config.num_res_blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)],
        "cross_attention_dim": config.context_dim,
        "attention_head_dim": [max(config.heads(width), 1) for width in widths],
        "transformer_layers_per_block": [max(config.depth(level), 1) for level in levels],
        "only_cross_attention": [config.cross_only(level) for level in levels],
        "use_linear_projection": config.linear_projection,
        "dropout": config.dropout,
    }
    if config.num_classes is not None:
        settings["num_class_embeds"] = config.num_classes
    if config.vector_dim is not None:
        settings["projection_class_embeddings_input_dim"] = config.vector_dim
        if text_time:
            settings |= {"addition_embed_type": TEXT_TIME, "addition_time_embed_dim": SDXL_TIME_CHANNELS}
        else:
            settings["class_embed_type"] = "projection"
    return settings


def _plain_settings(config: UNetConfig) -> dict[str, Any]:
    attended = [2**level in config.attention_factors for level in range(len(config.multipliers))]
    settings: dict[str, Any] = {
        "in_channels": config.in_channels + config.concat_channels,
        "out_channels": config.out_channels,
        "block_out_channels": [config.channels * m for m in config.multipliers],
        "layers_per_block": config.num_res_blocks,
        "down_block_types": ["AttnDownBlock2D" if here else "DownBlock2D" for here in attended],
        "up_block_types": ["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)],
        "attention_head_dim": head_width(config),
        "dropout": config.dropout,
    }
    return settings | ({"num_class_embeds": config.num_classes} if config.num_classes is not None else {})


def unet_config(settings: Mapping[str, Any]) -> UNetConfig:
    """The U-Net of a config.json, by its `_class_name`, which may be left out for UNet2DConditionModel.

    Raises `InputError` naming the class or the setting that our U-Net has no form for.
    """
    name = settings.get("_class_name", CONDITIONED)
    if name == PLAIN:
        return _plain_config(settings)
    if name != CONDITIONED:
        raise InputError(f"a network of the class {str(name)[:80]!r}: expected {CONDITIONED} or {PLAIN}.")
    _check_fixed(name, settings, _UNET_FIXED)
    widths = _whole_numbers(settings, "block_out_channels", (320, 640, 1280, 1280))
    levels = len(widths)
    down = _by_level(settings, "down_block_types", levels, ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",))
    up = _by_level(settings, "up_block_types", levels, ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
    attended = _attended(name, down, up, ("DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"))
    heads = _by_level(settings, "attention_head_dim", levels, 8)
    only_cross = tuple(bool(x) for x in _by_level(settings, "only_cross_attention", levels, False))
    depth = tuple(int(x) for x in _by_level(settings, "transformer_layers_per_block", levels, 1))
    out_channels = int(settings.get("out_channels", 4))
    head_channels, num_heads = _heads(widths, [int(h) for h in heads], attended)
    vector, classes = _label(settings)
    return UNetConfig(
        in_channels=out_channels,
        out_channels=out_channels,
        channels=widths[0],
        multipliers=_multipliers(CONDITIONED, widths),
        num_res_blocks=_one(settings, "layers_per_block", 2),
        attention_factors=tuple(2**level for level in range(levels) if attended[level]),
        transformer_depth=depth[0] if len(set(depth)) == 1 else depth,
        context_dim=_one(settings, "cross_attention_dim", 1280),
        vector_dim=vector,
        concat_channels=int(settings.get("in_channels", 4)) - out_channels,
        head_channels=head_channels,
        num_heads=num_heads,
        dropout=float(settings.get("dropout", 0.0)),
        linear_projection=bool(settings.get("use_linear_projection", False)),
        disable_self_attentions=only_cross if any(only_cross) else (),
        num_classes=classes,
    )


def _plain_config(settings: Mapping[str, Any]) -> UNetConfig:
    _check_fixed(PLAIN, settings, _PLAIN_UNET_FIXED)
    widths = _whole_numbers(settings, "block_out_channels", (224, 448, 672, 896))
    levels = len(widths)
    down = _by_level(settings, "down_block_types", levels, ("DownBlock2D",) + ("AttnDownBlock2D",) * 3)
    up = _by_level(settings, "up_block_types", levels, ("AttnUpBlock2D",) * 3 + ("UpBlock2D",))
    attended = _attended(PLAIN, down, up, ("DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"))
    width, classes = settings.get("attention_head_dim", 8), settings.get("num_class_embeds")
    if width is not None and int(width) < 1:
        raise _refused(PLAIN, "attention_head_dim", width, "a number from 1, or null")
    out_channels = int(settings.get("out_channels", 3))
    return UNetConfig(
        in_channels=out_channels,
        out_channels=out_channels,
        channels=widths[0],
        multipliers=_multipliers(PLAIN, widths),
        num_res_blocks=_one(settings, "layers_per_block", 2),
        attention_factors=tuple(2**level for level in range(levels) if attended[level]),
        concat_channels=int(settings.get("in_channels", 3)) - out_channels,
        head_channels=None if width is None else int(width),
        dropout=float(settings.get("dropout", 0.0)),
        num_classes=None if classes is None else int(classes),
    )


def first_stage_settings(config: KLConfig | VQConfig) -> dict[str, Any]:
    """The settings of AutoencoderKL or VQModel, less the scaling factor."""
    net = config.network
    attended = [2**level in net.attention_resolution_factors for level in range(len(net.multipliers))]
    settings: dict[str, Any] = {
        "in_channels": net.image_channels,
        "out_channels": net.image_channels,
        "block_out_channels": net.widths(),
        "layers_per_block": net.num_res_blocks,
        "latent_channels": net.latent_channels,
        "norm_num_groups": norm_groups(net),
        "down_block_types": ["AttnDownEncoderBlock2D" if here else "DownEncoderBlock2D" for here in attended],
        "up_block_types": ["AttnUpDecoderBlock2D" if here else "UpDecoderBlock2D" for here in reversed(attended)],
        "mid_block_add_attention": net.mid_attention,
    }
    if isinstance(config, VQConfig):
        settings |= {"num_vq_embeddings": config.codebook_size, "vq_embed_dim": config.embed_channels or net.latent_channels}
    return settings


def scaling_factor(settings: Mapping[str, Any]) -> Any:
    """The scale factor that an autoencoder's settings state, None where they state none.

    A VQModel's default says nothing: the published VQ models have a scale of 1 and folders without it, or with the default
    that a newer release wrote (diffusers, issue 6725).
    """
    said = settings.get("scaling_factor")
    return None if "num_vq_embeddings" in settings and said == VQ_DEFAULT_FACTOR else said


def first_stage_config(settings: Mapping[str, Any]) -> KLConfig | VQConfig:
    """The autoencoder of a config.json: VQ where it has a codebook. Raises `InputError` as `unet_config` does."""
    vq = "num_vq_embeddings" in settings
    name = "VQModel" if vq else "AutoencoderKL"
    _check_fixed(name, settings, _FIRST_STAGE_FIXED)
    widths = _whole_numbers(settings, "block_out_channels", (64,))
    down = _by_level(settings, "down_block_types", len(widths), ("DownEncoderBlock2D",))
    up = _by_level(settings, "up_block_types", len(widths), ("UpDecoderBlock2D",))
    kinds = {
        "AttnDownEncoderBlock2D": True,
        "DownEncoderBlock2D": False,
        "AttnUpDecoderBlock2D": True,
        "UpDecoderBlock2D": False,
    }
    for block in (*down, *up):
        if block not in kinds:
            raise _refused(name, "block type", block, ", ".join(kinds))
    attended = [kinds[block] for block in down]
    if [kinds[block] for block in reversed(up)] != attended:
        raise _refused(name, "up_block_types", up, "the mirror image of down_block_types")
    latent = int(settings.get("latent_channels", 3 if vq else 4))
    network = AutoencoderConfig(
        image_channels=int(settings.get("in_channels", 3)),
        channels=widths[0],
        multipliers=_multipliers(name, widths),
        num_res_blocks=_one(settings, "layers_per_block", 1),
        attention_resolution_factors=tuple(2**level for level in range(len(widths)) if attended[level]),
        mid_attention=bool(settings.get("mid_block_add_attention", True)),
        latent_channels=latent,
        double_moments=not vq,
        norm_groups=_one(settings, "norm_num_groups", 32),
    )
    if not vq:
        return KLConfig(network)
    embed = int(settings.get("vq_embed_dim") or latent)
    return VQConfig(network, int(settings["num_vq_embeddings"]), 0 if embed == latent else embed)


def _attended(name: str, down: tuple[Any, ...], up: tuple[Any, ...], kinds: tuple[str, str, str, str]) -> list[bool]:
    """By level, whether it has attention. `kinds`: the blocks down without and with it, and the blocks up."""
    for block, known in [*((block, kinds[:2]) for block in down), *((block, kinds[2:]) for block in up)]:
        if block not in known:
            raise _refused(name, "block type", block, " or ".join(known))
    attended = [block == kinds[1] for block in down]
    if [block == kinds[3] for block in reversed(up)] != attended:
        raise _refused(name, "up_block_types", up, "the mirror image of down_block_types")
    return attended


def _heads(widths: tuple[int, ...], heads: list[int], attended: list[bool]) -> tuple[int | None, int | None]:
    """(width of a head, None) or (None, number of heads): whichever is the same at all levels that have attention."""
    if min(heads) < 1:
        raise _refused(CONDITIONED, "attention_head_dim", heads, "numbers from 1")
    used = [level for level in range(len(widths)) if attended[level]] or [len(widths) - 1]
    used = sorted({*used, len(widths) - 1})
    if len({heads[level] for level in used}) == 1:
        return None, heads[used[0]]
    sizes = {widths[level] / heads[level] for level in used}
    if len(sizes) != 1:
        raise _refused(CONDITIONED, "attention_head_dim", heads, "one number, or one width of a head at all levels")
    return int(sizes.pop()), None


def _label(settings: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(width of the vector, number of classes)."""
    kind, added = settings.get("class_embed_type"), settings.get("addition_embed_type")
    classes = settings.get("num_class_embeds")
    if kind not in (None, "projection") or added not in (None, TEXT_TIME) or (kind and added):
        raise _refused(CONDITIONED, "class_embed_type, addition_embed_type", (kind, added), "projection or text_time")
    if kind or added:
        return int(settings["projection_class_embeddings_input_dim"]), None
    return None, None if classes is None else int(classes)


def _multipliers(name: str, widths: tuple[int, ...]) -> tuple[int, ...]:
    if any(width % widths[0] for width in widths):
        raise _refused(name, "block_out_channels", widths, "multiples of the first")
    return tuple(width // widths[0] for width in widths)


def _by_level(settings: Mapping[str, Any], key: str, levels: int, default: Any) -> tuple[Any, ...]:
    value = settings.get(key, default)
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * levels
    if len(values) != levels:
        raise InputError(
            f"{key} has {len(values)} entries: expected one for each of the {levels} levels of block_out_channels."
        )
    return values


def _whole_numbers(settings: Mapping[str, Any], key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = settings.get(key, default)
    if not isinstance(value, list | tuple) or not value or not all(type(item) is int and item > 0 for item in value):
        raise InputError(f"{key} is {str(value)[:80]}: expected a list of whole numbers from 1.")
    if len(value) > MAX_LEVELS:
        raise InputError(f"{key} has {len(value)} levels: expected {MAX_LEVELS} at most.")
    return tuple(value)


def _one(settings: Mapping[str, Any], key: str, default: int) -> int:
    value = settings.get(key, default)
    values = set(value) if isinstance(value, list | tuple) else {value}
    only = values.pop() if len(values) == 1 else None
    if type(only) is not int:
        raise InputError(f"{key} is {value!r}: expected one whole number for all levels.")
    return only


def _check_fixed(name: str, settings: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for key, value in fixed.items():
        given = settings.get(key, value)
        if given != value and not (value is None and not given) and not (key == "mid_block_only_cross_attention" and not given):
            raise _refused(name, key, given, repr(value))


def _refused(name: str, key: str, given: object, expected: str) -> InputError:
    return InputError(f"{name} with {key} {given!r} has no form here: expected {expected}.")
