"""What each part of time costs: the training loss there, and its share of the variational bound.

    loss(t)  = mean || target - network(x_t, t) ||^2, as trained, in the network's own output space
    bound    = L_T + sum over rows t of L_{t-1} + L_0,   L_{t-1} = 1/2 (SNR_{t-1} - SNR_t) || x_0 - x_0_hat ||^2

(Ho, Jain & Abbeel 2020, arXiv 2006.11239, eq. 5, with the small variance; Kingma et al. 2021, arXiv 2107.00630, eq. 13.) The
simple loss weighs all t alike, where the bound has most of its bits at small t, in detail that is hardly seen.

Time is cut in equal parts of the schedule's T rows. In each, picture i is asked at one row of its own, drawn (stratified) with
probability p: half by chance alone, half by the row's cost c = weight * slope^2, what it would pay if the loss were the same
everywhere. With sums over pictures, the part's mean loss is sum(loss / p) / sum(1 / p), and its sum of terms
C sum(L_{t-1} / p) / sum(c / p), C that of c over its rows: exact where the loss is the same all over the part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sfumato.conditioning import Conditioning
from sfumato.diffusion.bounds import eight_bit_log_prob, prior_term
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.forward import coefficients
from sfumato.diffusion.prediction import x0_slope
from sfumato.diffusion.schedule import Schedule
from sfumato.errors import InputError
from sfumato.explain.axes import Axes
from sfumato.explain.figure import FAINT, LINE, MARK, Figure, Text
from sfumato.noise import PictureNoise

Conditions = Callable[[slice], Conditioning]
"""Which pictures -> what the network is told of them."""


@dataclass(frozen=True)
class Losses:
    """edges (P + 1,): of the parts of time, rising from 0. All others (P,) float64, a part each.

    loss, deviation: of the training loss, its mean over pictures and the standard error of that. bits: the part's sum of
    L_{t-1} in bits per value of the picture. prior, decoder: L_T and L_0 in the same unit; L_0 is None for latents.
    """

    edges: Tensor
    loss: Tensor
    deviation: Tensor
    bits: Tensor
    prior: float
    decoder: float | None
    num_pictures: int

    @property
    def total(self) -> float:
        """The bound in bits per value of the picture, without L_0 where that is undefined."""
        return float(self.bits.sum()) + self.prior + (self.decoder or 0.0)

    @property
    def shares(self) -> Tensor:
        """Of the bound, (P,)."""
        return self.bits / self.total

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = {name: v.tolist() if isinstance(v, Tensor) else v for name, v in vars(self).items()}
        return plain | {"total": self.total, "shares": self.shares.tolist()}


@torch.no_grad()
def losses(
    denoiser: Denoiser,
    conditions: Conditions,
    z_0: Tensor,
    values: int,
    *,
    num_parts: int = 20,
    in_pixels: bool = False,
    seed: int = 0,
    batch_size: int = 16,
    squared: bool = True,
) -> Losses:
    """Of latents z_0 (N, C, h, w) in unit scale, on the network's device; picture i has the noise of seed + i.

    values: of one picture, which bits are counted by. in_pixels: z_0 are 8-bit pixels: L_0 is defined, and estimates in the
    bound are clipped to [-1, 1]. squared: the
    training loss is that of squares, or of absolute values. Raises `InputError` for no latents or parts that time has not.
    """
    schedule = denoiser.schedule
    if not 2 <= num_parts <= schedule.num_steps // 2:
        raise InputError(f"parts: got {num_parts}, expected from 2 to {schedule.num_steps // 2}.")
    if len(z_0) == 0:
        raise InputError("pictures: got none, expected at least one.")
    rng, cuts = torch.Generator().manual_seed(seed), _cuts(schedule.num_steps, num_parts)
    draws = [_drawn(denoiser, low, high, len(z_0), rng) for low, high in pairwise(cuts)]
    each, nats = (torch.zeros(num_parts, len(z_0), dtype=torch.float64) for _ in range(2))
    prior, decoder = 0.0, 0.0
    for part in _batches(len(z_0), batch_size):
        z, cond = z_0[part], conditions(part)
        noise = PictureNoise(range(seed + part.start, seed + part.stop))
        prior += float(prior_term(schedule, z).sum())
        for index, draw in enumerate(draws):
            error, x_0_hat = _asked(denoiser, z, noise(z), draw.rows[part], cond, squared)
            each[index, part] = error
            if in_pixels:
                x_0_hat = x_0_hat.clamp(-1, 1)
            nats[index, part] = draw.weight[part] * (z - x_0_hat).cpu().double().square().flatten(1).sum(1)
        if in_pixels:
            first = torch.ones(len(z), dtype=torch.long)
            _, x_0_hat = _asked(denoiser, z, noise(z), first, cond, squared)
            wide = coefficients(schedule, *(torch.tensor([k / schedule.num_steps], dtype=torch.float64) for k in (1, 2)))
            decoder -= float(eight_bit_log_prob(z, x_0_hat.clamp(-1, 1), float(wide.posterior)).sum())
    unit = len(z_0) * values * math.log(2)
    chances, costs = (torch.stack([getattr(draw, name) for draw in draws]) for name in ("chance", "cost"))
    loss = (each / chances).sum(1) / (1 / chances).sum(1)
    spread = ((each - loss[:, None]) / chances).square().sum(1).sqrt() / (1 / chances).sum(1)
    totals = torch.tensor([draw.total for draw in draws], dtype=torch.float64)
    paid = totals * (nats / chances).sum(1) / (costs / chances).sum(1)
    return Losses(
        edges=torch.tensor(cuts, dtype=torch.float64) / schedule.num_steps,
        loss=loss,
        deviation=spread,
        bits=paid / (values * math.log(2)),
        prior=prior / unit,
        decoder=decoder / unit if in_pixels else None,
        num_pictures=len(z_0),
    )


def _asked(
    denoiser: Denoiser, z: Tensor, eps: Tensor, rows: Tensor, cond: Conditioning, squared: bool
) -> tuple[Tensor, Tensor]:
    """At rows (B,) of the table, from 1: the training loss of each picture (B,) float64, and the estimate of x_0.

    An output error of e is an x_0 error of slope * e, whatever the network predicts (`x0_slope`).
    """
    t = (rows.double() / denoiser.schedule.num_steps).to(z.device, torch.float32)
    x_0_hat = denoiser(denoiser.noised(z, eps, t), t, cond).x_0
    slope = x0_slope(denoiser.prediction, *denoiser.schedule(t)).cpu().double()
    missed = (z - x_0_hat).cpu().double().flatten(1) / slope[:, None]
    return (missed.square() if squared else missed.abs()).mean(1), x_0_hat


def _weights(schedule: Schedule, rows: Tensor) -> Tensor:
    """1/2 (SNR_{t-1} - SNR_t) at rows (B,) from 2, whose term is that times || x_0 - x_0_hat ||^2; float64."""
    later, earlier = (schedule.log_snr(row.double() / schedule.num_steps).exp() for row in (rows, rows - 1))
    return 0.5 * (earlier - later)


def _cuts(num_rows: int, num_parts: int) -> list[int]:
    return [round(index * num_rows / num_parts) for index in range(num_parts + 1)]


@dataclass(frozen=True)
class _Draw:
    """Of one part: a row for each picture, its probability, the weight and the cost of its term, (N,) each; total: of costs."""

    rows: Tensor
    chance: Tensor
    weight: Tensor
    cost: Tensor
    total: float


def _drawn(denoiser: Denoiser, low: int, high: int, count: int, rng: torch.Generator) -> _Draw:
    """Rows above `low` up to `high` for `count` pictures. Row 1 has no term: from 2."""
    rows = torch.arange(max(low, 1) + 1, high + 1)
    weight = _weights(denoiser.schedule, rows)
    slope = x0_slope(denoiser.prediction, *denoiser.schedule(rows.double() / denoiser.schedule.num_steps))
    cost = torch.nan_to_num(weight * slope.square(), posinf=0.0)
    chance = 0.5 / len(rows) + 0.5 * cost / cost.sum()
    place = (torch.randperm(count, generator=rng) + torch.rand(count, generator=rng, dtype=torch.float64)) / count
    picked = torch.searchsorted(chance.cumsum(0), place).clamp(max=len(rows) - 1)
    return _Draw(rows[picked], chance[picked], weight[picked], cost[picked], float(cost.sum()))


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def summary(found: Losses) -> str:
    """The bound in a line of words."""
    ends = " without L_0 (latents have none)" if found.decoder is None else f", L_0 {found.decoder:.4f} of it,"
    return (
        f"the bound{ends} is {found.total:.4f} bits per value of the picture, L_T {found.prior:.4f}; "
        f"{found.num_pictures} pictures"
    )


def figure(found: Losses, title: str) -> Figure:
    """Two plots over t: the loss as a line with its standard error, and the share of the bound as bars."""
    drawn = Figure(680, 470)
    drawn.texts.append(Text(340, 22, title, "middle", 15))
    edges, middles = found.edges.tolist(), ((found.edges[1:] + found.edges[:-1]) / 2).tolist()
    low, high = (found.loss - found.deviation).tolist(), (found.loss + found.deviation).tolist()
    top = Axes(drawn, 76, 44, 580, 150, (0.0, 1.0), (0.0, 1.1 * max(high)))
    top.frame("", "training loss")
    for x, a, b in zip(middles, low, high, strict=True):
        top.line([x, x], [a, b], FAINT, 3.0)
    top.line(middles, found.loss.tolist())
    shares = (100 * found.shares).tolist()
    below = Axes(drawn, 76, 234, 580, 150, (0.0, 1.0), (0.0, 100.0))
    below.bars(edges, shares, LINE, 2.0)
    running = (100 * found.shares.cumsum(0)).tolist()
    below.line([edges[0], *edges[1:]], [0.0, *running], MARK, 1.4)
    below.frame("t  (0 is clean, 1 is noise)", "% of the bound")
    below.say(1.0, -0.05, "all parts up to t", "end", MARK)  # above the axes: inside them the line may run anywhere
    drawn.texts.append(Text(340, 452, summary(found), "middle", 12, FAINT))
    return drawn
