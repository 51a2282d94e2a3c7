"""A diffusion transformer shaped like an hourglass: fine tokens outside, few and wide ones in the middle.

    h = tokens(z) + position          h <- blocks(h), kept;  h <- 2 x 2 tokens merged into one;  blocks;  split again,
    fused with what was kept;  blocks;  z_out = conv(norm h)

    block:  h += g_1 attention(m_1(norm h));   h += cross-attention(norm h, tau(y));   h += g_2 ff(m_2(norm h))
    m(x) = x (1 + scale) + shift;  scales, shifts and gates g are linear in the embedding of time and vector, zero at first

Transformers that denoise latents, with adaLN-zero: Peebles & Xie 2022 (arXiv 2212.09748); the hourglass: Crowson et al. 2024
(arXiv 2401.11605); rotary positions: Su et al. 2021 (arXiv 2104.09864); SwiGLU: Shazeer 2020 (arXiv 2002.05202).
Cross-attention to tau(y) is Rombach et al. 2021 (arXiv 2112.10752, Sec. 3.3). Written from the papers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.nn.attention import Attention
from sfumato.nn.layers import RMSNorm, conv3x3, timestep_embedding, zero

Size = tuple[int, int]
NUM_WAVES = 8  # of the absolute position, in each direction
ROTARY_BASE = 100.0  # grids are tens of tokens wide, not thousands


@dataclass(frozen=True)
class HourglassConfig:
    """Which transformer.

    in_channels, out_channels: of the latent (`concat_channels` come on top of the first).
    widths, depths: of each level, the finest first, each with half the sides of the one before. A level has `depths[i]`
        blocks before and as many after what is below it; the last level has them once.
    head_channels: width of a head, a multiple of 4. condition_channels: of the embedding of time and vector.
    context_dim: width of the cross-attention context; None for blocks without cross-attention.
    vector_dim: width of the vector that is added, through two linear maps, to the time embedding.
    dropout: of what each block adds.
    """

    kind: ClassVar[str] = "hourglass"
    in_channels: int
    out_channels: int
    widths: tuple[int, ...] = (256, 512)
    depths: tuple[int, ...] = (2, 6)
    head_channels: int = 64
    condition_channels: int = 256
    context_dim: int | None = None
    vector_dim: int | None = None
    concat_channels: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "head_channels", "condition_channels"):
            if getattr(self, name) < 1:
                raise InputError(f"hourglass {name} is {getattr(self, name)}: expected 1 or more.")
        for name in ("context_dim", "vector_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"hourglass {name} is {value}: expected 1 or more, or null for none.")
        if self.concat_channels < 0:
            raise InputError(f"hourglass concat_channels is {self.concat_channels}: expected 0 or more.")
        if not self.widths or len(self.widths) != len(self.depths) or min(self.depths) < 1:
            raise InputError(
                f"hourglass widths are {list(self.widths)}, depths {list(self.depths)}: expected a depth from 1 a width."
            )
        if self.head_channels % 4:
            raise InputError(f"hourglass head_channels is {self.head_channels}: expected a multiple of 4.")
        for width in self.widths:
            if width < 1 or width % self.head_channels:
                raise InputError(f"hourglass head_channels={self.head_channels} does not divide the width {width} of a level.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"hourglass dropout is {self.dropout}: expected a share from 0 to below 1.")

    @property
    def factor(self) -> int:
        """Latent sides are multiples of this number."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def channels(self) -> int:
        """Width of the finest level."""
        return self.widths[0]


class RotaryAttention(nn.Module):
    """Self-attention whose queries and keys are normed and turned by their positions."""

    def __init__(self, dim: int, head_channels: int):
        super().__init__()
        self.heads = dim // head_channels
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        self.norm_q, self.norm_k = RMSNorm(head_channels, eps=1e-6), RMSNorm(head_channels, eps=1e-6)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """(B, N, dim), cosines and sines (N, d / 2) -> (B, N, dim)."""
        q, k, v = self.to_qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, N, d)
        q, k = turned(self.norm_q(q), turns), turned(self.norm_k(k), turns)
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """(silu(x W) * x V) U, as many parameters as a plain feed-forward four times as wide."""

    def __init__(self, dim: int):
        super().__init__()
        inner = max(32, round(8 * dim / 3 / 32) * 32)
        self.project = nn.Linear(dim, 2 * inner, bias=False)
        self.out = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> the same."""
        gate, value = self.project(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class HourglassBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, told time and vector by scales, shifts and gates."""

    def __init__(self, width: int, config: HourglassConfig):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width, eps=1e-6), RMSNorm(width, eps=1e-6)
        self.attn = RotaryAttention(width, config.head_channels)
        self.ff = SwiGLU(width)
        self.modulation = zero(nn.Linear(config.condition_channels, 6 * width))
        self.dropout = nn.Dropout(config.dropout)
        self.cross: Attention | None = None
        if config.context_dim is not None:
            heads = width // config.head_channels
            self.norm_cross = RMSNorm(width, eps=1e-6)
            self.cross = Attention(width, heads, config.head_channels, config.context_dim, qk_norm=True)
            zero(self.cross.to_out)

    def forward(
        self, h: Tensor, told: Tensor, turns: tuple[Tensor, Tensor], context: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """(B, N, D), told (B, condition_channels), (N, d / 2) twice, (B, L, C), (B, L) -> (B, N, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(told)[:, None].chunk(6, dim=-1)  # (B, 1, D)
        h = h + gate1 * self.dropout(self.attn(self.norm1(h) * (1 + scale1) + shift1, turns))
        if self.cross is not None:
            h = h + self.dropout(self.cross(self.norm_cross(h), context, mask))
        return h + gate2 * self.dropout(self.ff(self.norm2(h) * (1 + scale2) + shift2))


class Hourglass(nn.Module):
    """The transformer. `checkpointing` (set at run time) recomputes activations in the backward pass."""

    checkpointing: bool = False

    def __init__(self, config: HourglassConfig):
        super().__init__()
        self.config = config
        c, widths = config, config.widths
        self.time_embed = _two_layers(c.condition_channels, c.condition_channels)
        self.label_embed = _two_layers(c.vector_dim, c.condition_channels) if c.vector_dim else None
        self.conv_in = conv3x3(c.in_channels + c.concat_channels, widths[0])
        self.position = nn.Linear(4 * NUM_WAVES, widths[0], bias=False)
        levels = list(zip(widths[:-1], c.depths[:-1], strict=True))
        self.down = nn.ModuleList(_blocks(width, depth, c) for width, depth in levels)
        self.merge = nn.ModuleList(nn.Linear(4 * a, b, bias=False) for a, b in pairwise(widths))
        self.middle = _blocks(widths[-1], c.depths[-1], c)
        self.split = nn.ModuleList(nn.Linear(b, 4 * a, bias=False) for a, b in pairwise(widths))
        self.fuse = nn.ModuleList(nn.Linear(2 * width, width) for width in widths[:-1])
        self.up = nn.ModuleList(_blocks(width, depth, c) for width, depth in levels)
        self.norm_out = RMSNorm(widths[0], eps=1e-6)
        self.modulation_out = zero(nn.Linear(c.condition_channels, 2 * widths[0]))
        self.conv_out = zero(conv3x3(widths[0], c.out_channels))

    def forward(self, x_t: Tensor, time: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, h, w), times (B,) in table steps (0 ... 999 for the published schedules), cond -> (B, out, h, w).

        h and w are multiples of `config.factor`. `cond` fills exactly the slots that the config names.
        """
        c = self.config
        cond.check(context=c.context_dim is not None, vector=c.vector_dim is not None, concat=c.concat_channels > 0)
        told = self.time_embed(timestep_embedding(time, self.config.condition_channels).to(x_t.dtype))
        if self.label_embed is not None:
            told = told + self.label_embed(cond.vector)
        told = F.silu(told)
        size = (x_t.shape[2], x_t.shape[3])
        h = self.conv_in(x_t if cond.concat is None else torch.cat([x_t, cond.concat], dim=1))
        h = h.flatten(2).transpose(1, 2)  # (B, N, D)
        h = h + self.position(absolute_position(size, h.device).to(h.dtype))
        kept: list[Tensor] = []
        for level, (blocks, merge) in enumerate(zip(self.down, self.merge, strict=True)):
            h = self._run(blocks, h, told, size, level, cond)
            kept.append(h)
            h, size = merge(merged(h, size)), (size[0] // 2, size[1] // 2)  # (B, N / 4, D')
        h = self._run(self.middle, h, told, size, len(self.down), cond)
        for level in reversed(range(len(self.up))):
            h = split(self.split[level](h), size)  # (B, 4 N, D)
            size = (2 * size[0], 2 * size[1])
            h = self.fuse[level](torch.cat([h, kept.pop()], dim=-1))
            h = self._run(self.up[level], h, told, size, level, cond)
        shift, scale = self.modulation_out(told)[:, None].chunk(2, dim=-1)
        h = self.norm_out(h) * (1 + scale) + shift
        return self.conv_out(h.transpose(1, 2).unflatten(2, size))

    def _run(self, blocks: nn.Module, h: Tensor, told: Tensor, size: Size, level: int, cond: Conditioning) -> Tensor:
        turns = rotary_turns(size, self.config.head_channels, 2**level, h.device)
        for block in _listed(blocks):
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, told, turns, cond.context, cond.mask, use_reentrant=False)
            else:
                h = block(h, told, turns, cond.context, cond.mask)
        return h


def merged(h: Tensor, size: Size) -> Tensor:
    """Tokens (B, h w, D) of each 2 x 2 square side by side, (B, h w / 4, 4 D)."""
    rows, columns = size[0] // 2, size[1] // 2
    h = h.unflatten(1, (rows, 2, columns, 2)).permute(0, 1, 3, 2, 4, 5)  # (B, h / 2, w / 2, 2, 2, D)
    return h.reshape(h.shape[0], rows * columns, -1)


def split(h: Tensor, size: Size) -> Tensor:
    """The inverse of `merged`: (B, N, 4 D) on a grid of `size` -> (B, 4 N, D)."""
    h = h.unflatten(2, (2, 2, -1)).unflatten(1, size).permute(0, 1, 3, 2, 4, 5)  # (B, h, 2, w, 2, D)
    return h.flatten(1, 4)


def absolute_position(size: Size, device: torch.device) -> Tensor:
    """(h w, 4 * NUM_WAVES): sines and cosines of pi k (row, column), places from 0 to 1 across the picture."""
    waves = math.pi * torch.arange(1, NUM_WAVES + 1, dtype=torch.float32, device=device)
    axes = [(torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n for n in size]
    rows, columns = (axis[:, None] * waves for axis in axes)  # (h, K), (w, K)
    rows, columns = rows[:, None].expand(-1, size[1], -1), columns[None].expand(size[0], -1, -1)
    return torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=-1).flatten(0, 1)


def rotary_turns(size: Size, head_channels: int, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (h w, d / 2) of the angles by which positions turn; half of the pairs tell rows, half columns.

    `step`: sides of a token in tokens of the finest level, in which places are counted.
    """
    pairs = head_channels // 4
    rates = ROTARY_BASE ** (-torch.arange(pairs, dtype=torch.float32, device=device) / pairs)
    rows, columns = ((torch.arange(n, dtype=torch.float32, device=device) + 0.5) * step for n in size)
    angles = torch.cat(
        [
            (rows[:, None] * rates)[:, None].expand(-1, size[1], -1),
            (columns[:, None] * rates)[None].expand(size[0], -1, -1),
        ],
        dim=-1,
    ).flatten(0, 1)  # (h w, d / 2)
    return angles.cos(), angles.sin()


def turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """x (B, H, N, d): channels i and i + d / 2 are a pair, turned by its position's angle; in the type of x."""
    cosine, sine = turns
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1).to(x.dtype)


def _blocks(width: int, depth: int, config: HourglassConfig) -> nn.ModuleList:
    return nn.ModuleList(HourglassBlock(width, config) for _ in range(depth))


def _listed(blocks: nn.Module) -> Iterator[nn.Module]:
    assert isinstance(blocks, nn.ModuleList)
    return iter(blocks)


def _two_layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.SiLU(), nn.Linear(outputs, outputs))
