"""The multi-scale coupling flow: one bijection between latents and noise of the same shape.

    each scale:  squeeze, then `num_steps` times (activation norm, invertible 1 x 1 convolution, coupling), then split

(Kingma & Dhariwal 2018, arXiv 1807.03039, section 3 and Fig. 2; the scales are those of Dinh et al. 2016, arXiv 1605.08803,
section 3.6.) A coupling is affine, as there, or of rational-quadratic splines (Durkan et al. 2019, arXiv 1906.04032). The half
that a split lets go is standardised by what stays, so that the noise is N(0, 1) in every element and the whole is a single
change of variables. It computes in fp32, also under autocast: rounding is not invertible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sfumato.errors import InputError, unknown
from sfumato.nn.invertible import ActNorm, AffineCoupling, Conv1x1, Invertible, SplitPrior, squeeze, unsqueeze
from sfumato.nn.splines import MOST_BINS, SplineCoupling


@dataclass(frozen=True)
class CouplingConfig:
    """Which flow.

    in_channels: of the latent; of a `Vector` its dimension.
    num_scales: squeezes, each halving the sides, with a split after all but the last. 0 is for vectors: no squeeze, no split,
        and 1 x 1 kernels.
    num_steps: steps of flow a scale. width: hidden channels of the coupling networks.
    vector_dim: width of the condition's vector; num_classes: or the size of a table of embeddings that it indexes. None for
        neither; not both.
    coupling: affine, or monotonic splines of `bins` bins on [-bound, bound], 1 standard deviation of the first batch a unit;
        outside they are the identity. An affine flow does not look at bins and bound.
    """

    in_channels: int
    num_scales: int = 3
    num_steps: int = 8
    width: int = 128
    vector_dim: int | None = None
    num_classes: int | None = None
    coupling: Literal["affine", "spline"] = "affine"
    bins: int = 16
    bound: float = 4.0

    def __post_init__(self) -> None:
        for name, least in (("in_channels", 1), ("num_scales", 0), ("num_steps", 1), ("width", 1)):
            if getattr(self, name) < least:
                raise InputError(f"flow {name} is {getattr(self, name)}: expected {least} or more.")
        for name in ("vector_dim", "num_classes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"flow {name} is {value}: expected 1 or more, or null for none.")
        if self.vector_dim is not None and self.num_classes is not None:
            raise InputError(
                f"flow num_classes={self.num_classes} and vector_dim={self.vector_dim}: give one, set the other to null."
            )
        if self.coupling not in ("affine", "spline"):
            raise unknown("flow coupling", str(self.coupling)[:40], ("affine", "spline"))
        if not 2 <= self.bins <= MOST_BINS:
            raise InputError(f"flow bins is {self.bins}: expected 2 to {MOST_BINS}.")
        if not 0 < self.bound < math.inf:
            raise InputError(f"flow bound is {self.bound}: expected a number above 0; 3 to 4 hold normal noise.")
        if self.num_scales == 0 and self.in_channels < 2:
            raise InputError("flow in_channels is 1 with num_scales 0: a coupling needs 2 or more channels to split.")

    @property
    def factor(self) -> int:
        """Sides of a latent must be multiples of this."""
        return int(2**self.num_scales)


class Scale(nn.Module):
    """The steps of flow of one scale, and the split after them where there is one."""

    def __init__(self, channels: int, config: CouplingConfig, cond_dim: int, split: bool):
        super().__init__()
        kernel = 3 if config.num_scales else 1
        layers: list[Invertible] = []
        for _ in range(config.num_steps):
            layers += [ActNorm(channels), Conv1x1(channels), _coupling(channels, config, kernel, cond_dim)]
        self.layers = nn.ModuleList(layers)
        self.split = SplitPrior(channels, cond_dim) if split else None

    def all(self) -> list[Invertible]:
        """The layers in order."""
        return [*self.layers, *([self.split] if self.split is not None else [])]


def _coupling(channels: int, config: CouplingConfig, kernel: int, cond_dim: int) -> Invertible:
    if config.coupling == "spline":
        return SplineCoupling(channels, config.width, kernel, cond_dim, config.bins, config.bound)
    return AffineCoupling(channels, config.width, kernel, cond_dim)


class CouplingFlow(nn.Module):
    """eps = f(z | h), invertible, both of the shape of z; `initialised` says that a first batch has set the norms."""

    initialised: Tensor

    def __init__(self, config: CouplingConfig):
        super().__init__()
        self.config = config
        cond_dim = config.vector_dim or (config.width if config.num_classes else 0)
        self.label_embed = nn.Embedding(config.num_classes, config.width) if config.num_classes else None
        scales, channels = [], config.in_channels
        for index in range(max(1, config.num_scales)):
            channels = 4 * channels if config.num_scales else channels
            split = index < config.num_scales - 1
            scales.append(Scale(channels, config, cond_dim, split))
            channels = channels // 2 if split else channels
        self.scales = nn.ModuleList(scales)
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, z: Tensor, vector: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (B, C, h, w), or (B, D) where `num_scales` is 0 -> eps of the same shape and log |det d eps / d z|, (B,) nats.

        vector: (B, vector_dim), or (B,) whole numbers below `num_classes`. Raises `InputError` for sides that are no
        multiples of `config.factor`.
        """
        with torch.autocast(z.device.type, enabled=False):
            return self._forward(z, vector, first=False)

    @torch.no_grad()
    def initialise(self, z: Tensor, vector: Tensor | None = None) -> None:
        """Set every activation norm so that what leaves it has mean 0 and variance 1 over this batch, in order."""
        with torch.autocast(z.device.type, enabled=False):
            self._forward(z, vector, first=True)
        self.initialised.fill_(True)

    def inverse(self, eps: Tensor, vector: Tensor | None = None) -> Tensor:
        """eps -> z, of the same shape."""
        self.check(eps.shape)
        with torch.autocast(eps.device.type, enabled=False):
            h, flat = self._condition(vector), eps.float().flatten(1)
            shapes = self._shapes(eps.shape)
            ends = torch.cumsum(torch.tensor([0] + [c * a * b for c, a, b in shapes]), 0).tolist()
            parts = [flat[:, i:j].unflatten(1, shape) for i, j, shape in zip(ends, ends[1:], shapes, strict=False)]
            y = parts[-1]
            for index in reversed(range(len(self.scales))):
                scale = self.scales[index]
                assert isinstance(scale, Scale)
                y = torch.cat([y, parts[index]], dim=1) if scale.split is not None else y
                for layer in reversed(scale.all()):
                    y = layer.inverse(y, h)
                y = unsqueeze(y) if self.config.num_scales else y
            return y.reshape(eps.shape)

    def check(self, shape: Sequence[int]) -> None:
        """Raise `InputError` for latents (B, C, h, w) or (B, D) that this flow cannot take."""
        factor = self.config.factor
        if self.config.num_scales and (len(shape) != 4 or shape[2] % factor or shape[3] % factor):
            raise InputError(
                f"flow of {self.config.num_scales} scales got latents of shape {tuple(shape[1:])}: expected (C, h, w) with "
                f"sides that are multiples of {factor}. Set num_scales lower, or take another size."
            )

    def _forward(self, z: Tensor, vector: Tensor | None, first: bool) -> tuple[Tensor, Tensor]:
        self.check(z.shape)
        h, x = self._condition(vector), z.float()
        x = x if self.config.num_scales else x.flatten(1)[:, :, None, None]  # (B, D, 1, 1)
        log_det, done = x.new_zeros(len(x)), []
        for scale in self.scales:
            assert isinstance(scale, Scale)
            x = squeeze(x) if self.config.num_scales else x
            for layer in scale.all():
                if first:
                    layer.initialise(x)
                x, change = layer(x, h)
                log_det = log_det + change
            if scale.split is not None:
                x, finished = scale.split.halves(x)
                done.append(finished.flatten(1))
        return torch.cat([*done, x.flatten(1)], dim=1).view(z.shape), log_det

    def _condition(self, vector: Tensor | None) -> Tensor | None:
        if self.label_embed is not None:
            return self.label_embed(vector)
        return vector if vector is None else vector.float()

    def _shapes(self, shape: Sequence[int]) -> list[tuple[int, int, int]]:
        """(C, h, w) of the parts of the noise, in the order of its elements."""
        if not self.config.num_scales:
            return [(self.config.in_channels, 1, 1)]
        shapes, (channels, height, width) = [], tuple(shape[1:])
        for scale in self.scales:
            channels, height, width = 4 * channels, height // 2, width // 2
            if scale.split is not None:
                shapes.append((channels - channels // 2, height, width))
                channels //= 2
        return [*shapes, (channels, height, width)]
