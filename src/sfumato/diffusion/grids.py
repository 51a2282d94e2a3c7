"""Plans of times: where on [0, 1] a sampler stands.

With T rows in the table and N steps:

    leading   rows 1, 1 + c, ..., 1 + (N - 1) c with c = T // N, and the end at row 0, t = 1/T, not at the clean t = 0:
              the DDIM grid of the paper's code (arXiv 2112.10752), whose last previous alphabar is alphabar_0.
              N = T has no room for the offset: rows 0 ... T - 1 and the end at t = 0. (Where N does not divide T that code
              takes ceil(T / c) steps, more than asked; here, as in diffusers, N.)
    leading_clean  the same rows, and the end at the clean t = 0: what diffusers makes of "leading" with steps_offset = 1 for
              samplers in sigma (the published SDXL configuration)
    uniform   rows T - 1 ... 0 in N equal parts, the end at row 0, t = 1/T: "time_uniform" of DPM-Solver and UniPC
    trailing  t = 1, 1 - 1/N, ..., 1/N, 0, rounded to rows if the schedule is discrete (Lin et al. 2023, arXiv 2305.08891)
    linspace  rows T - 1 ... 0 in N equal parts, between rows if need be, then 0 (k-diffusion); 1, ..., 0 if rectified
    karras    (sigma/alpha)^(1/7) in equal parts from the largest to the first row's, then 0 (Karras et al. 2022,
              arXiv 2206.00364, eq. 5); if that passes 1,000, first t = 1, then from 80
    exponential  the same with log(sigma/alpha) in equal parts (k-diffusion)
    ays_sd1, ays_sdxl  rows that were optimized for Stable Diffusion 1 and XL (Sabour, Fidler & Kreis 2024, arXiv 2404.14507):
              the published ten, then 0; for other N interpolated linearly in log(sigma/alpha), as the authors say
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError


class Spacing(enum.Enum):
    """How the steps of a sampler are spread over time."""

    leading = "leading"
    leading_clean = "leading_clean"
    uniform = "uniform"
    trailing = "trailing"
    linspace = "linspace"
    karras = "karras"
    exponential = "exponential"
    ays_sd1 = "ays_sd1"
    ays_sdxl = "ays_sdxl"


PURE_NOISE = 1000.0
"""sigma/alpha above which x_t says nothing of x_0: alpha < 0.001. Reached by the rectified, cosine and zero-SNR schedules."""

LARGEST_RATIO = 80.0
"""Where a Karras grid goes on after a first step at pure noise: sigma_max of Karras et al. 2022."""

ALIGNED_ROWS = {
    Spacing.ays_sd1: (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0),
    Spacing.ays_sdxl: (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0),
}
"""Rows of a table of 1,000 (research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html)."""


def times(spacing: Spacing, schedule: Schedule, num_steps: int) -> Tensor:
    """N + 1 descending times, float64 on the CPU: N at which the network is asked, and the end.

    Raises `InputError` unless 1 <= N <= T.
    """
    if not 1 <= num_steps <= schedule.num_steps:
        raise InputError(f"{num_steps} sampling steps: expected a whole number from 1 to {schedule.num_steps}.")
    match spacing:
        case Spacing.leading:
            return _leading(schedule.num_steps, num_steps)
        case Spacing.leading_clean:
            return torch.cat([_leading(schedule.num_steps, num_steps)[:-1], torch.zeros(1, dtype=torch.float64)])
        case Spacing.uniform:
            return torch.linspace(1, 1 / schedule.num_steps, num_steps + 1, dtype=torch.float64)
        case Spacing.trailing:
            return _trailing(schedule, num_steps)
        case Spacing.linspace:
            return _linspace(schedule, num_steps)
        case Spacing.karras:
            return _in_ratio(schedule, num_steps, _karras)
        case Spacing.exponential:
            return _in_ratio(schedule, num_steps, _exponential)
        case Spacing.ays_sd1 | Spacing.ays_sdxl:
            return _aligned(schedule, num_steps, ALIGNED_ROWS[spacing])


def _leading(rows: int, num_steps: int) -> Tensor:
    stride = rows // num_steps
    offset = 1 if stride * (num_steps - 1) + 1 < rows else 0
    asked = torch.arange(num_steps - 1, -1, -1, dtype=torch.float64) * stride + offset  # rows k, descending
    end = torch.tensor([offset - 1], dtype=torch.float64)
    return (torch.cat([asked, end]) + 1) / rows


def _trailing(schedule: Schedule, num_steps: int) -> Tensor:
    t = torch.arange(num_steps, -1, -1, dtype=torch.float64) / num_steps
    return (t * schedule.num_steps).round() / schedule.num_steps if schedule.discrete else t


def _linspace(schedule: Schedule, num_steps: int) -> Tensor:
    if not schedule.discrete:
        return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    asked = (torch.linspace(schedule.num_steps - 1, 0, num_steps, dtype=torch.float64) + 1) / schedule.num_steps
    return torch.cat([asked, asked.new_zeros(1)])


def _in_ratio(schedule: Schedule, num_steps: int, spread: Callable[[float, float, int], Tensor]) -> Tensor:
    """Times whose sigma/alpha are spread from the largest to the first row's, then t = 0."""
    end = torch.zeros(1, dtype=torch.float64)
    first = torch.ones(1, dtype=torch.float64)
    largest, smallest = (float(schedule.sigma_ratio(first * t)) for t in (1.0, 1 / schedule.num_steps))
    if largest > PURE_NOISE:
        # In a short table the last row may be the only one above 80: then the grid goes on with the row below it.
        largest = min(LARGEST_RATIO, float(schedule.sigma_ratio(first * (1 - 1 / schedule.num_steps))))
        return torch.cat([first, schedule.inverse_ratio(spread(largest, smallest, num_steps - 1)), end])
    return torch.cat([schedule.inverse_ratio(spread(largest, smallest, num_steps)), end])


def _karras(largest: float, smallest: float, count: int, rho: float = 7.0) -> Tensor:
    return torch.linspace(largest ** (1 / rho), smallest ** (1 / rho), count, dtype=torch.float64) ** rho


def _exponential(largest: float, smallest: float, count: int) -> Tensor:
    return torch.linspace(math.log(largest), math.log(smallest), count, dtype=torch.float64).exp()


def _aligned(schedule: Schedule, num_steps: int, rows: tuple[int, ...]) -> Tensor:
    """The rows' own times where the numbers agree, else between them by log(sigma/alpha) of `schedule`."""
    t = (torch.tensor(rows, dtype=torch.float64) + 1) / (rows[0] + 1)
    known = len(rows) - 1
    if num_steps != known:
        logs = schedule.sigma_ratio(t).clamp(max=PURE_NOISE).log().numpy()  # infinite where alpha = 0
        places = np.linspace(0, known, num_steps + 1)
        between = schedule.inverse_ratio(torch.from_numpy(np.interp(places, np.arange(known + 1), logs)).exp())
        t = torch.cat([t[:1], between[1:]])
    return torch.cat([t[:-1], t.new_zeros(1)])
