"""Latents looked at: how normal they are, and what lies between and beside them.

    slerp(a, b; w) = (sin((1 - w) omega) a + sin(w omega) b) / sin omega,   cos omega = a . b / (|a| |b|)

Between two draws of noise the straight line has less length than either, w^2 + (1 - w)^2 of the variance, which no model has
seen; the arc keeps it (White 2016, arXiv 1609.04468; for diffusion Song et al. 2020, arXiv 2010.02502, Sec. 5.3). Principal
directions are those in which latents of pictures differ most: of N latents as rows, centred, z - mean = U S V^T, direction k is
row k of V^T, and the latents' standard deviation along it S_k / sqrt(N - 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.explain.axes import Axes
from sfumato.explain.figure import FAINT, MARK, Figure, Text
from sfumato.noise import NoiseSource, PictureNoise

RANGE, NUM_BINS = 4.0, 40
MOST_CHANNELS = 64


@dataclass(frozen=True)
class Histogram:
    """Of latents by channel. edges (K + 1,); density (C, K) per unit, outliers in the outermost bins; the moments (C,) each.

    skew is E[u^3] and kurtosis the excess E[u^4] - 3 of u = (z - mean) / std: 0 and 0 for a normal density. float64.
    noise (C,): the share of the variance that is the encoder's own spread, E Var(q(z | x)) / std^2, 1 for a channel that says
    nothing of the picture; None where it was not given.
    """

    edges: Tensor
    density: Tensor
    mean: Tensor
    std: Tensor
    skew: Tensor
    kurtosis: Tensor
    num_values: int
    noise: Tensor | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in vars(self).items()}


def histogram(z: Tensor, spread: Tensor | None = None) -> Histogram:
    """Of latents (N, C, h, w) in unit scale; spread (C,): the mean variance of q(z | x), where it has one.

    Raises `InputError` for no latents, and for one value a channel.
    """
    values = z.detach().cpu().double().transpose(0, 1).flatten(1)  # (C, N h w)
    if z.ndim < 2 or values.shape[1] < 2:
        raise InputError(f"latents: got {tuple(z.shape)}, expected (N, C, h, w) with 2 values a channel or more.")
    mean, std = values.mean(1), values.std(1, unbiased=False)
    unit = (values - mean[:, None]) / std[:, None].clamp(min=1e-12)
    inside = values.clamp(-RANGE, RANGE)
    edges, width = torch.linspace(-RANGE, RANGE, NUM_BINS + 1, dtype=torch.float64), 2 * RANGE / NUM_BINS
    counts = torch.stack([torch.histogram(row, edges).hist for row in inside])
    return Histogram(
        edges=edges,
        density=counts / values.shape[1] / width,
        mean=mean,
        std=std,
        skew=unit.pow(3).mean(1),
        kurtosis=unit.pow(4).mean(1) - 3,
        num_values=values.shape[1],
        noise=None if spread is None else spread.cpu().double() / std.square().clamp(min=1e-24),
    )


def histogram_figure(found: Histogram, title: str) -> Figure:
    """A small plot for each channel, with the standard normal density as a line."""
    count = min(len(found.mean), MOST_CHANNELS)
    columns = min(4, count)
    rows = math.ceil(count / columns)
    wide, high = 170, 136
    drawn = Figure(columns * wide + 20, rows * high + 54)
    drawn.texts.append(Text(drawn.width / 2, 22, title, "middle", 15))
    top = max(0.45, 1.05 * float(found.density[:count].max()))
    grid = torch.linspace(-RANGE, RANGE, 81, dtype=torch.float64)
    normal = (-0.5 * grid.square()).exp() / math.sqrt(2 * math.pi)
    for channel in range(count):
        row, column = divmod(channel, columns)
        axes = Axes(drawn, 20 + column * wide, 40 + row * high, wide - 24, high - 40, (-RANGE, RANGE), (0.0, top))
        axes.bars(found.edges.tolist(), found.density[channel].tolist(), "#9dbbdc", 0.4)
        axes.line(grid.tolist(), normal.tolist(), MARK, 1.3)
        axes.frame(size=9, y_text=lambda value: "")
        axes.say(0.03, 0.08, f"{channel}", size=11)
        moments = f"{float(found.mean[channel]):+.2f} ± {float(found.std[channel]):.2f}"
        axes.say(1.0, 0.08, moments, "end", size=9)
        axes.say(1.0, 0.19, f"skew {float(found.skew[channel]):+.2f}", "end", FAINT, 9)
        axes.say(1.0, 0.30, f"kurt {float(found.kurtosis[channel]):+.2f}", "end", FAINT, 9)
        if found.noise is not None:
            axes.say(1.0, 0.41, f"noise {float(found.noise[channel]):.0%}", "end", FAINT, 9)
    noise = "" if found.noise is None else ", share of the encoder's own noise"
    words = f"channel, mean ± std, skew, excess kurtosis{noise}; the line is N(0, 1); {found.num_values} values a channel"
    drawn.texts.append(Text(drawn.width / 2, drawn.height - 12, words, "middle", 11, FAINT))
    return drawn


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The point at `weight` in [0, 1] of the arc from a to b, as vectors of one shape; of the line where they are parallel."""
    cosine = float((a.flatten().double() @ b.flatten().double()) / (a.double().norm() * b.double().norm()).clamp(min=1e-30))
    omega = math.acos(min(max(cosine, -1.0), 1.0))
    if math.sin(omega) < 1e-6:
        return (1 - weight) * a + weight * b
    return (math.sin((1 - weight) * omega) * a + math.sin(weight * omega) * b) / math.sin(omega)


class BetweenNoise:
    """The noise of one picture at `weight` of the arc from that of seed `first` to that of seed `second`, at every draw."""

    def __init__(self, first: int, second: int, weight: float):
        self.ends: tuple[NoiseSource, NoiseSource] = (PictureNoise([first]), PictureNoise([second]))
        self.weight = weight

    def __call__(self, like: Tensor) -> Tensor:
        """Standard normal noise (1, ...)."""
        a, b = (end(like) for end in self.ends)
        if self.weight in (0.0, 1.0):
            return b if self.weight else a  # the ends are those seeds' own pictures, bit for bit
        return slerp(a, b, self.weight)


@dataclass(frozen=True)
class Direction:
    """A unit step in latents: step (C, h, w), as long as one standard deviation. name: what it is; share: of the variance."""

    name: str
    step: Tensor
    share: float | None = None


def principal_directions(z: Tensor, count: int) -> list[Direction]:
    """The first `count` of latents (N, C, h, w). Raises `InputError` where N latents have not as many."""
    if not 1 <= count <= len(z) - 1:
        raise InputError(
            f"directions: got {count} from {len(z)} pictures, which differ in at most {max(len(z) - 1, 0)}; "
            f"expected from 1, and {count + 1} pictures or more for these."
        )
    rows = z.detach().flatten(1).double()
    _, sizes, directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    variances = sizes.square() / (len(z) - 1)
    total = float(variances.sum())
    found = []
    for index in range(count):
        step = (directions[index] * variances[index].sqrt()).view(z.shape[1:])
        step = step if step.sum() >= 0 else -step  # the sign is free: choose one, so that runs agree
        found.append(Direction(f"{index + 1}", step.to(z.dtype), float(variances[index]) / max(total, 1e-30)))
    return found


def channel_directions(shape: Sequence[int], channels: Sequence[int], like: Tensor) -> list[Direction]:
    """Single channels of latents of `shape` (C, h, w): all its places move by 1, its standard deviation over the data."""
    found = []
    for channel in channels:
        if not 0 <= channel < shape[0]:
            raise InputError(f"channel: got {channel}, expected from 0 to {shape[0] - 1}, the channels of this latent.")
        step = torch.zeros(tuple(shape), dtype=like.dtype, device=like.device)
        step[channel] = 1
        found.append(Direction(f"channel {channel}", step))
    return found
