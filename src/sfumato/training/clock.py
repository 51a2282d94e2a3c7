"""How long a stage has trained, for stages that end with a budget of time or of operations instead of a count of steps.

    elapsed = sum of the seconds of its steps, but for the first WARM_UP of each kind in each process

Those compile, choose kernels and record graphs, which is no training; a kind is a set of optimizers that step together, so that
a discriminator that joins late warms up for itself. Checkpoints, sample sheets and reports lie between steps and do not
count. Work that a step left to the device is waited for, and counted, by the step after it. Operations are counted from the
first step on (`sfumato.training.operations`): however a step was launched, it has done them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sfumato.training.operations import OperationCounter

WARM_UP = 10


class TrainingClock:
    """The seconds and the steps counted so far. `budget`: seconds that end the stage; 0 for none. `now`: seconds that pass.

    `flops`: operations that end it, whichever comes first; 0 for none.
    """

    def __init__(self, budget: float = 0.0, now: Callable[[], float] = time.perf_counter, flops: float = 0.0):
        self.budget, self.now = budget, now
        self.operations = OperationCounter(flops)
        self.elapsed = 0.0
        self.steps = 0
        self._seen: Counter[Hashable] = Counter()

    @contextmanager
    def step(self, kind: Hashable, work: str = "") -> Iterator[None]:
        """Around one step; nothing is counted of a step that raises. `work`: equal for steps that do the same operations."""
        start = self.now()
        with self.operations.step(work):
            yield
        self._seen[kind] += 1
        if self._seen[kind] > WARM_UP:
            self.elapsed += self.now() - start
            self.steps += 1

    @property
    def over(self) -> bool:
        """Whether a budget is spent."""
        return 0 < self.budget <= self.elapsed or self.operations.over

    @property
    def share(self) -> float:
        """How much of the budget is spent, of two the larger share; 0 without one."""
        return max(self.elapsed / self.budget if self.budget > 0 else 0.0, self.operations.share)

    def expected_steps(self, step: int, most: int) -> int:
        """How many steps there will have been when the budget is spent, at the pace so far; `most` at most."""
        most = self.operations.expected_steps(step, most)
        if self.budget <= 0 or self.steps == 0 or self.elapsed <= 0:
            return most
        left = max(0.0, self.budget - self.elapsed) * self.steps / self.elapsed
        return min(most, step + round(left))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: of a stage with a budget alone, since two runs never take the same time."""
        if self.budget <= 0 and self.operations.budget <= 0:
            return {}
        return {"seconds": self.elapsed, "steps": self.steps} | self.operations.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.elapsed, self.steps = float(state.get("seconds", 0.0)), int(state.get("steps", 0))
        self.operations.load_state_dict(state)
