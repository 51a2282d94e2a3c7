"""The forward strip: one picture at ever later times, x_t = alpha_t x_0 + sigma_t eps, with one eps for all of them.

Each column is a draw of q(x_t | x_0) (Ho, Jain & Abbeel 2020, arXiv 2006.11239, eq. 4); SNR_t = alpha_t^2 / sigma_t^2 is below.
Of a latent model z_t is seen twice: through the linear preview map, and decoded. x_0 is the mean of q(z | x).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError
from sfumato.explain.axes import Axes
from sfumato.explain.figure import FAINT, Figure
from sfumato.explain.sheets import Row, sheet
from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.identity import IdentityFirstStage
from sfumato.generation.pixels import to_pictures, to_previews
from sfumato.noise import PictureNoise

SHOWN_DB = 40.0  # SNR beyond +-40 dB is all signal, or all noise, to the eye


@dataclass(frozen=True)
class Strip:
    """times (N,) rising, with alpha, sigma (N,) float64; z_t (N, C, h, w) of one picture."""

    times: Tensor
    alpha: Tensor
    sigma: Tensor
    z_t: Tensor

    @property
    def snr(self) -> Tensor:
        """(N,) float64, infinite at t = 0."""
        return (self.alpha / self.sigma).square()

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the latents; an infinite SNR is null."""
        snr = [value if math.isfinite(value) else None for value in self.snr.tolist()]
        values = {name: getattr(self, name).tolist() for name in ("times", "alpha", "sigma")}
        return values | {"snr": snr, "std": [float(z.float().std()) for z in self.z_t]}


def even_times(schedule: Schedule, count: int) -> Tensor:
    """`count` times from 0 to 1 in equal steps, at rows of a table; float64. Raises `InputError` for too few or many."""
    if not 2 <= count <= schedule.num_steps:
        raise InputError(f"times: got {count}, expected from 2 to {schedule.num_steps}.")
    t = torch.linspace(0, 1, count, dtype=torch.float64)
    return (t * schedule.num_steps).round() / schedule.num_steps if schedule.discrete else t


def strip(schedule: Schedule, z_0: Tensor, times: Tensor, seed: int = 0) -> Strip:
    """One latent (1, C, h, w) in unit scale at all times (N,), with the noise that picture `seed` begins from."""
    eps = PictureNoise([seed])(z_0)
    alpha, sigma = schedule(times)
    a, s = (value.to(z_0).view(-1, 1, 1, 1) for value in (alpha, sigma))
    return Strip(times, alpha, sigma, a * z_0 + s * eps)


@torch.no_grad()
def rows(first_stage: FirstStage, z_t: Tensor) -> list[Row]:
    """What can be seen of latents (N, C, h, w): the pixels; or their preview, where the stage has one, and their decoding."""
    decoded = [image for z in z_t for image in to_pictures(first_stage.decode(z[None]))]
    if isinstance(first_stage, IdentityFirstStage):
        return [Row("x_t", decoded, smooth=False)]
    preview = first_stage.preview
    coarse = (
        [] if preview is None or not bool(preview.any()) else [Row("z_t, preview", to_previews(z_t, preview), smooth=False)]
    )
    return [*coarse, Row("z_t, decoded", decoded)]


def figure(found: Sequence[Row], at: Strip, schedule: Schedule, title: str) -> Figure:
    """The rows over a plot of the SNR whose times stand under the columns."""
    heads = [f"t = {t:.3g}" for t in at.times.tolist()]
    captions = ["no noise" if math.isinf(snr) else f"SNR {snr:.2g}" for snr in at.snr.tolist()]
    top = sheet([*found[:-1], replace(found[-1], captions=captions)], heads, title)
    drawn, height = top.figure, 110.0
    width = top.middles[-1] - top.middles[0]
    drawn.height += height + 46
    axes = Axes(drawn, top.middles[0], drawn.height - height - 40, width, height, (0.0, 1.0), (-SHOWN_DB, SHOWN_DB))
    level = axes.y(0.0)
    axes.frame("t", "SNR in dB")
    axes.line([0.0, 1.0], [0.0, 0.0], FAINT, 0.6)
    axes.say(1.0, (level - axes.top) / height - 0.05, "as much noise as signal", "end", FAINT)
    times = torch.linspace(0, 1, 400, dtype=torch.float64)
    decibels = 10 / math.log(10) * schedule.log_snr(times)
    seen = decibels.abs() <= SHOWN_DB
    axes.line(times[seen].tolist(), decibels[seen].tolist())
    return drawn
