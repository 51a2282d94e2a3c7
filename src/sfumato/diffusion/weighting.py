"""Training: how much each t counts, and which t are drawn.

A weight w(t) of the squared error of x_0 is the weight w(t) (d x_0 / d output)^2 of the squared error in the network's output
space, where the loss is taken:

    simple       1 in the output space (Ho et al. 2020, arXiv 2006.11239, eq. 14; eq. 1 of arXiv 2112.10752)
    min_snr      w = min(SNR, gamma) (Hang et al. 2023, arXiv 2303.09556): min(SNR, gamma) / SNR for eps, / (SNR + 1) for v
    variational  w = T/2 (SNR(t - 1/T) - SNR(t)), the terms of the variational bound (Kingma et al. 2021, arXiv 2107.00630,
                 eq. 13-14): under uniform t the weighted loss summed over dimensions is in nats
"""

from __future__ import annotations

import enum

import torch
from torch import Tensor

from sfumato.diffusion.prediction import Prediction, x0_slope
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError


class Weighting(enum.Enum):
    """The weight of the squared error as a function of t."""

    simple = "simple"
    min_snr = "min_snr"
    variational = "variational"


class TimeSampling(enum.Enum):
    """The distribution of training times.

    uniform: independent draws, over the rows of a discrete schedule or over (0, 1].
    stratified: one draw in each of `count` equal parts of (0, 1], in random order: the same distribution, less variance.
    logit_normal: t = sigmoid(n), n ~ N(0, 1) (Esser et al. 2024, arXiv 2403.03206, eq. 19), rounded up to a row.
    """

    uniform = "uniform"
    stratified = "stratified"
    logit_normal = "logit_normal"


def weight(kind: Weighting, schedule: Schedule, prediction: Prediction, t: Tensor, gamma: float = 5.0) -> Tensor:
    """The multiplier (B,) of the squared error in the network's output space at times t (B,), finite for t in (0, 1].

    The bound has no finite term for the first row of a table (that step belongs to the likelihood of x_0 itself); it gets
    the weight of the second.
    """
    if not gamma > 0:
        raise InputError(f"gamma {gamma} of the min-SNR weighting: expected a positive number, such as 5.")
    if kind is Weighting.simple:
        return torch.ones_like(t)
    exact = t.double() if t.device.type != "mps" else t.cpu().double()
    if kind is Weighting.variational:
        exact = exact.clamp(min=2 / schedule.num_steps)
    slope = x0_slope(prediction, *schedule(exact))
    snr = schedule.sigma_ratio(exact).pow(-2)
    if kind is Weighting.min_snr:
        x0_weight = snr.clamp(max=gamma)
    else:
        earlier = schedule.sigma_ratio(exact - 1 / schedule.num_steps).pow(-2)
        x0_weight = 0.5 * schedule.num_steps * (earlier - snr)
    return (x0_weight * slope.square()).to(t.dtype).to(t.device)


def sample_times(
    kind: TimeSampling,
    count: int,
    schedule: Schedule,
    rng: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`count` training times in (0, 1], fp32 on `device`; drawn where `rng` lives, so that a CPU generator gives the same
    times on every device."""
    where = rng.device if rng is not None else torch.device("cpu")
    match kind:
        case TimeSampling.uniform:
            t = 1 - torch.rand(count, generator=rng, device=where, dtype=torch.float64)  # (0, 1]
        case TimeSampling.stratified:
            part = torch.randperm(count, generator=rng, device=where)
            t = (part + 1 - torch.rand(count, generator=rng, device=where, dtype=torch.float64)) / count
        case TimeSampling.logit_normal:
            t = torch.sigmoid(torch.randn(count, generator=rng, device=where, dtype=torch.float64))
    if schedule.discrete:
        # The margin keeps the upper edge of a part in its own row when the division above rounded it up.
        t = torch.ceil(t * schedule.num_steps - 1e-9).clamp(1, schedule.num_steps) / schedule.num_steps
    return t.to(torch.float32).to(device)
