"""An architecture from the shapes of its weights, in the authors' names (`compvis.py`).

Everything that changes a name or a shape is read off: widths, depths, blocks, attention, contexts, codebooks. What changes
neither is a guess of the kind that the published models would make, or a card's: the heads of attention. Whatever is
derived is built (without memory) and compared with what was given, name by name and shape by shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch

from sfumato.errors import InputError
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.first_stages.vq import VQConfig, VQFirstStage
from sfumato.interop import compvis
from sfumato.interop.keys import MOST_SHOWN, KeyMap
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNet, UNetConfig

Shapes = Mapping[str, tuple[int, ...]]
MOST_BLOCKS, LARGEST = 64, 2**24


def unet_of(shapes: Shapes, what: str = "the U-Net") -> UNetConfig:
    """The U-Net with these weights, names without prefix. Raises `InputError` where it is none of ours."""
    blocks = _count(shapes, r"input_blocks\.(\d+)\..+")
    per_level = _blocks_per_level(shapes, blocks)
    if not blocks or blocks % (per_level + 1):
        raise InputError(f"{what} has {blocks} input blocks in levels of {per_level + 1}; is it a U-Net of the published kind?")
    starts = range(1, blocks, per_level + 1)  # the first residual block of each level
    width, channels = _get(shapes, "input_blocks.0.0.weight", 4, what)[:2]
    out = _get(shapes, "out.2.weight", 4, what)[0]
    widths = [_get(shapes, f"input_blocks.{i}.0.out_layers.3.weight", 4, what)[0] for i in starts]
    if any(w % width for w in widths) or channels < out:
        raise InputError(f"{what} has widths {widths}, {channels} channels in and {out} out; no U-Net of ours has.")
    attended = [f"input_blocks.{i}.1.norm.weight" in shapes for i in starts]
    context = _context(shapes)
    places = [f"input_blocks.{i}.1" for i in starts[:-1]] + [
        f"input_blocks.{starts[-1]}.1" if attended[-1] else "middle_block.1"
    ]
    depths = tuple(_count(shapes, re.escape(place) + r"\.transformer_blocks\.(\d+)\..+") for place in places)
    cross = tuple(here and _is_cross(shapes, place, context) for here, place in zip(attended, places, strict=True))
    time = _get(shapes, "input_blocks.1.0.emb_layers.1.weight", 2, what)[0]
    vector, classes = (_get(shapes, n, 2, what) if n in shapes else None for n in ("label_emb.0.0.weight", "label_emb.weight"))
    config = UNetConfig(
        in_channels=out,
        out_channels=out,
        channels=width,
        multipliers=tuple(w // width for w in widths),
        num_res_blocks=per_level,
        attention_factors=tuple(2**level for level, here in enumerate(attended) if here),
        transformer_depth=depths if context is not None else 1,
        context_dim=context,
        vector_dim=vector[1] if vector else None,
        num_classes=classes[0] if classes else None,
        concat_channels=channels - out,
        head_channels=None,
        num_heads=1,
        scale_shift=time == 2 * widths[0],
        resblock_updown=_resamples_in_blocks(shapes),
        linear_projection=len(shapes.get("middle_block.1.proj_in.weight", ())) == 2,
        disable_self_attentions=cross if any(cross) else (),
    )
    config = with_usual_heads(normal(config))
    _check(shapes, UNet, config, compvis.unet_keys(config), what)
    return config


def first_stage_of(shapes: Shapes, what: str = "the first stage") -> KLConfig | VQConfig:
    """The autoencoder with these weights, names without prefix. Raises `InputError` where it is none of ours."""
    levels = _count(shapes, r"encoder\.down\.(\d+)\..+")
    width, image = _get(shapes, "encoder.conv_in.weight", 4, what)[:2]
    widths = [_get(shapes, f"encoder.down.{level}.block.0.conv2.weight", 4, what)[0] for level in range(levels)]
    latent, embed = _get(shapes, "post_quant_conv.weight", 4, what)[:2]
    if not levels or any(w % width for w in widths):
        raise InputError(f"{what} has widths {widths} after {width} channels; no autoencoder of ours has.")
    book = _get(shapes, "quantize.embedding.weight", 2, what) if "quantize.embedding.weight" in shapes else None
    network = AutoencoderConfig(
        image_channels=image,
        channels=width,
        multipliers=tuple(w // width for w in widths),
        num_res_blocks=_count(shapes, r"encoder\.down\.0\.block\.(\d+)\..+"),
        attention_resolution_factors=tuple(2**n for n in range(levels) if f"encoder.down.{n}.attn.0.q.weight" in shapes),
        mid_attention="encoder.mid.attn_1.q.weight" in shapes,
        latent_channels=latent,
        double_moments=book is None,
    )
    embed_channels = 0 if embed == latent else embed
    config = KLConfig(network, embed_channels) if book is None else VQConfig(network, book[0], embed_channels)
    kind = KLFirstStage if isinstance(config, KLConfig) else VQFirstStage
    _check(shapes, kind, config, compvis.first_stage_keys(config), what)
    return config


def normal(config: UNetConfig) -> UNetConfig:
    """The same U-Net in one form: what has no effect (a depth without attention) is set alike, factors are in order."""
    levels = range(len(config.multipliers))
    attended = [2**level in config.attention_factors for level in levels]
    cross = tuple(config.cross_only(level) and attended[level] for level in levels)
    depth: int | tuple[int, ...] = 1
    if config.context_dim is not None:
        last = levels[-1]
        used = {config.depth(level) for level in levels if attended[level] or level == last}
        each = tuple(config.depth(level) if attended[level] or level == last else 0 for level in levels)
        depth = used.pop() if len(used) == 1 else each
    return replace(
        config,
        attention_factors=tuple(sorted(config.attention_factors)),
        transformer_depth=depth,
        disable_self_attentions=cross if any(cross) else (),
    )


def without_heads(config: UNetConfig) -> UNetConfig:
    """`normal`, and blind to what is visible in no shape."""
    return replace(normal(config), head_channels=None, num_heads=1, dropout=0.0, use_new_attention_order=False)


def with_usual_heads(config: UNetConfig) -> UNetConfig:
    """The heads that the published models of this kind have: 64 channels with linear projections, 8 heads with other
    transformers, 32 channels without a context; one head where those do not divide the widths."""
    if config.context_dim is not None and not config.linear_projection:
        usual: tuple[int | None, int | None] = (None, 8)
    else:
        usual = (64 if config.linear_projection else 32, None)
    try:
        return replace(config, head_channels=usual[0], num_heads=usual[1])
    except InputError:
        return replace(config, head_channels=None, num_heads=1)


def _count(shapes: Shapes, pattern: str) -> int:
    """How many numbers, from 0 up without a gap, the pattern's group takes over all names."""
    found = {match[1] for match in map(re.compile(pattern).fullmatch, shapes) if match}
    count = 0
    while str(count) in found and count < MOST_BLOCKS:
        count += 1
    return count


def _get(shapes: Shapes, name: str, dims: int, what: str) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != dims:
        found = "is missing" if shape is None else f"has shape {tuple(shape)}, expected {dims} dimensions"
        raise InputError(f"{what}: {name} {found}; is it of another architecture?")
    if not all(0 < size < LARGEST for size in shape):
        raise InputError(f"{what}: {name} has shape {tuple(shape)}, which no network has.")
    return shape


def _blocks_per_level(shapes: Shapes, blocks: int) -> int:
    """The first output block that ends in upsampling is the last of its level."""
    ends = re.compile(r"output_blocks\.(\d+)\.[12]\.(?:conv\.weight|in_layers\.0\.weight)")
    found = [int(match[1]) for match in map(ends.fullmatch, shapes) if match]
    return min(found) if found else blocks - 1


def _resamples_in_blocks(shapes: Shapes) -> bool:
    second = re.compile(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight")
    return any(second.fullmatch(name) for name in shapes)


def _context(shapes: Shapes) -> int | None:
    key = shapes.get("middle_block.1.transformer_blocks.0.attn2.to_k.weight")
    return key[1] if key and len(key) == 2 else None


def _is_cross(shapes: Shapes, place: str, context: int | None) -> bool:
    """A first attention whose keys come from the context. Where its width is the block's own, it counts as self-attention."""
    key, query = (shapes.get(f"{place}.transformer_blocks.0.attn1.to_{x}.weight", ()) for x in "kq")
    return len(key) == len(query) == 2 and key[1] == context and key[1] != query[1]


def _check(
    shapes: Shapes, kind: type[torch.nn.Module], config: UNetConfig | KLConfig | VQConfig, keys: KeyMap, what: str
) -> None:
    ours = {name: torch.empty(shape, device="meta") for name, shape in compvis.parameter_shapes(kind, config).items()}
    wanted = {name: tuple(value.shape) for name, value in keys.to_theirs(ours).items()}
    faults = [f"{name} is missing" for name in sorted(wanted.keys() - shapes.keys())]
    faults += [f"{name} is unexpected" for name in sorted(shapes.keys() - wanted.keys())]
    faults += [
        f"{name} has shape {tuple(shapes[name])}, expected {shape}"
        for name, shape in wanted.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]
    if faults:
        shown = "; ".join(faults[:MOST_SHOWN]) + (f"; and {len(faults) - MOST_SHOWN} more" if len(faults) > MOST_SHOWN else "")
        raise InputError(f"{what} is of no known architecture: {shown}.")
