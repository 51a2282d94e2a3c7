"""Noise schedules: x_t = alpha_t x_0 + sigma_t eps, t in [0, 1], t = 0 is clean and t = 1 is noise.

A discrete schedule is a table of T betas (Ho, Jain & Abbeel 2020, arXiv 2006.11239):

    alphabar_k = prod_{i <= k} (1 - beta_i),  alpha = sqrt(alphabar_k),  sigma = sqrt(1 - alphabar_k),

with table index k at t = (k + 1) / T. Betas: the paper's sqrt-linear (Rombach et al. 2021, arXiv 2112.10752, after its
code), linear (Ho et al. 2020), cosine (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17); rescaling to zero terminal SNR
(Lin et al. 2023, arXiv 2305.08891, algorithm 1). The rectified schedule is alpha = 1 - t, sigma = t (Liu et al. 2022,
arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206).
"""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import InputError


class ScheduleName(enum.Enum):
    """The schedules that a config can name."""

    scaled_linear = "scaled_linear"
    linear = "linear"
    cosine = "cosine"
    rectified = "rectified"


@dataclass(frozen=True)
class ScheduleConfig:
    """A schedule as plain values. The defaults are the paper's; betas count for the two linear schedules only."""

    name: ScheduleName = ScheduleName.scaled_linear
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    num_steps: int = 1000
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise InputError(
                f"beta_start {self.beta_start} and beta_end {self.beta_end}: expected 0 < beta_start <= beta_end < 1; "
                "the paper has 0.0015 and 0.0195."
            )
        if not 2 <= self.num_steps <= 100_000:
            raise InputError(f"num_steps {self.num_steps} of the schedule: expected 2 ... 100000; the paper has 1000.")


class Schedule(ABC):
    """alpha_t and sigma_t as functions of t. A plain object: it has no parameters and works on every device.

    num_steps: T, the number of times that the network can tell apart; also the largest number of sampling steps.
    discrete: True when the network was made for the T times of a table only.
    """

    num_steps: int
    discrete: bool

    @abstractmethod
    def _alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at float64 times `t`."""

    @abstractmethod
    def _ratio(self, t: Tensor) -> Tensor:
        """sigma / alpha at float64 times `t`, infinite where alpha = 0."""

    @abstractmethod
    def _inverse_ratio(self, ratio: Tensor) -> Tensor:
        """t at float64 ratios; ratios beyond the schedule's range give t = 1."""

    @abstractmethod
    def _network_time(self, t: Tensor) -> Tensor:
        """What the network is fed at float64 times `t`."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) in the shape of `t`: float64 for float64 times, else fp32."""
        alpha, sigma = self._alpha_sigma(self._exact(t))
        return _back(alpha, t), _back(sigma, t)

    def sigma_ratio(self, t: Tensor) -> Tensor:
        """sigma_t / alpha_t in the shape of `t`: the noise level of x_t / alpha_t; 0 at t = 0, infinite where alpha = 0."""
        return _back(self._ratio(self._exact(t)), t)

    def inverse_ratio(self, ratio: Tensor) -> Tensor:
        """The t in [0, 1] at which sigma_t / alpha_t is `ratio` >= 0; ratios above the schedule's largest give 1."""
        return _back(self._inverse_ratio(_float64(ratio)), ratio)

    def log_snr(self, t: Tensor) -> Tensor:
        """2 log(alpha_t / sigma_t) in the shape of `t`; +inf at t = 0, -inf where alpha = 0."""
        return _back(-2 * torch.log(self._ratio(self._exact(t))), t)

    def network_time(self, t: Tensor) -> Tensor:
        """What the network is fed at `t`: the table index k = T t - 1 (discrete) or T t (rectified), as floats."""
        return _back(self._network_time(self._exact(t)), t)

    @property
    def reaches_noise(self) -> bool:
        """True when alpha = 0 at t = 1, so that x_1 says nothing about x_0 and eps-prediction is undefined there."""
        alpha, _ = self(torch.ones((), dtype=torch.float64, device="cpu"))
        return float(alpha) == 0.0

    def _exact(self, t: Tensor) -> Tensor:
        """Float64 times. An fp32 time within rounding of a multiple of 1 / T is that multiple, so that table rows and
        integer network times come out exactly whatever the precision of `t`."""
        if t.dtype == torch.float64:
            return t
        position = _float64(t) * self.num_steps
        nearest = position.round()
        return torch.where((position - nearest).abs() <= 1e-6 * self.num_steps, nearest, position) / self.num_steps


class Discrete(Schedule):
    """A table of betas. Between rows log(sigma / alpha) is linear in t; below the first row sigma / alpha falls linearly to 0.

    Where the last row has alpha = 0 (zero terminal SNR), the angle atan(sigma / alpha) is linear over the last interval.
    Raises `InputError` for betas that are not a list of numbers in (0, 1), of which the last may be 1.
    """

    discrete = True

    def __init__(self, betas: Tensor):
        betas = betas.detach().to("cpu", torch.float64)
        if betas.ndim != 1 or len(betas) < 2:
            raise InputError(f"betas of shape {tuple(betas.shape)}: expected a list of at least 2 numbers.")
        inside = (betas > 0) & (betas < 1)
        inside[-1] |= betas[-1] == 1
        if not bool(inside.all()):
            bad = int((~inside).nonzero()[0])
            raise InputError(f"beta {float(betas[bad])} at step {bad}: expected a number between 0 and 1, both excluded.")
        self.num_steps = len(betas)
        self.betas = betas
        self.alpha_bars = torch.cumprod(1 - betas, 0)
        # 1 - alphabar of the first rows without cancellation, so that tiny betas keep their digits.
        one_minus = -torch.expm1(torch.cumsum(torch.log1p(-betas), 0))
        self._log_ratios = {torch.device("cpu"): 0.5 * (torch.log(one_minus) - torch.log(self.alpha_bars))}

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._log_ratios:
            self._log_ratios[device] = self._log_ratios[torch.device("cpu")].to(device)
        return self._log_ratios[device]

    def _ratio(self, t: Tensor) -> Tensor:
        table = self._table(t.device)
        position = t * self.num_steps - 1  # the table index k, as a float
        low = position.floor().clamp(0, self.num_steps - 2).long()
        share = (position - low).clamp(0, 1)
        left, right = table[low], table[low + 1]
        inner = torch.exp(torch.lerp(left, right, share))
        angle = torch.lerp(torch.atan(left.exp()), torch.full_like(left, math.pi / 2), share)
        last = torch.where(share == 1, torch.full_like(left, math.inf), torch.tan(angle))
        inner = torch.where(right.isinf(), last, inner)
        below = table[0].exp() * (position + 1).clamp(min=0)
        return torch.where(position < 0, below, inner)

    def _alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        ratio = self._ratio(t)
        alpha = torch.rsqrt(1 + ratio.square())
        sigma = torch.where(ratio.isinf(), torch.ones_like(ratio), ratio * alpha)
        return alpha, sigma

    def _inverse_ratio(self, ratio: Tensor) -> Tensor:
        table = self._table(ratio.device)
        log_ratio = torch.log(ratio)
        low = (torch.searchsorted(table, log_ratio.contiguous()) - 1).clamp(0, self.num_steps - 2)
        left, right = table[low], table[low + 1]
        share = (log_ratio - left) / (right - left)
        start = torch.atan(left.exp())
        share = torch.where(right.isinf(), (torch.atan(ratio) - start) / (math.pi / 2 - start), share).clamp(0, 1)
        below = ratio / table[0].exp() - 1
        position = torch.where(log_ratio < table[0], below, low + share)
        return (position + 1) / self.num_steps

    def _network_time(self, t: Tensor) -> Tensor:
        return (t * self.num_steps - 1).clamp(min=0)


class Rectified(Schedule):
    """Straight paths between data and noise: alpha = 1 - t, sigma = t. The network is fed T t."""

    discrete = False

    def __init__(self, num_steps: int = 1000):
        self.num_steps = num_steps

    def _alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def _ratio(self, t: Tensor) -> Tensor:
        return t / (1 - t)

    def _inverse_ratio(self, ratio: Tensor) -> Tensor:
        return torch.where(ratio.isinf(), torch.ones_like(ratio), ratio / (1 + ratio))

    def _network_time(self, t: Tensor) -> Tensor:
        return t * self.num_steps


def make_schedule(config: ScheduleConfig) -> Schedule:
    """The schedule that `config` describes. The rectified one has zero terminal SNR with and without the rescale."""
    match config.name:
        case ScheduleName.rectified:
            return Rectified(config.num_steps)
        case ScheduleName.scaled_linear:
            betas = scaled_linear_betas(config.beta_start, config.beta_end, config.num_steps)
        case ScheduleName.linear:
            betas = torch.linspace(config.beta_start, config.beta_end, config.num_steps, dtype=torch.float64, device="cpu")
        case ScheduleName.cosine:
            betas = cosine_betas(config.num_steps)
    return Discrete(zero_terminal_betas(betas) if config.zero_terminal_snr else betas)


def scaled_linear_betas(start: float, end: float, num_steps: int) -> Tensor:
    """The paper's betas, (T,) float64: sqrt(beta) is linear from sqrt(start) to sqrt(end)."""
    return torch.linspace(math.sqrt(start), math.sqrt(end), num_steps, dtype=torch.float64, device="cpu").square()


def cosine_betas(num_steps: int, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """beta_k = 1 - f((k + 1) / T) / f(k / T), f(u) = cos^2(pi/2 (u + offset) / (1 + offset)), clipped to `largest`; (T,)."""
    u = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64, device="cpu")
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2).square()
    return (1 - f[1:] / f[:-1]).clamp(max=largest)


def zero_terminal_betas(betas: Tensor) -> Tensor:
    """Shift and scale sqrt(alphabar) so that its last row is 0 and its first row is kept (Lin et al. 2023, algorithm 1)."""
    root = torch.cumprod(1 - betas.double(), 0).sqrt()
    first, last = root[0], root[-1]
    alpha_bars = ((root - last) * first / (first - last)).square()
    kept = torch.cat([alpha_bars[:1], alpha_bars[1:] / alpha_bars[:-1]])
    return 1 - kept


def _float64(t: Tensor) -> Tensor:
    """`t` in float64, on the CPU where its device has none (MPS)."""
    return (t.cpu() if t.device.type == "mps" else t).double()


def _back(value: Tensor, like: Tensor) -> Tensor:
    """`value` on the device of `like`, in float64 if `like` is, else in fp32."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return value.to(dtype).to(like.device)
