"""A decoder-only transformer over a raster of codes.

    h_0 = [y_1, ..., y_L, start + e(y), E[c_1], ..., E[c_{N-1}]] + P
    h <- h + attention(norm h),  h <- h + feed-forward(norm h),   logits of c_i = W norm(h) at the place of c_{i-1}

The blocks are those of GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners"), the use on codes
and the sliding window are Esser et al. 2020 (arXiv 2012.09841, Sec. 3.2 and Fig. 3). A class or vector is added to the start
token; a context y_1 ... y_L stands before it, or is read by cross-attention in every block. Beyond the trained size each code
is predicted from the window of that size around it, pushed inside the grid at its borders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.networks.raster import CodeNetwork, Predictor, place, to_grid, to_sequence

KeysValues = tuple[Tensor, Tensor]  # (B, H, S, d) each


@dataclass(frozen=True)
class GPTConfig:
    """Which transformer. height, width: the trained grid, in places; channels: codes a place.

    num_classes or vector_dim: what the `vector` slot holds, whole numbers or a vector. context_dim: width of the `context`
    slot, which stands before the codes ("prefix") or is read by cross-attention ("cross").
    """

    kind: ClassVar[str] = "gpt"
    vocabulary: int
    height: int
    width: int
    channels: int = 1
    dim: int = 512
    depth: int = 8
    heads: int = 8
    dropout: float = 0.0
    num_classes: int | None = None
    vector_dim: int | None = None
    context_dim: int | None = None
    context: Literal["prefix", "cross"] = "prefix"

    def __post_init__(self) -> None:
        for name in (
            "vocabulary",
            "height",
            "width",
            "channels",
            "dim",
            "depth",
            "heads",
            "num_classes",
            "vector_dim",
            "context_dim",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"GPT {name} is {value}: expected 1 or more.")
        if self.dim % self.heads:
            raise InputError(f"GPT heads={self.heads} does not divide dim={self.dim}: choose a divisor.")
        if self.num_classes is not None and self.vector_dim is not None:
            raise InputError(
                f"GPT num_classes={self.num_classes} and vector_dim={self.vector_dim}: give one, set the other to null."
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"GPT dropout is {self.dropout}: expected 0 or more, below 1.")


class Cache:
    """Keys and values of one block: those of the tokens so far, with room for `room`, and those of the context."""

    def __init__(self, room: int):
        self.room, self.used = room, 0
        self.own: KeysValues | None = None
        self.context: KeysValues | None = None

    def add(self, k: Tensor, v: Tensor) -> KeysValues:
        """Append (B, H, n, d) and return all so far, (B, H, used, d)."""
        if self.own is None:
            batch, heads, _, width = k.shape
            self.own = (k.new_empty(batch, heads, self.room, width), v.new_empty(batch, heads, self.room, width))
        begin, self.used = self.used, self.used + k.shape[2]
        for store, new in zip(self.own, (k, v), strict=True):
            store[:, :, begin : self.used] = new
        return self.own[0][:, :, : self.used], self.own[1][:, :, : self.used]


class SelfAttention(nn.Module):
    """Attention of each token to those before it and itself; every map has a bias, as in GPT-2."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, allowed: Tensor | None, cache: Cache | None = None) -> Tensor:
        """(B, N, D), allowed (B or 1, 1, N, S) bool or None for the causal mask -> (B, N, D).

        With a cache the N tokens follow those in it; then None allows all.
        """
        q, k, v = (_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=2))  # (B, H, N, d)
        if cache is not None:
            k, v = cache.add(k, v)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=allowed is None and cache is None)
        return self.out(h.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention to a context, whose keys and values are made once."""

    def __init__(self, dim: int, heads: int, context_dim: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(context_dim, 2 * dim), nn.Linear(dim, dim)

    def keys_values(self, context: Tensor) -> KeysValues:
        """(B, L, context_dim) -> (B, H, L, d) twice."""
        k, v = self.kv(context).chunk(2, dim=2)
        return _heads(k, self.heads), _heads(v, self.heads)

    def forward(self, x: Tensor, context: KeysValues, mask: Tensor | None) -> Tensor:
        """(B, N, D), mask (B, L) bool, True where it counts -> (B, N, D)."""
        allowed = None if mask is None else mask[:, None, None, :]
        h = F.scaled_dot_product_attention(_heads(self.q(x), self.heads), *context, attn_mask=allowed)
        return self.out(h.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """h += self-attention(norm h); [h += cross-attention(norm h, y);] h += feed-forward(norm h)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        dim, crossed = config.dim, config.context_dim if config.context == "cross" else None
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, config.heads)
        self.norm_cross = None if crossed is None else nn.LayerNorm(dim)
        self.cross = None if crossed is None else CrossAttention(dim, config.heads, crossed)
        self.wide, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, h: Tensor, allowed: Tensor | None, cond: Conditioning, cache: Cache | None = None) -> Tensor:
        """(B, N, D) -> the same; `allowed` as in `SelfAttention`."""
        h = h + self.dropout(self.attn(self.norm1(h), allowed, cache))
        if self.cross is not None and self.norm_cross is not None:
            assert cond.context is not None
            context = None if cache is None else cache.context
            if context is None:
                context = self.cross.keys_values(cond.context)
            if cache is not None:
                cache.context = context
            h = h + self.dropout(self.cross(self.norm_cross(h), context, cond.mask))
        return h + self.dropout(self.narrow(F.gelu(self.wide(self.norm2(h)))))

    def ends(self) -> list[nn.Linear]:
        """The last map of each residual branch."""
        return [self.attn.out, self.narrow, *([] if self.cross is None else [self.cross.out])]


class GPT(CodeNetwork):
    """Codes to logits. `checkpointing` (set at run time) recomputes activations in the backward pass."""

    checkpointing: bool = False

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = c = config
        self.tokens = nn.Embedding(c.channels * c.vocabulary, c.dim)  # a table for each channel of a place
        self.positions = nn.Embedding(c.height * c.width * c.channels, c.dim)
        self.start = nn.Parameter(torch.empty(c.dim))
        self.label = nn.Embedding(c.num_classes, c.dim) if c.num_classes else None
        self.vector = nn.Linear(c.vector_dim, c.dim) if c.vector_dim else None
        self.prefix = nn.Linear(c.context_dim, c.dim) if c.context_dim and c.context == "prefix" else None
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.dim)
        self.head = nn.Linear(c.dim, c.channels * c.vocabulary, bias=False)
        self._initialise()

    def forward(self, codes: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, h, w) codes -> (B, C, h, w, K) logits. Beyond the trained size: one pass of the window for each code."""
        shape = codes.shape[1:]
        if self.fits(shape):
            return self._whole(codes, cond)
        sequence = to_sequence(codes)
        walk = WindowPredictor(self, cond, shape)
        return to_grid(torch.stack([walk(sequence, i) for i in range(sequence.shape[1])], dim=1), shape)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a grid of `shape` (C, h, w) is within the trained size."""
        return shape[1] <= self.config.height and shape[2] <= self.config.width

    def predictor(self, cond: Conditioning, batch: int, shape: Sequence[int]) -> Predictor:
        """One token a call with a cache of keys and values; beyond the trained size, the rows of the window so far."""
        return CachedPredictor(self, cond, batch, shape) if self.fits(shape) else WindowPredictor(self, cond, shape)

    def beginning(self, cond: Conditioning, batch: int, place: Tensor) -> Tensor:
        """[y_1, ..., y_L, start + e(y)] with the position embedding `place` (D,) of the first code: (B, L + 1, D)."""
        c = self.config
        cond.check(context=c.context_dim is not None, vector=bool(c.num_classes or c.vector_dim), concat=False)
        start = (self.start + place).expand(batch, -1)  # (B, D)
        if cond.vector is not None:
            embed = self.label or self.vector
            assert embed is not None
            start = start + embed(cond.vector)
        if self.prefix is None:
            return start[:, None]
        assert cond.context is not None
        return torch.cat([self.prefix(cond.context), start[:, None]], dim=1)

    def places(self, shape: Sequence[int]) -> Tensor:
        """Position embeddings (N, D) of a grid of `shape`, within the trained size, in raster order."""
        c = self.config
        assert shape[0] == c.channels, f"codes of {shape[0]} channels, a network of {c.channels}"
        assert self.fits(shape), f"codes {tuple(shape)} beyond the trained {c.height} x {c.width}"
        table = self.positions.weight.view(c.height, c.width, c.channels, c.dim)
        return table[: shape[1], : shape[2]].reshape(-1, c.dim)

    def embed(self, sequence: Tensor, first: int = 0) -> Tensor:
        """(B, n) codes, the first of them number `first` of its grid -> (B, n, D), without positions."""
        channel = torch.arange(first, first + sequence.shape[1], device=sequence.device) % self.config.channels
        return self.tokens(sequence + channel * self.config.vocabulary)

    def allowed(self, cond: Conditioning, num_codes: int) -> Tensor | None:
        """What may be attended to, (B, 1, L + N, L + N), or None for all that is before: hides context that does not count."""
        if self.prefix is None or cond.mask is None:
            return None
        counts = F.pad(cond.mask, (0, num_codes), value=True)  # (B, L + N)
        size = counts.shape[1]
        before = torch.ones(size, size, dtype=torch.bool, device=counts.device).tril()
        itself = torch.eye(size, dtype=torch.bool, device=counts.device)  # no row is left without any
        return ((before & counts[:, None]) | itself)[:, None]

    def logits(self, h: Tensor, first: int = 0) -> Tensor:
        """(B, n, D) where codes number `first`, ... are predicted -> (B, n, K)."""
        c = self.config
        if c.channels == 1:
            return self.head(self.norm(h))
        weight = self.head.weight.view(c.channels, c.vocabulary, c.dim)
        channel = torch.arange(first, first + h.shape[1], device=h.device) % c.channels
        every = torch.einsum("bnd,ckd->bnck", self.norm(h), weight)
        return every.gather(2, channel[None, :, None, None].expand(len(h), -1, 1, c.vocabulary))[:, :, 0]

    def _whole(self, codes: Tensor, cond: Conditioning) -> Tensor:
        sequence, places = to_sequence(codes), self.places(codes.shape[1:])
        num_codes = sequence.shape[1]
        h = torch.cat([self.beginning(cond, len(codes), places[0]), self.embed(sequence[:, :-1]) + places[1:]], dim=1)
        h, allowed = self.dropout(h), self.allowed(cond, num_codes)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, allowed, cond, use_reentrant=False)
            else:
                h = block(h, allowed, cond)
        return to_grid(self.logits(h[:, -num_codes:]), codes.shape[1:])

    def _initialise(self) -> None:
        """N(0, 0.02^2), maps that end a residual branch smaller by sqrt(number of branches) (Radford et al. 2019, Sec. 2.3)."""
        crossed = self.config.context_dim is not None and self.config.context == "cross"
        branches = math.sqrt((3 if crossed else 2) * self.config.depth)
        ends = [m for b in self.blocks if isinstance(b, Block) for m in b.ends()]
        nn.init.normal_(self.start, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02 / branches if any(module is end for end in ends) else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


class CachedPredictor:
    """Each call feeds one code and keeps its keys and values; the first feeds the context and the start token."""

    def __init__(self, network: GPT, cond: Conditioning, batch: int, shape: Sequence[int]):
        self.network, self.cond, self.batch = network, cond, batch
        self.places = network.places(shape)
        length = 0 if cond.context is None or network.prefix is None else cond.context.shape[1]
        self.caches = [Cache(length + len(self.places)) for _ in network.blocks]
        self.asked = 0

    @torch.no_grad()
    def __call__(self, sequence: Tensor, index: int) -> Tensor:
        """Logits (B, K) of code `index`, the next after that of the last call."""
        assert index == self.asked, f"code {index} was asked for where {self.asked} is next"
        self.asked += 1
        net = self.network
        allowed: Tensor | None
        if index == 0:
            h = net.beginning(self.cond, self.batch, self.places[0])  # (B, L + 1, D)
            allowed = net.allowed(self.cond, 1)
            if allowed is None:
                allowed = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).tril()[None, None]
        else:
            h = net.embed(sequence[:, index - 1 : index], index - 1) + self.places[index]
            allowed = None
            if net.prefix is not None and self.cond.mask is not None:
                allowed = F.pad(self.cond.mask, (0, index + 1), value=True)[:, None, None]  # (B, 1, 1, L + index + 1)
        for block, cache in zip(net.blocks, self.caches, strict=True):
            h = block(h, allowed, self.cond, cache)
        return net.logits(h[:, -1:], index)[:, 0]


class WindowPredictor:
    """Each code from the window of the trained size around it; positions are those inside the window."""

    def __init__(self, network: GPT, cond: Conditioning, shape: Sequence[int]):
        self.network, self.cond, self.shape = network, cond, tuple(shape)

    def __call__(self, sequence: Tensor, index: int) -> Tensor:
        """Logits (B, K) of code `index`."""
        c = self.network.config
        _, height, width = self.shape
        channel, row, column = place(index, self.shape)
        top, left = window_start(row, height, c.height), window_start(column, width, c.width)
        grid = to_grid(sequence, self.shape)[:, :, top : row + 1, left : left + c.width]  # rows below do not matter
        return self.network(grid, self.cond)[:, channel, row - top, column - left]


def window_start(at: int, size: int, window: int) -> int:
    """Where a window of `window` places begins that has place `at` in its middle, pushed inside 0 ... size."""
    return max(0, min(at - window // 2, size - window))


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)  # (B, N, D) -> (B, H, N, d)
