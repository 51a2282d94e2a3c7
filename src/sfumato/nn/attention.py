"""Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V, over the positions of a feature map and over a context.

Vaswani et al. 2017 (arXiv 1706.03762, Eq. 1). Cross-attention to a context tau(y) inside a spatial transformer is Rombach
et al. 2021 (arXiv 2112.10752, Sec. 3.3 and App. E.2.1). GEGLU: Shazeer 2020 (arXiv 2002.05202). Normed queries and keys
(optional): Henry et al. 2020 (arXiv 2010.04245).
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.layers import GroupNorm, RMSNorm, zero


class Attention(nn.Module):
    """Multi-head attention of tokens to a context, or to themselves where no context is given.

    Queries, keys and values have no bias, the output has one.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, context_dim: int | None = None, qk_norm: bool = False):
        super().__init__()
        self.heads = heads
        inner, source = heads * head_dim, dim if context_dim is None else context_dim
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(source, inner, bias=False)
        self.to_v = nn.Linear(source, inner, bias=False)
        self.to_out = nn.Linear(inner, dim)
        self.norm_q: nn.Module = RMSNorm(head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.norm_k: nn.Module = RMSNorm(head_dim, eps=1e-6) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim), context (B, L, context_dim), mask (B, L) bool, True where it counts -> (B, N, dim)."""
        context = x if context is None else context
        q = self.norm_q(self._split(self.to_q(x)))  # (B, H, N, d)
        k = self.norm_k(self._split(self.to_k(context)))  # (B, H, L, d)
        v = self._split(self.to_v(context))
        allowed = None if mask is None else mask[:, None, None, :]
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.to_out(h.transpose(1, 2).flatten(2))  # (B, N, dim)

    def maps(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """softmax(Q K^T / sqrt(d)) itself, (B, H, N, L) fp32, whose rows sum to 1; arguments as of `forward`."""
        q = self.norm_q(self._split(self.to_q(x))).float()
        k = self.norm_k(self._split(self.to_k(x if context is None else context))).float()
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)
        return scores.softmax(dim=3)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear maps, four times as wide between: GEGLU(x) = x W * gelu(x V) if `gated`, else gelu(x W)."""

    def __init__(self, dim: int, gated: bool = True, dropout: float = 0.0):
        super().__init__()
        self.gated = gated
        self.project = nn.Linear(dim, 8 * dim if gated else 4 * dim)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> the same."""
        h = self.project(x)
        if self.gated:
            value, gate = h.chunk(2, dim=-1)
            h = value * F.gelu(gate)
        else:
            h = F.gelu(h)
        return self.out(self.dropout(h))


class TransformerBlock(nn.Module):
    """x += self-attention(norm x); x += cross-attention(norm x, context); x += feed-forward(norm x).

    Without `context_dim` the second attention is self-attention too, as published for empty contexts. `cross_only` turns
    the first into cross-attention as well: its keys and values come from the context.
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, context_dim: int | None, qk_norm: bool = False, cross_only: bool = False
    ):
        super().__init__()
        self.cross_only = cross_only
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads, head_dim, context_dim if cross_only else None, qk_norm=qk_norm)
        self.attn2 = Attention(dim, heads, head_dim, context_dim, qk_norm=qk_norm)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, dim), (B, L, context_dim), (B, L) -> (B, N, dim)."""
        x = x + (self.attn1(self.norm1(x), context, mask) if self.cross_only else self.attn1(self.norm1(x)))
        x = x + self.attn2(self.norm2(x), context, mask)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the h * w positions of a feature map, residual, starting as the identity.

    The maps into and out of the tokens are 1 x 1 convolutions, or with `linear` the same numbers as linear layers.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        head_dim: int,
        *,
        depth: int,
        context_dim: int | None,
        linear: bool = False,
        qk_norm: bool = False,
        cross_only: bool = False,
    ):
        super().__init__()
        inner = heads * head_dim
        self.linear = linear
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in: nn.Module = nn.Linear(channels, inner) if linear else nn.Conv2d(channels, inner, 1)
        self.blocks = nn.ModuleList(
            TransformerBlock(inner, heads, head_dim, context_dim, qk_norm, cross_only) for _ in range(depth)
        )
        self.proj_out: nn.Module = zero(nn.Linear(inner, channels) if linear else nn.Conv2d(inner, channels, 1))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, C, h, w), (B, L, context_dim), (B, L) -> (B, C, h, w)."""
        size = x.shape[2:]
        h = self.norm(x)
        h = self.proj_in(_tokens(h)) if self.linear else _tokens(self.proj_in(h))  # (B, hw, D)
        for block in self.blocks:
            h = block(h, context, mask)
        h = _image(self.proj_out(h), size) if self.linear else self.proj_out(_image(h, size))
        return x + h


class SelfAttention2d(nn.Module):
    """Self-attention over the positions of a feature map, residual, starting as the identity (arXiv 2105.05233).

    One map gives queries, keys and values. Published files order its 3C channels as head, (q, k, v), d; with
    `qkv_first` as (q, k, v), head, d.
    """

    def __init__(self, channels: int, heads: int, qkv_first: bool = False, qk_norm: bool = False):
        super().__init__()
        self.heads, self.qkv_first = heads, qkv_first
        self.norm = GroupNorm(channels, eps=1e-5)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.norm_q: nn.Module = RMSNorm(channels // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.norm_k: nn.Module = RMSNorm(channels // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.proj_out = zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        qkv = self.qkv(self.norm(x).flatten(2)).transpose(1, 2)  # (B, N, 3C)
        if self.qkv_first:
            q, k, v = qkv.unflatten(2, (3, self.heads, -1)).unbind(2)  # (B, N, H, d) each
        else:
            q, k, v = qkv.unflatten(2, (self.heads, 3, -1)).unbind(3)
        q, k = self.norm_q(q), self.norm_k(k)
        h = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))  # (B, H, N, d)
        h = self.proj_out(h.transpose(1, 2).flatten(2).transpose(1, 2))  # (B, C, N)
        return x + h.unflatten(2, x.shape[2:])


class PlainAttention2d(nn.Module):
    """The autoencoder's attention: one head as wide as the feature map, 1 x 1 convolutions, residual."""

    def __init__(self, channels: int, groups: int = 32):
        super().__init__()
        self.norm = GroupNorm(channels, eps=1e-6, groups=groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        h = self.norm(x)
        q, k, v = (_tokens(f(h))[:, None] for f in (self.q, self.k, self.v))  # (B, 1, hw, C)
        h = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.proj_out(_image(h, x.shape[2:]))


def _tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, hw, C)."""
    return x.flatten(2).transpose(1, 2)


def _image(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, hw, C) -> (B, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, size)
