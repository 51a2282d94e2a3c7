"""The gated PixelCNN: masked convolutions in two stacks, so that no earlier code is missed.

    y = tanh(W_f * x + V_f s) . sigmoid(W_g * x + V_g s)                                                  eq. (2), (4)

Van den Oord et al. 2016 (arXiv 1606.05328, Sec. 2.2-2.4, Fig. 2). The vertical stack sees the rows above, the horizontal
stack the codes before in its own row, and is given the vertical one's features at each layer; one stack of masked squares
would not see a wedge above and right of each code. s is a vector, the same at every place, or a map. Channels of a place
follow one another (red, green, blue): features are divided among them, and a feature of channel g is fed by channels up
to g only, below g in the first layer (masks B and A of arXiv 1601.06759, Sec. 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.networks.raster import CodeNetwork, Predictor, place, to_grid


@dataclass(frozen=True)
class PixelCNNConfig:
    """Which PixelCNN. channels: codes a place. dim: features of each stack. kernel, first_kernel: sides of the masked squares.

    num_classes or vector_dim: what the `vector` slot holds, whole numbers or a vector. concat_channels: of the `concat` slot,
    a map of the size of the codes, such as the embedding of a coarser level. dropout: of what a layer adds, and of what the
    vertical stack tells the horizontal one (as in the residual path of Salimans et al. 2017, arXiv 1701.05517, Sec. 2.5).
    """

    kind: ClassVar[str] = "pixelcnn"
    vocabulary: int
    channels: int = 1
    dim: int = 128
    depth: int = 15
    kernel: int = 3
    first_kernel: int = 7
    num_classes: int | None = None
    vector_dim: int | None = None
    concat_channels: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "channels", "dim", "depth", "num_classes", "vector_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"PixelCNN {name} is {value}: expected 1 or more.")
        for name in ("kernel", "first_kernel"):
            if getattr(self, name) < 3 or getattr(self, name) % 2 == 0:
                raise InputError(f"PixelCNN {name} is {getattr(self, name)}: expected an odd number from 3.")
        if self.dim % self.channels:
            raise InputError(f"PixelCNN dim={self.dim} is not a multiple of channels={self.channels}, which share it.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"PixelCNN dropout is {self.dropout}: expected a share from 0 to below 1.")
        if self.concat_channels < 0:
            raise InputError(f"PixelCNN concat_channels is {self.concat_channels}: expected 0 or more.")
        if self.num_classes is not None and self.vector_dim is not None:
            raise InputError(
                f"PixelCNN num_classes={self.num_classes} and vector_dim={self.vector_dim}: give one, set the other to null."
            )


class MaskedConv(nn.Conv2d):
    """A 1 x k convolution over this place and the k - 1 before it in its row.

    At the last tap, this place, features of channel g are fed by those of channels up to g, or with `strict` below g.
    halves: the outputs are that many times all channels, one after the other.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, taps: int, channels: int, strict: bool = False, halves: int = 1):
        super().__init__(inputs, outputs, (1, taps))
        out, in_ = _channel_of(outputs // halves, channels).repeat(halves)[:, None], _channel_of(inputs, channels)[None]
        mask = torch.ones_like(self.weight)
        mask[:, :, 0, -1] = (in_ < out if strict else in_ <= out).to(mask)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w)."""
        x = F.pad(x, (self.kernel_size[1] - 1, 0))
        return F.conv2d(x, self.weight * self.mask, self.bias)


class GatedLayer(nn.Module):
    """One layer of both stacks; the horizontal one is residual, but for the first layer, which must not see its own code."""

    def __init__(self, config: PixelCNNConfig, first: bool):
        super().__init__()
        dim, channels = config.dim, config.channels
        self.first = first
        kernel = config.first_kernel if first else config.kernel
        self.reach = kernel // 2
        self.vertical = nn.Conv2d(dim, 2 * dim, (self.reach + 1, kernel))
        self.across = nn.Conv2d(2 * dim, 2 * dim, 1)
        self.horizontal = MaskedConv(dim, 2 * dim, self.reach + 1, channels, strict=first, halves=2)
        self.out = MaskedConv(dim, dim, 1, channels)
        self.dropout = nn.Dropout(config.dropout)
        self.label = nn.Embedding(config.num_classes, 4 * dim) if config.num_classes else None
        self.vector = nn.Linear(config.vector_dim, 4 * dim) if config.vector_dim else None
        self.concat = nn.Conv2d(config.concat_channels, 4 * dim, 1) if config.concat_channels else None

    def forward(self, v: Tensor, h: Tensor, cond: Conditioning) -> tuple[Tensor, Tensor]:
        """v and h (B, D, h, w) -> the same. v at a row holds what is above it; the row above it is the last."""
        deep = self.vertical(F.pad(v, (self.reach, self.reach, self.reach, 0)))  # (B, 2D, h, w)
        wide = self.horizontal(h) + self.across(self.dropout(deep))
        for term in self._conditions(cond):
            deep, wide = deep + term[:, : deep.shape[1]], wide + term[:, deep.shape[1] :]
        new = self.out(self.dropout(_gate(wide)))
        return _gate(deep), new if self.first else h + new

    def _conditions(self, cond: Conditioning) -> list[Tensor]:
        """V s for both stacks, (B, 4D, 1, 1) of the vector and (B, 4D, h, w) of the map."""
        terms = []
        embed = self.label or self.vector
        if embed is not None:
            terms.append(embed(cond.vector)[:, :, None, None])
        if self.concat is not None:
            terms.append(self.concat(cond.concat))
        return terms


class PixelCNN(CodeNetwork):
    """Codes to logits, at any size."""

    def __init__(self, config: PixelCNNConfig):
        super().__init__()
        self.config = c = config
        self.embedding = nn.Embedding(c.channels * c.vocabulary, c.dim // c.channels)  # a table for each channel
        self.layers = nn.ModuleList(GatedLayer(c, first=i == 0) for i in range(c.depth))
        self.hidden = MaskedConv(c.dim, c.dim, 1, c.channels)
        self.head = MaskedConv(c.dim, c.channels * c.vocabulary, 1, c.channels)

    def forward(self, codes: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, h, w) codes -> (B, C, h, w, K) logits."""
        c = self.config
        assert codes.shape[1] == c.channels, f"codes of {codes.shape[1]} channels, a network of {c.channels}"
        cond.check(context=False, vector=bool(c.num_classes or c.vector_dim), concat=c.concat_channels > 0)
        first = torch.arange(c.channels, device=codes.device)[:, None, None] * c.vocabulary
        h = self.embedding(codes + first).movedim(4, 2).flatten(1, 2)  # (B, C, D / C, h, w) -> (B, D, h, w)
        v = F.pad(h, (0, 0, 1, 0))[:, :, :-1]  # the row above
        for layer in self.layers:
            v, h = layer(v, h, cond)
        logits = self.head(F.relu(self.hidden(F.relu(h))))  # (B, C K, h, w)
        return logits.unflatten(1, (c.channels, c.vocabulary)).movedim(2, 4)

    def predictor(self, cond: Conditioning, batch: int, shape: Sequence[int]) -> Predictor:
        """One pass over the rows so far for each code."""

        @torch.no_grad()
        def predict(sequence: Tensor, index: int) -> Tensor:
            channel, row, column = place(index, shape)
            seen = cond
            if cond.concat is not None:
                seen = Conditioning(cond.context, cond.mask, cond.concat[:, :, : row + 1], cond.vector)
            logits: Tensor = self(to_grid(sequence, shape)[:, :, : row + 1], seen)
            return logits[:, channel, row, column]

        return predict


def _channel_of(features: int, channels: int) -> Tensor:
    """(features,) the channel to which each feature belongs, in equal parts."""
    return torch.arange(features) * channels // features


def _gate(x: Tensor) -> Tensor:
    """(B, 2D, h, w) -> (B, D, h, w)."""
    signal, gate = x.chunk(2, dim=1)
    return signal.tanh() * gate.sigmoid()
