"""Training that lasts seconds: a budget, one loop, and the curve that it leaves.

    learning rate(p) = peak * min(1, p / 0.02) * cos^2(pi/2 p)        p: the share of the budget that is spent

Every step sees fresh points, so that nothing can be learned by heart. There are no checkpoints: a run that is broken off is
run again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Parameter

from sfumato.errors import InputError

WARM_UP = 0.02
CURVE_POINTS = 60  # about so many points of a curve are kept when the budget is in steps
LARGEST_GRADIENT = 5.0
FASTER = 10.0
BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Budget:
    """steps: of training. seconds: of processor time in their place, where given; then the outcome depends on the machine."""

    steps: int
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or (self.seconds is not None and not 0 < self.seconds < math.inf):
            raise InputError(f"budget: {self.steps} steps, {self.seconds} seconds; expected 1 or more, and above 0 or none.")

    def part(self, share: float) -> Budget:
        """A share of it, above 0 to 1, at least one step."""
        return Budget(max(1, round(self.steps * share)), None if self.seconds is None else self.seconds * share)

    def walk(self) -> Iterator[tuple[int, float]]:
        """(step, share of the budget spent before it), from (0, 0); the share is below 1."""
        begin, step, spent = time.process_time(), 0, 0.0
        while spent < 1:
            yield step, spent
            step += 1
            spent = step / self.steps if self.seconds is None else (time.process_time() - begin) / self.seconds


@dataclass
class Curve:
    """Losses by step, in the order of training: averages over the steps since the last point. steps: how many there were."""

    points: list[tuple[int, float]] = field(default_factory=list)
    steps: int = 0
    _sum: float = 0.0
    _count: int = 0

    def add(self, step: int, loss: float, every: int) -> None:
        """Note a loss. Raises `Diverged` where it is not a finite number."""
        self._sum, self._count, self.steps = self._sum + loss, self._count + 1, self.steps + 1
        if not math.isfinite(loss) or self._count >= every:
            self.points.append((step + 1, self._sum / self._count))
            self._sum, self._count = 0.0, 0
        if not math.isfinite(loss):
            raise Diverged(step + 1, self)


class Diverged(Exception):
    """A loss became NaN or infinite at `step`; `curve` says how it came there."""

    def __init__(self, step: int, curve: Curve):
        super().__init__(f"the loss was no finite number at step {step}")
        self.step, self.curve = step, curve


def learning_rate(peak: float, spent: float) -> float:
    """At the share `spent` of the budget; the first step of a run is not 0."""
    return peak * min(1.0, max(spent, 1e-3) / WARM_UP) * math.cos(math.pi / 2 * spent) ** 2


def optimizer(
    parameters: Iterable[Parameter], betas: tuple[float, float] = BETAS, fast: Sequence[Parameter] = ()
) -> torch.optim.Adam:
    """Adam, whose rate `descend` sets; `fast` of the parameters have ten times the rate of the others."""
    slow = [parameter for parameter in parameters if all(parameter is not one for one in fast)]
    groups = [{"params": slow, "factor": 1.0}, *([{"params": list(fast), "factor": FASTER}] if fast else [])]
    return torch.optim.Adam(groups, betas=betas)


def descend(adam: torch.optim.Adam, peak: float, spent: float, clip: float = LARGEST_GRADIENT) -> None:
    """One step along the gradients that are there, clipped to a norm of `clip`, and forget them."""
    for group in adam.param_groups:
        group["lr"] = learning_rate(peak, spent) * group["factor"]
    torch.nn.utils.clip_grad_norm_([p for group in adam.param_groups for p in group["params"]], clip)
    adam.step()
    adam.zero_grad(set_to_none=True)


def fit(
    loss: Callable[[int], Tensor],
    parameters: Iterable[Parameter],
    budget: Budget,
    peak: float,
    after: Callable[[], None] | None = None,
    fast: Sequence[Parameter] = (),
    betas: tuple[float, float] = BETAS,
    clip: float = LARGEST_GRADIENT,
) -> Curve:
    """Descend `loss(step)`, a scalar; `after` is called when a step is done. Raises `Diverged`."""
    adam, curve = optimizer(parameters, betas, fast), Curve()
    every = max(1, budget.steps // CURVE_POINTS)
    for step, spent in budget.walk():
        value = loss(step)
        curve.add(step, float(value.detach()), every)
        value.backward()
        descend(adam, peak, spent, clip)
        if after is not None:
            after()
    return curve
