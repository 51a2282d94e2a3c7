"""The time-conditional U-Net epsilon_theta(x_t, t, tau(y)) of latent diffusion.

Rombach et al. 2021 (arXiv 2112.10752, Sec. 3.2-3.3, App. E; configurations in Tab. 12-15) on the network of Dhariwal &
Nichol 2021 (arXiv 2105.05233). The tree of modules is the published one, so that a published file maps to it by renaming:

    time_embed, [label_embed], input_blocks[i][j], middle_block[j], output_blocks[i][j], out_norm, out_conv.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.nn.attention import SelfAttention2d, SpatialTransformer
from sfumato.nn.layers import Downsample, GroupNorm, Upsample, conv3x3, double, halve, timestep_embedding, zero
from sfumato.nn.residual import Resample, TimeResBlock


@dataclass(frozen=True)
class UNetConfig:
    """Which U-Net. The defaults of the last group are the published architecture.

    in_channels, out_channels: of the latent (`concat_channels` come on top of the first).
    channels: width of the first level; `multipliers` times it is the width of each level, each half the size of the one before.
    attention_factors: downsampling factors (1, 2, 4, ...) at which each residual block is followed by attention.
    transformer_depth: blocks of each spatial transformer; a tuple gives them by level (SDXL: 1, 2, 10), the last of which is
        the middle's, and which does not count at levels without attention.
    context_dim: width of the cross-attention context; None makes attention blocks without a context.
    vector_dim: width of the vector that is added, through two linear maps, to the time embedding.
    head_channels, num_heads: width of a head, or number of heads; one of the two (neither means one head).
    scale_shift: the time modulates the norm. resblock_updown: residual blocks resample, not convolutions.
    linear_projection: linear maps around the transformer in place of 1 x 1 convolutions (Stable Diffusion 2).
    use_new_attention_order: order of queries, keys and values in blocks without a context; see `SelfAttention2d`.
    qk_norm: RMS norm of queries and keys (not published; steadier in 16 bits).
    disable_self_attentions: by level, whether the first attention of a transformer block is cross-attention too (the x4
        upscaler); empty for nowhere. The middle always has self-attention.
    num_classes: size of a table of embeddings, one of which is added to the time embedding (noise levels of the x4 upscaler).
    """

    kind: ClassVar[str] = "unet"
    in_channels: int
    out_channels: int
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 2
    attention_factors: tuple[int, ...] = (2, 4, 8)
    transformer_depth: int | tuple[int, ...] = 1
    context_dim: int | None = None
    vector_dim: int | None = None
    concat_channels: int = 0
    head_channels: int | None = 32
    num_heads: int | None = None
    dropout: float = 0.0
    scale_shift: bool = False
    resblock_updown: bool = False
    linear_projection: bool = False
    use_new_attention_order: bool = False
    qk_norm: bool = False
    disable_self_attentions: tuple[bool, ...] = ()
    num_classes: int | None = None

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "channels", "num_res_blocks"):
            if getattr(self, name) < 1:
                raise InputError(f"U-Net {name} is {getattr(self, name)}: expected 1 or more.")
        if not self.multipliers or min(self.multipliers) < 1:
            raise InputError(f"U-Net multipliers are {list(self.multipliers)}: expected one or more numbers from 1.")
        if self.head_channels is not None and self.num_heads is not None:
            raise InputError(
                f"U-Net head_channels={self.head_channels} and num_heads={self.num_heads}: give one, set the other to null."
            )
        known = [2**level for level in range(len(self.multipliers))]
        for factor in self.attention_factors:
            if factor not in known:
                raise InputError(f"U-Net attention_factors has {factor}: this U-Net has the factors {known}.")
        attended = {self.multipliers[known.index(f)] for f in self.attention_factors} | {self.multipliers[-1]}
        for width in (self.channels * m for m in sorted(attended)):
            unit = self.head_channels or self.num_heads or 1
            if width % unit:
                name = "head_channels" if self.head_channels else "num_heads"
                raise InputError(f"U-Net {name}={unit} does not divide the width {width} of a level with attention.")
        self._check_levels()
        self._check_label()

    def _check_levels(self) -> None:
        levels = len(self.multipliers)
        if isinstance(self.transformer_depth, tuple) and len(self.transformer_depth) != levels:
            raise InputError(
                f"U-Net transformer_depth has {len(self.transformer_depth)} numbers: expected one for all levels, or {levels}."
            )
        attended = [level for level in range(levels) if 2**level in self.attention_factors]
        for level in [*attended, levels - 1]:
            if self.depth(level) < 1:
                raise InputError(
                    f"U-Net transformer_depth is {self.depth(level)} at level {level}, which has attention (the last has it in "
                    "the middle): expected 1 or more."
                )
        if self.disable_self_attentions and len(self.disable_self_attentions) != levels:
            raise InputError(
                f"U-Net disable_self_attentions has {len(self.disable_self_attentions)} values: expected none, or {levels} "
                "(one a level)."
            )
        if any(self.disable_self_attentions) and self.context_dim is None:
            raise InputError("U-Net disable_self_attentions needs a context to attend to: set context_dim, or leave it empty.")

    def _check_label(self) -> None:
        if self.num_classes is None:
            return
        if self.num_classes < 1:
            raise InputError(f"U-Net num_classes is {self.num_classes}: expected 1 or more, or null for no classes.")
        if self.vector_dim is not None:
            raise InputError(
                f"U-Net num_classes={self.num_classes} and vector_dim={self.vector_dim}: give one, set the other to null."
            )

    @property
    def factor(self) -> int:
        """Latent sides are multiples of this number."""
        return int(2 ** (len(self.multipliers) - 1))

    def heads(self, width: int) -> int:
        """Number of attention heads at a level of `width` channels."""
        return width // self.head_channels if self.head_channels else self.num_heads or 1

    def depth(self, level: int) -> int:
        """Blocks of a spatial transformer at `level`, from 0, the largest size."""
        return self.transformer_depth[level] if isinstance(self.transformer_depth, tuple) else self.transformer_depth

    def cross_only(self, level: int) -> bool:
        """Whether the transformer blocks at `level` have cross-attention only."""
        return bool(self.disable_self_attentions) and self.disable_self_attentions[level]


class Block(nn.ModuleList):
    """Layers in a row, each given what it asks for: the time embedding or the context."""

    def forward(self, h: Tensor, embedding: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        """(B, C, h, w), (B, 4 channels), (B, L, D), (B, L) -> (B, C', h', w')."""
        for layer in self:
            if isinstance(layer, TimeResBlock):
                h = layer(h, embedding)
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, context, mask)
            else:
                h = layer(h)
        return h


class UNet(nn.Module):
    """Residual blocks and attention, down, through the middle and up again, each level joined across by its outputs.

    `checkpointing` (set at run time) recomputes activations in the backward pass to save memory (arXiv 1604.06174).
    """

    checkpointing: bool = False

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        c = config
        time_channels = 4 * c.channels
        self.time_embed = _two_layers(c.channels, time_channels)
        self.label_embed = _label_embed(c, time_channels)
        widths = [c.channels * m for m in c.multipliers]

        width = c.channels
        self.input_blocks = nn.ModuleList([Block([conv3x3(c.in_channels + c.concat_channels, width)])])
        skips = [width]
        for level, level_width in enumerate(widths):
            for _ in range(c.num_res_blocks):
                self.input_blocks.append(self._block(width, level_width, level))
                width = level_width
                skips.append(width)
            if level + 1 < len(widths):
                down = self._resblock(width, width, resample=halve) if c.resblock_updown else Downsample(width)
                self.input_blocks.append(Block([down]))
                skips.append(width)

        depth = c.depth(len(widths) - 1)  # layers are made in order: the random weights of a seed depend on it
        self.middle_block = Block(
            [self._resblock(width, width), self._attention(width, depth, False), self._resblock(width, width)]
        )

        self.output_blocks = nn.ModuleList()
        for level, level_width in reversed(list(enumerate(widths))):
            for i in range(c.num_res_blocks + 1):
                block = self._block(width + skips.pop(), level_width, level)
                width = level_width
                if level and i == c.num_res_blocks:
                    block.append(self._resblock(width, width, resample=double) if c.resblock_updown else Upsample(width))
                self.output_blocks.append(block)
        self.out_norm = GroupNorm(width, eps=1e-5)
        self.out_conv = zero(conv3x3(width, c.out_channels))

    def forward(self, x_t: Tensor, time: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, h, w), times (B,) in table steps (0 ... 999 for the published schedules), cond -> (B, out, h, w).

        h and w are multiples of `config.factor`. `cond` fills exactly the slots that the config names; with `num_classes`
        its vector is (B,) whole numbers from 0.
        """
        c = self.config
        labelled = c.vector_dim is not None or c.num_classes is not None
        cond.check(context=c.context_dim is not None, vector=labelled, concat=c.concat_channels > 0)
        embedding = self.time_embed(timestep_embedding(time, self.config.channels).to(x_t.dtype))
        if self.label_embed is not None:
            embedding = embedding + self.label_embed(cond.vector)
        h = x_t if cond.concat is None else torch.cat([x_t, cond.concat], dim=1)
        skips = []
        for block in self.input_blocks:
            h = self._run(block, h, embedding, cond)
            skips.append(h)
        h = self._run(self.middle_block, h, embedding, cond)
        for block in self.output_blocks:
            h = self._run(block, torch.cat([h, skips.pop()], dim=1), embedding, cond)
        return self.out_conv(F.silu(self.out_norm(h)))

    def transformers(self) -> Iterator[SpatialTransformer]:
        """The spatial transformers, from input to output."""
        return (m for m in self.modules() if isinstance(m, SpatialTransformer))

    def _run(self, block: nn.Module, h: Tensor, embedding: Tensor, cond: Conditioning) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, h, embedding, cond.context, cond.mask, use_reentrant=False)
        return block(h, embedding, cond.context, cond.mask)

    def _block(self, in_channels: int, out_channels: int, level: int) -> Block:
        c = self.config
        layers: list[nn.Module] = [self._resblock(in_channels, out_channels)]
        if 2**level in c.attention_factors:
            layers.append(self._attention(out_channels, c.depth(level), c.cross_only(level)))
        return Block(layers)

    def _resblock(self, in_channels: int, out_channels: int, resample: Resample | None = None) -> TimeResBlock:
        c = self.config
        time_channels = 4 * c.channels
        return TimeResBlock(
            in_channels, out_channels, time_channels, dropout=c.dropout, scale_shift=c.scale_shift, resample=resample
        )

    def _attention(self, width: int, depth: int, cross_only: bool) -> nn.Module:
        c = self.config
        heads = c.heads(width)
        if c.context_dim is None:
            return SelfAttention2d(width, heads, c.use_new_attention_order, c.qk_norm)
        return SpatialTransformer(
            width,
            heads,
            width // heads,
            depth=depth,
            context_dim=c.context_dim,
            linear=c.linear_projection,
            qk_norm=c.qk_norm,
            cross_only=cross_only,
        )


def _two_layers(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_channels, out_channels), nn.SiLU(), nn.Linear(out_channels, out_channels))


def _label_embed(config: UNetConfig, out_channels: int) -> nn.Module | None:
    if config.num_classes is not None:
        return nn.Embedding(config.num_classes, out_channels)
    return _two_layers(config.vector_dim, out_channels) if config.vector_dim else None
