"""Inpainting without training: the part of a latent that is known stays on its own noised path, under any sampler.

    x_t <- m x_t + (1 - m) (alpha_t z_0 + sigma_t eps),    x_0_hat <- m x_0_hat + (1 - m) z_0

with m = 1 where the latent is made anew and fresh noise at every call: RePaint (Lugmayr et al. 2022, arXiv 2201.09865,
eq. 8). What is made anew is drawn there as if it were beside any known part of that noise level, and a step cannot make up
for what the steps before it chose: a bias. Resampling lets it (algorithm 1): the plan is walked in stretches of `jump` steps,
and each is walked `resampling` times, with the forward process from its end s back up to its start t in between,

    x_t = (alpha_t / alpha_s) x_s + sqrt(sigma_t^2 - (alpha_t sigma_s / alpha_s)^2) eps

Samplers are elementwise, so that wrapping one is enough: its own x where the latent is known never reaches the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sfumato.diffusion.grids import Spacing
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError
from sfumato.noise import NoiseSource
from sfumato.samplers.base import Point, Sampler, Stepper, points


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a latent, and how often the rest is drawn again.

    z_0: (1 or B, C, h, w) in unit scale. mask: (1 or B, 1 or C, h, w), 0 where it is known and 1 where it is made anew; numbers
    between 0 and 1 are refused, since a cell cannot be half known. resampling: how often each stretch is walked, 1 for no
    resampling. jump: steps of a stretch, to be chosen with the plan: RePaint has 10 of 250, and in plans of 20 only 1 takes the
    bias away. Raises `InputError` when they do not fit.
    """

    z_0: Tensor
    mask: Tensor
    resampling: int = 1
    jump: int = 1

    def __post_init__(self) -> None:
        fits = self.mask.ndim == self.z_0.ndim and self.mask.shape[2:] == self.z_0.shape[2:]
        if not fits or any(m not in (1, z) for m, z in zip(self.mask.shape[:2], self.z_0.shape[:2])):
            wrong, right = tuple(self.mask.shape), tuple(self.z_0.shape)
            raise InputError(f"mask of shape {wrong} for a latent of {right}; expected the same, one channel or all.")
        if not bool(((self.mask == 0) | (self.mask == 1)).all()):
            raise InputError("mask of the latent: expected 0 where it is known and 1 where it is made anew, nothing between.")
        for name in ("resampling", "jump"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: got {value!r}, expected a whole number from 1.")

    def check(self, x: Tensor) -> None:
        """Raise `InputError` unless x (B, C, h, w) can be the latent of which a part is known."""
        if self.z_0.shape[1:] != x.shape[1:] or any(len(v) not in (1, len(x)) for v in (self.z_0, self.mask)):
            wrong, right = tuple(self.z_0.shape), tuple(x.shape)
            raise InputError(f"known latent of shape {wrong} for pictures of {right}; expected one of the same size, or B.")

    def around(self, sampler: Sampler) -> KnownSampler:
        """`sampler`, that keeps to what is known."""
        return KnownSampler(self, sampler)

    def merged(self, x_0: Tensor) -> Tensor:
        """(B, C, h, w) with z_0 where it is known."""
        return self.over(x_0, self.z_0.to(x_0))

    def noised(self, x_t: Tensor, alpha: Tensor, sigma: Tensor, noise: NoiseSource) -> Tensor:
        """x_t (B, C, h, w) with the noised z_0 where it is known; alpha_t and sigma_t are (B,)."""
        alpha, sigma = (v.view(-1, *[1] * (x_t.ndim - 1)) for v in (alpha, sigma))
        return self.over(x_t, alpha * self.z_0.to(x_t) + sigma * noise(x_t))

    def over(self, x: Tensor, known: Tensor) -> Tensor:
        """`known` where the latent is known, x elsewhere."""
        return torch.where(self.mask.to(x.device) > 0.5, x, known)


@dataclass(frozen=True, eq=False)
class KnownSampler:
    """A sampler around another one: x_t and x_0 pass by here and get their known part."""

    known: Known
    sampler: Sampler

    @property
    def spacing(self) -> Spacing:
        """The inner sampler's."""
        return self.sampler.spacing

    def num_calls(self, num_steps: int) -> int:
        """The inner sampler's over every stretch, as often as it is walked."""
        each = (self.sampler.num_calls(stop - start) for start, stop in self._stretches(num_steps))
        return self.known.resampling * sum(each)

    def steps(self, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
        """See `Sampler.steps`. Where the latent is known the sample is z_0 exactly."""
        stops = points(schedule, times)
        for start, stop in self._stretches(len(times) - 1):
            for round_ in range(self.known.resampling):
                if round_:
                    x = renoised(x, stops[stop], stops[start], noise)
                x = yield from self._walk(schedule, times[start : stop + 1], x, noise)
        return self.known.merged(x)

    def _walk(self, schedule: Schedule, times: Tensor, x: Tensor, noise: NoiseSource) -> Stepper:
        inner = self.sampler.steps(schedule, times, x, noise)
        x_t, t = next(inner)
        while True:
            x_0 = yield self.known.noised(x_t, *schedule(t), noise), t
            try:
                x_t, t = inner.send(self.known.merged(x_0))
            except StopIteration as stop:
                sample: Tensor = stop.value
                return sample

    def _stretches(self, num_steps: int) -> list[tuple[int, int]]:
        """Begin and end of every stretch, in steps of the plan; without resampling the plan is one."""
        length = num_steps if self.known.resampling == 1 else self.known.jump
        return list(pairwise([*range(0, num_steps, length), num_steps]))


def renoised(x: Tensor, at: Point, to: Point, noise: NoiseSource) -> Tensor:
    """The forward process from x at `at` = (alpha_s, sigma_s) to a noisier time `to` = (alpha_t, sigma_t)."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = at, to
    ratio = alpha_t / alpha_s
    return ratio * x + math.sqrt(max(0.0, sigma_t**2 - (ratio * sigma_s) ** 2)) * noise(x)
