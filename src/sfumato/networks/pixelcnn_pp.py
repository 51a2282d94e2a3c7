"""PixelCNN++: a mixture of discretized logistics at each place, from a U-Net of shifted convolutions.

    p(r, g, b | C) = sum_i pi_i(C) P(r | mu_r) P(g | mu_g + alpha r) P(b | mu_b + beta r + gamma g),  mu, s, alpha ... of i, C

C are the places before in raster order, P the discretized logistic of `sfumato.nn.logistic` (Salimans et al. 2017,
arXiv 1701.05517, eq. 1-3). The network answers for whole places: what a channel's value says of the next ones is in the
mixture alone. Two streams of gated residual layers run through it: one sees the rows above, the other also what stands left
in its row; both are halved and doubled again with shortcuts between layers of one size (Sec. 2.3-2.5). A shifted convolution
looks at no place below, or right of, its own, so that one shift at the beginning hides each place from itself. Weights are
not normalised as in the paper's code; the last convolution of each layer begins a tenth as large, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.networks.raster import CodeNetwork, Predictor, place, to_grid
from sfumato.nn.layers import double
from sfumato.nn.logistic import discretized_logistic, to_unit

SMALLEST = -7.0  # log-scales are kept from it up, as in the paper's code


@dataclass(frozen=True)
class PixelCNNPPConfig:
    """Which PixelCNN++. vocabulary: values of a channel, in their order; channels: at a place, each told of those before.

    dim: features of each stream. depth: gated layers at each of the `num_scales` sizes, down and up. mixtures: logistics.
    num_classes or vector_dim: what the `vector` slot holds, whole numbers or a vector. The paper: 160, 5, 3, 10, 0.5.
    """

    kind: ClassVar[str] = "pixelcnn_pp"
    vocabulary: int = 256
    channels: int = 3
    dim: int = 160
    depth: int = 5
    num_scales: int = 3
    mixtures: int = 10
    dropout: float = 0.5
    num_classes: int | None = None
    vector_dim: int | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "dim", "depth", "num_scales", "mixtures", "num_classes", "vector_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"PixelCNN++ {name} is {value}: expected 1 or more.")
        if self.vocabulary < 2:
            raise InputError(f"PixelCNN++ vocabulary is {self.vocabulary}: expected 2 or more values; 8-bit pixels have 256.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"PixelCNN++ dropout is {self.dropout}: expected 0 or more, below 1.")
        if self.num_classes is not None and self.vector_dim is not None:
            raise InputError(
                f"PixelCNN++ num_classes={self.num_classes} and vector_dim={self.vector_dim}: give one, set the other to null."
            )

    @property
    def factor(self) -> int:
        """Sides of the pictures must be multiples of this."""
        return int(2 ** (self.num_scales - 1))

    @property
    def num_parameters(self) -> int:
        """Of the mixture at each place: a logit and, of each channel, mean, log-scale and what each earlier channel adds."""
        return self.mixtures * (1 + 2 * self.channels + self.channels * (self.channels - 1) // 2)


@dataclass(frozen=True)
class Mixture:
    """weights: (B, M, ...) log pi. means, log_scales: (B, M, C, ...). slopes: (B, M, C (C - 1) / 2, ...), each in [-1, 1]."""

    weights: Tensor
    means: Tensor
    log_scales: Tensor
    slopes: Tensor

    def log_probs(self, codes: Tensor, channel: int, candidates: Tensor, vocabulary: int) -> Tensor:
        """log P_i(candidate | codes of earlier channels): (B, C, ...) codes, of which channels below `channel` are read, and
        candidates (B or 1, ..., n) -> (B, M, ..., n)."""
        first = channel * (channel - 1) // 2
        mean = self.means[:, :, channel]  # (B, M, ...)
        for earlier in range(channel):
            mean = mean + self.slopes[:, :, first + earlier] * to_unit(codes[:, earlier], vocabulary, mean.dtype)[:, None]
        scale = self.log_scales[:, :, channel, ..., None]
        return discretized_logistic(candidates[:, None], mean[..., None], scale, vocabulary)

    def joint(self, codes: Tensor, channels: int, vocabulary: int) -> Tensor:
        """log pi_i + sum of log P_i(code | earlier) over the first 0, 1, ... `channels` channels: (B, channels + 1, M, ...)."""
        each = [self.log_probs(codes, c, codes[:, c, ..., None], vocabulary)[..., 0] for c in range(channels)]
        return torch.stack([self.weights, *each], dim=1).cumsum(1)


class Shifted(nn.Conv2d):
    """A convolution that sees rows up to its own; of columns those at both sides alike or, with `left`, up to its own."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], left: bool, stride: int = 1):
        super().__init__(inputs, outputs, size, stride)
        rows, columns = size
        self.pads = (columns - 1, 0, rows - 1, 0) if left else (columns // 2, columns // 2, rows - 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h / stride, w / stride)."""
        return super().forward(F.pad(x, self.pads))


def _conv(inputs: int, outputs: int, left: bool, stride: int = 1) -> Shifted:
    return Shifted(inputs, outputs, (2, 2) if left else (2, 3), left, stride)


class GatedLayer(nn.Module):
    """h + a sigmoid(b),   [a, b] = W2 * f(W1 * f(h) + W3 f(shortcut)) + V y,    f(x) = elu([x, -x])"""

    def __init__(self, config: PixelCNNPPConfig, left: bool, shortcut: int = 0):
        super().__init__()
        dim = config.dim
        self.inner = _conv(2 * dim, dim, left)
        self.shortcut = nn.Conv2d(2 * shortcut, dim, 1) if shortcut else None
        self.dropout = nn.Dropout(config.dropout)
        self.outer = _conv(2 * dim, 2 * dim, left)
        self.label = nn.Embedding(config.num_classes, 2 * dim) if config.num_classes else None
        self.vector = nn.Linear(config.vector_dim, 2 * dim) if config.vector_dim else None
        with torch.no_grad():
            self.outer.weight.mul_(0.1)

    def forward(self, h: Tensor, cond: Conditioning, shortcut: Tensor | None = None) -> Tensor:
        """(B, D, h, w), shortcut (B, S, h, w) -> (B, D, h, w)."""
        inner = self.inner(_both(h))
        if self.shortcut is not None and shortcut is not None:
            inner = inner + self.shortcut(_both(shortcut))
        outer = self.outer(self.dropout(_both(inner)))
        embed = self.label or self.vector
        if embed is not None:
            outer = outer + embed(cond.vector)[:, :, None, None]
        signal, gate = outer.chunk(2, dim=1)
        return h + signal * gate.sigmoid()


class Streams(nn.Module):
    """One gated layer of both streams, u above and v left; v is told of u, and in the upward half both of a shortcut."""

    def __init__(self, config: PixelCNNPPConfig, up: bool):
        super().__init__()
        self.above = GatedLayer(config, left=False, shortcut=config.dim if up else 0)
        self.left = GatedLayer(config, left=True, shortcut=2 * config.dim if up else config.dim)

    def forward(self, u: Tensor, v: Tensor, cond: Conditioning, across: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """(B, D, h, w) twice -> the same."""
        u = self.above(u, cond, None if across is None else across[0])
        return u, self.left(v, cond, u if across is None else torch.cat([u, across[1]], dim=1))


class Resized(nn.Module):
    """Both streams at half the size, or with `up` at twice the size: what is doubled has seen less than its own place."""

    def __init__(self, dim: int, up: bool):
        super().__init__()
        self.enlarges = up
        self.above, self.left = (_conv(dim, dim, left, 1 if up else 2) for left in (False, True))

    def forward(self, u: Tensor, v: Tensor, cond: Conditioning, across: None) -> tuple[Tensor, Tensor]:
        """(B, D, h, w) twice -> (B, D, h / 2, w / 2) or (B, D, 2 h, 2 w) twice."""
        return (self.above(double(u)), self.left(double(v))) if self.enlarges else (self.above(u), self.left(v))


class PixelCNNPP(CodeNetwork):
    """Values of pixels to a mixture of logistics at each place."""

    def __init__(self, config: PixelCNNPPConfig):
        super().__init__()
        self.config = c = config
        inputs = c.channels + 1  # and a channel of ones, which tells the picture from what is around it
        self.first_above = Shifted(inputs, c.dim, (2, 3), left=False)
        self.first_row = Shifted(inputs, c.dim, (1, 3), left=False)
        self.first_left = Shifted(inputs, c.dim, (2, 1), left=True)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for scale in range(c.num_scales):
            if scale:
                self.down.append(Resized(c.dim, up=False))
                self.up.append(Resized(c.dim, up=True))
            self.down.extend(Streams(c, up=False) for _ in range(c.depth))
            self.up.extend(Streams(c, up=True) for _ in range(c.depth + (scale > 0)))
        self.head = nn.Conv2d(c.dim, c.num_parameters, 1)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """What training asks for, the mixture's parameters; the rest is small."""
        self._streams = torch.compile(self._streams, *args, **kwargs)  # type: ignore[method-assign]

    def mixture(self, codes: Tensor, cond: Conditioning) -> Mixture:
        """(B, C, h, w) codes -> the mixture at each place, of those before. Raises `InputError` for sides that do not fit."""
        c = self.config
        assert codes.shape[1] == c.channels, f"codes of {codes.shape[1]} channels, a network of {c.channels}"
        if codes.shape[2] % c.factor or codes.shape[3] % c.factor:
            raise InputError(
                f"PixelCNN++ of {c.num_scales} scales: got {codes.shape[2]} x {codes.shape[3]} places, expected multiples of "
                f"{c.factor}; set num_scales lower."
            )
        cond.check(context=False, vector=bool(c.num_classes or c.vector_dim), concat=False)
        out = self.head(F.elu(self._streams(codes, cond)))
        out = out if out.dtype == torch.float64 else out.float()
        out = out.unflatten(1, (c.mixtures, -1))  # (B, M, 1 + 2 C + C (C - 1) / 2, h, w)
        logits, means, log_scales, slopes = out.split([1, c.channels, c.channels, out.shape[2] - 1 - 2 * c.channels], dim=2)
        return Mixture(logits[:, :, 0].log_softmax(1), means, log_scales.clamp(min=SMALLEST), slopes.tanh())

    def forward(self, codes: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, h, w) codes -> (B, C, h, w, K) log-probabilities. Much memory: K M numbers a code; `surprise` needs M."""
        c = self.config
        mixture = self.mixture(codes, cond)
        every = torch.arange(c.vocabulary, device=codes.device).view(1, 1, 1, -1)
        joint = mixture.joint(codes, c.channels - 1, c.vocabulary)  # (B, C, M, h, w)
        found = [
            (mixture.log_probs(codes, i, every, c.vocabulary) + joint[:, i].log_softmax(1)[..., None]).logsumexp(1)
            for i in range(c.channels)
        ]
        return torch.stack(found, dim=1)

    def surprise(self, codes: Tensor, cond: Conditioning) -> Tensor:
        """-log p of each code given those before it: (B, C, h, w) codes -> the same shape in nats."""
        c = self.config
        total = self.mixture(codes, cond).joint(codes, c.channels, c.vocabulary).logsumexp(2)  # (B, C + 1, h, w)
        return total[:, :-1] - total[:, 1:]

    def predictor(self, cond: Conditioning, batch: int, shape: Sequence[int]) -> Predictor:
        """One pass over the rows so far for each place, whose channels share it."""
        c = self.config
        here: list[Mixture] = []  # of the present place

        @torch.no_grad()
        def predict(sequence: Tensor, index: int) -> Tensor:
            channel, row, column = place(index, shape)
            codes = to_grid(sequence, shape)
            if channel == 0:
                mixture = self.mixture(codes[:, :, : (row // c.factor + 1) * c.factor], cond)
                parts = (mixture.weights, mixture.means, mixture.log_scales, mixture.slopes)
                here[:] = [Mixture(*(part[..., row, column] for part in parts))]
            codes, every = codes[:, :, row, column], torch.arange(c.vocabulary, device=codes.device).view(1, -1)
            weights = here[0].joint(codes, channel, c.vocabulary)[:, channel]  # (B, M)
            return (here[0].log_probs(codes, channel, every, c.vocabulary) + weights[..., None]).logsumexp(1)

        return predict

    def _streams(self, codes: Tensor, cond: Conditioning) -> Tensor:
        x = to_unit(codes, self.config.vocabulary, self.head.weight.dtype)
        x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)  # (B, C + 1, h, w)
        u = _down(self.first_above(x))
        v = _down(self.first_row(x)) + F.pad(self.first_left(x), (1, 0))[..., :-1]
        passed = [(u, v)]
        for layer in self.down:
            u, v = layer(u, v, cond, None)
            passed.append((u, v))
        u, v = passed.pop()
        for layer in self.up:
            u, v = layer(u, v, cond, None if isinstance(layer, Resized) else passed.pop())
        return v


def _both(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))  # (B, 2D, h, w)


def _down(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]
