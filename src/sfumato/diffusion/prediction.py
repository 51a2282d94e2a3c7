"""What the network predicts, and the way from there to x_0 and eps, given x_t = alpha x_0 + sigma eps.

    eps       the noise (Ho et al. 2020, arXiv 2006.11239)
    x0        the clean latent
    v         alpha eps - sigma x_0 (Salimans & Ho 2022, arXiv 2202.00512)
    velocity  eps - x_0: dx_t/dt of the rectified schedule (Liu et al. 2022, arXiv 2209.03003)

The velocity is defined for every schedule: eps - x_0 is the slope of x_t / (alpha + sigma) over sigma / (alpha + sigma),
and for the rectified schedule, where alpha + sigma = 1, that is dx_t/dt.

In all functions `x_t`, `output`, `x_0`, `eps` are (B, ...), `alpha` and `sigma` are (B,) or broadcast as they are.
"""

from __future__ import annotations

import enum

from torch import Tensor

from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError


class Prediction(enum.Enum):
    """The network's own output space, in which it is trained."""

    eps = "eps"
    x0 = "x0"
    v = "v"
    velocity = "velocity"


def check(prediction: Prediction, schedule: Schedule) -> None:
    """Raises `InputError` for eps-prediction under a schedule with alpha = 0 at t = 1: the noise alone says nothing there."""
    if prediction is Prediction.eps and schedule.reaches_noise:
        raise InputError(
            "prediction eps with a schedule that ends in pure noise (rectified or zero_terminal_snr): x_0 cannot be told from "
            "eps there; use prediction v, velocity or x0."
        )


def target(prediction: Prediction, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network should say about x_t = alpha x_0 + sigma eps."""
    match prediction:
        case Prediction.eps:
            return eps
        case Prediction.x0:
            return x_0
        case Prediction.v:
            return rows(alpha, x_0) * eps - rows(sigma, x_0) * x_0
        case Prediction.velocity:
            return eps - x_0


def to_x0(prediction: Prediction, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The x_0 that `output` means. Undefined for eps where alpha = 0 (`check` refuses such schedules)."""
    alpha, sigma = rows(alpha, x_t), rows(sigma, x_t)
    match prediction:
        case Prediction.eps:
            return (x_t - sigma * output) / alpha
        case Prediction.x0:
            return output
        case Prediction.v:
            return (alpha * x_t - sigma * output) / (alpha.square() + sigma.square())
        case Prediction.velocity:
            return (x_t - sigma * output) / (alpha + sigma)


def to_eps(prediction: Prediction, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The eps that `output` means. Undefined for x0 where sigma = 0."""
    alpha, sigma = rows(alpha, x_t), rows(sigma, x_t)
    match prediction:
        case Prediction.eps:
            return output
        case Prediction.x0:
            return (x_t - alpha * output) / sigma
        case Prediction.v:
            return (sigma * x_t + alpha * output) / (alpha.square() + sigma.square())
        case Prediction.velocity:
            return (x_t + alpha * output) / (alpha + sigma)


def x0_slope(prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
    """|d x_0 / d output| at fixed x_t, in the shape of `alpha`: an output error of e is an x_0 error of slope * e."""
    match prediction:
        case Prediction.eps:
            return sigma / alpha
        case Prediction.x0:
            return alpha.new_ones(alpha.shape)
        case Prediction.v:
            return sigma / (alpha.square() + sigma.square())
        case Prediction.velocity:
            return sigma / (alpha + sigma)


def rows(value: Tensor, like: Tensor) -> Tensor:
    """(B,) values shaped to scale the rows of `like` (B, ...); anything else is returned as it is."""
    return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim == 1 else value
