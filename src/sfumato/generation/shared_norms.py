"""Group norms whose statistics are those of the whole picture, while the picture passes in tiles.

A group norm takes mean and variance over all positions, so that a tile alone is normalised by its own. Here the tiles pass
first to be measured: over their cores, which partition the picture, the moments add up exactly,

    mean = sum_k n_k m_k / N,   var = sum_k n_k (v_k + m_k^2) / N - mean^2

and then every tile is normalised alike. In the measuring pass what comes after the first norm saw the tile's own statistics;
measuring again with those of the pass before makes one more norm exact each time, in order of depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Core(NamedTuple):
    """The part of a tile that is counted, as fractions of its height and width."""

    top: float
    bottom: float
    left: float
    right: float


@dataclass
class Moments:
    """Sums over tiles of one norm, (B, groups) float64 on the CPU."""

    count: int = 0
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0

    def add(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Count `count` numbers a group."""
        self.count += count
        self.first = self.first + count * mean
        self.second = self.second + count * (variance + mean.square())

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance."""
        assert isinstance(self.first, Tensor)
        assert isinstance(self.second, Tensor)
        mean = self.first / self.count
        return mean, (self.second / self.count - mean.square()).clamp(min=0)


@dataclass
class SharedNorms:
    """The group norms of `network`. `measure` a tile under `measuring()`, `share()` what was measured, then run any tile."""

    network: nn.Module
    moments: dict[nn.GroupNorm, Moments] = field(default_factory=dict)

    @property
    def norms(self) -> list[nn.GroupNorm]:
        """All of them."""
        return [module for module in self.network.modules() if isinstance(module, nn.GroupNorm)]

    @contextmanager
    def measuring(self, core: Core) -> Iterator[None]:
        """Measures one tile, whose last run inside counts (an overflow in half precision is run again)."""
        found: dict[nn.GroupNorm, tuple[int, Tensor, Tensor]] = {}
        handles = [norm.register_forward_pre_hook(partial(_see, found, core)) for norm in self.norms]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for norm, values in found.items():
            self.moments.setdefault(norm, Moments()).add(*values)

    def share(self) -> None:
        """Every norm uses what was measured from now on, until `release`; measuring begins anew."""
        for norm, moments in self.moments.items():
            norm.forward = partial(_apply, norm, *moments.statistics())  # type: ignore[method-assign]
        self.moments = {}

    def release(self) -> None:
        """Every norm measures its own input again."""
        for norm in self.norms:
            norm.__dict__.pop("forward", None)


def _see(
    found: dict[nn.GroupNorm, tuple[int, Tensor, Tensor]], core: Core, norm: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    """Put (count, mean, variance) of the core of a norm's input (B, C, h, w) into `found`."""
    assert isinstance(norm, nn.GroupNorm)
    height, width = inputs[0].shape[-2:]
    x = inputs[0][
        ..., round(core.top * height) : round(core.bottom * height), round(core.left * width) : round(core.right * width)
    ]
    groups = x.reshape(len(x), norm.num_groups, -1).float()  # (B, G, C / G h w)
    variance, mean = (v.cpu().double() for v in torch.var_mean(groups, dim=2, correction=0))
    found[norm] = (groups.shape[2], mean, variance)


def _apply(norm: nn.GroupNorm, mean: Tensor, variance: Tensor, x: Tensor) -> Tensor:
    """The norm of (B, C, h, w) by given statistics (B, G), as a (B, C) scale and shift."""
    each = norm.num_channels // norm.num_groups
    scale = torch.rsqrt(variance + norm.eps).repeat_interleave(each, dim=1)  # (B, C)
    shift = -mean.repeat_interleave(each, dim=1) * scale
    if norm.affine:
        weight, bias = (p.detach().cpu().double() for p in (norm.weight, norm.bias))
        scale, shift = scale * weight, shift * weight + bias
    shape = (*scale.shape, *[1] * (x.ndim - 2))
    kind = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    scale, shift = (v.to(kind).to(x.device).view(shape) for v in (scale, shift))  # in this order: MPS has no float64
    return torch.addcmul(shift, x.to(kind), scale).to(x.dtype)
