"""Plans of times: where on [0, 1] a sampler stands.

With T rows in the table and N steps:

    leading   rows 1, 1 + c, ..., 1 + (N - 1) c with c = T // N, and the end at row 0, t = 1/T, not at the clean t = 0:
              the DDIM grid of the paper's code (arXiv 2112.10752), whose last previous alphabar is alphabar_0.
              N = T has no room for the offset: rows 0 ... T - 1 and the end at t = 0.
    trailing  t = 1, 1 - 1/N, ..., 1/N, 0, rounded to rows if the schedule is discrete (Lin et al. 2023, arXiv 2305.08891)
    linspace  rows T - 1 ... 0 in N equal parts, between rows if need be, then 0 (k-diffusion); 1, ..., 0 if rectified
    karras    (sigma/alpha)^(1/7) in equal parts from the largest to the first row's, then 0 (Karras et al. 2022,
              arXiv 2206.00364, eq. 5); if that passes 1,000, first t = 1, then from 80
"""

from __future__ import annotations

import enum

import torch
from torch import Tensor

from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError


class Spacing(enum.Enum):
    """How the steps of a sampler are spread over time."""

    leading = "leading"
    trailing = "trailing"
    linspace = "linspace"
    karras = "karras"


PURE_NOISE = 1000.0
"""sigma/alpha above which x_t says nothing of x_0: alpha < 0.001. Reached by the rectified, cosine and zero-SNR schedules."""

LARGEST_RATIO = 80.0
"""Where a Karras grid goes on after a first step at pure noise: sigma_max of Karras et al. 2022."""


def times(spacing: Spacing, schedule: Schedule, num_steps: int) -> Tensor:
    """N + 1 descending times, float64 on the CPU: N at which the network is asked, and the end.

    Raises `InputError` unless 1 <= N <= T.
    """
    if not 1 <= num_steps <= schedule.num_steps:
        raise InputError(f"{num_steps} sampling steps: expected a whole number from 1 to {schedule.num_steps}.")
    match spacing:
        case Spacing.leading:
            return _leading(schedule.num_steps, num_steps)
        case Spacing.trailing:
            return _trailing(schedule, num_steps)
        case Spacing.linspace:
            return _linspace(schedule, num_steps)
        case Spacing.karras:
            return _karras(schedule, num_steps)


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


def _karras(schedule: Schedule, num_steps: int, rho: float = 7.0) -> Tensor:
    end = torch.zeros(1, dtype=torch.float64)
    first = torch.ones(1, dtype=torch.float64)
    largest, smallest = (float(schedule.sigma_ratio(first * t)) for t in (1.0, 1 / schedule.num_steps))
    if largest > PURE_NOISE:
        # In a short table the last row may be the only one above 80: then the grid goes on with the row below it.
        largest = min(LARGEST_RATIO, float(schedule.sigma_ratio(first * (1 - 1 / schedule.num_steps))))
        return torch.cat([first, _karras_times(schedule, largest, smallest, num_steps - 1, rho), end])
    return torch.cat([_karras_times(schedule, largest, smallest, num_steps, rho), end])


def _karras_times(schedule: Schedule, largest: float, smallest: float, count: int, rho: float) -> Tensor:
    root = torch.linspace(largest ** (1 / rho), smallest ** (1 / rho), count, dtype=torch.float64)
    return schedule.inverse_ratio(root**rho)
