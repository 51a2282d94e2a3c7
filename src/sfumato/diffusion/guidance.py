"""Classifier-free guidance: one estimate of x_0 from several conditions.

    x_0 = sum_i w_i x_0(x_t, c_i),  sum_i w_i = 1;  with a condition and its null twin: w, 1 - w

(Ho & Salimans 2022, arXiv 2207.12598, in the convention of arXiv 2112.10752: scale w = 1 is off). eps, v and the velocity are
affine in x_0 at fixed x_t, so combining them with the same weights is the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning, Twins
from sfumato.diffusion.denoiser import Denoiser
from sfumato.errors import InputError


@dataclass(frozen=True)
class Guidance:
    """How twins are combined.

    interval: (t_low, t_high) in which guidance acts; outside, the first condition alone with weight 1
        (Kynkaanniemi et al. 2024, arXiv 2404.07724). None: everywhere.
    rescale: phi in [0, 1], the share in which the guided estimate gets back the standard deviation of the first condition's
        (Lin et al. 2023, arXiv 2305.08891, eq. 15-16, applied to x_0).
    clip: x_0 is clamped to [-clip, clip]. None: not at all.
    """

    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise InputError(f"guidance interval {self.interval}: expected two times 0 <= low < high <= 1.")
        if not 0 <= self.rescale <= 1:
            raise InputError(f"guidance rescale {self.rescale}: expected a number from 0 (off) to 1.")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"clip {self.clip}: expected a positive number, or none for no clipping.")


class GuidedDenoiser:
    """(x_t, t) -> x_0 under `twins`, with one network call on the concatenated batch of all twins.

    twins: conditions of B rows each, the wanted one first, and their weights; the order is the order in the batch.
    """

    def __init__(self, denoiser: Denoiser, twins: Twins, guidance: Guidance | None = None):
        assert twins, "guidance needs at least one condition"
        self.denoiser = denoiser
        self.guidance = guidance or Guidance()
        self.first = twins[0][0]
        self.weights = [float(weight) for _, weight in twins]
        self.share: Tensor | None = None
        """v (B, ...) at the last call, the first condition's, of a denoiser that learned the reverse variance."""
        self.merged = Conditioning.cat([cond for cond, _ in twins]) if len(twins) > 1 else self.first

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The guided estimate of x_0 (B, ...) at x_t (B, ...), t (B,)."""
        x_0 = self._combined(x_t, t)
        return x_0 if self.guidance.clip is None else x_0.clamp(-self.guidance.clip, self.guidance.clip)

    def _combined(self, x_t: Tensor, t: Tensor) -> Tensor:
        if len(self.weights) == 1:
            return self._first(x_t, t)
        inside: Tensor | None = None
        if self.guidance.interval is not None:
            low, high = self.guidance.interval
            inside = (t >= low) & (t <= high)
            if not bool(inside.any()):  # the one place where a step waits for the device; only with an interval
                return self._first(x_t, t)
        num = len(self.weights)
        batch = self.denoiser(torch.cat([x_t] * num), torch.cat([t] * num), self.merged)  # (num * B, ...)
        self.share = None if batch.share is None else batch.share.chunk(num)[0]
        estimates = batch.x_0.chunk(num)
        guided = sum((w * x for w, x in zip(self.weights[1:], estimates[1:], strict=True)), self.weights[0] * estimates[0])
        guided = rescaled(guided, estimates[0], self.guidance.rescale)
        if inside is None:
            return guided
        return torch.where(inside.reshape(-1, *[1] * (x_t.ndim - 1)), guided, estimates[0])

    def _first(self, x_t: Tensor, t: Tensor) -> Tensor:
        denoised = self.denoiser(x_t, t, self.first)
        self.share = denoised.share
        return denoised.x_0


def rescaled(guided: Tensor, reference: Tensor, phi: float) -> Tensor:
    """phi (guided std(reference) / std(guided)) + (1 - phi) guided, with standard deviations of each row."""
    if phi == 0:
        return guided
    over = tuple(range(1, guided.ndim))
    spread = guided.std(over, keepdim=True).clamp(min=torch.finfo(guided.dtype).tiny)
    return guided * (phi * reference.std(over, keepdim=True) / spread + (1 - phi))
