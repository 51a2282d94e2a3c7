"""How many floating-point operations a stage has done, for stages that end with a budget of them.

    done = sum over kinds of steps: operations of the kind's first step * its number of steps

A multiplication and an addition are two. What is counted is what PyTorch's `FlopCounterMode` sees of a whole step: matrix
products, convolutions (places in the padding too) and attention (all of it where half is masked), forward, backward and in
the optimizer, what checkpointing computes twice as often as it is computed. Elementwise work, norms, sums, Fourier
transforms and factorizations are not. The counted step runs uncompiled and unrecorded, by formulas for kernels here and there,
which changes last bits; all others cost nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.module_tracker import ModuleTracker

from sfumato.errors import InputError

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]


class OperationCounter:
    """`budget`: operations that end the stage; 0 for none, and then nothing is counted.

    `costs` and `steps` by kind, a text that is equal for steps that do the same operations.
    """

    def __init__(self, budget: float = 0.0):
        self.budget = budget
        self.costs: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        self._partial = False

    @contextmanager
    def step(self, kind: str) -> Iterator[None]:
        """Around one step; nothing is counted of one that raises. Raises `InputError` where nothing in it can be counted."""
        if self.budget <= 0:
            yield
            return
        self._partial = False
        if kind in self.costs:
            yield
        else:
            with torch.compiler.set_stance("force_eager"), _mode() as mode:
                yield
            if self._partial:
                return
            if mode.get_total_flops() == 0:
                raise InputError(f"flops: a step of {kind} has no operation that can be counted; give seconds in its place.")
            self.costs[kind] = mode.get_total_flops()
        self.steps[kind] = self.steps.get(kind, 0) + 1

    def leave_out(self) -> None:
        """Called within a step that ends before its update: it does not stand for its kind, whose first is the next one."""
        self._partial = True

    @property
    def done(self) -> int:
        """Operations so far."""
        return sum(cost * self.steps[kind] for kind, cost in self.costs.items())

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return 0 < self.budget <= self.done

    @property
    def share(self) -> float:
        """How much of the budget is spent, 0 without one."""
        return self.done / self.budget if self.budget > 0 else 0.0

    def expected_steps(self, step: int, most: int) -> int:
        """How many steps there will have been when the budget is spent, at the mean of those so far; `most` at most."""
        done = self.done
        if self.budget <= 0 or done == 0:
            return most
        left = max(0.0, self.budget - done) * sum(self.steps.values()) / done
        return min(most, step + round(left))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of a stage with a budget: {"flops": all, "work": {kind: [of a step, steps]}}."""
        if self.budget <= 0:
            return {}
        return {"flops": self.done, "work": {kind: [cost, self.steps[kind]] for kind, cost in self.costs.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave: kinds that were counted are not counted again."""
        work = state.get("work", {})
        self.costs = {kind: int(cost) for kind, (cost, _) in work.items()}
        self.steps = {kind: int(steps) for kind, (_, steps) in work.items()}


def as_typed(flops: float, digits: int = 6) -> str:
    """A number of operations, of that many digits at most, such as 2e16."""
    return re.sub(r"e\+0*", "e", f"{flops:.{digits}g}")


def _mode() -> FlopCounterMode:
    """PyTorch's counter, with the attention kernel of CPUs, which it does not know."""
    from torch.utils.flop_counter import FlopCounterMode  # warns where a GPU has no Triton, which only a budget should hear

    aten = torch.ops.aten
    mode = FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        },
    )
    mode.mod_tracker = _Whole()
    return mode


class _Whole(ModuleTracker):
    """No count by module: the hooks it takes forbid gradients with respect to inputs, which penalties are made of."""

    def __enter__(self) -> _Whole:
        return self

    def __exit__(self, *args: object) -> None:
        return None


def _attention(
    q: Shape,
    k: Shape,
    v: Shape,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Shape | None = None,
    scale: float | None = None,
    out_shape: Any = None,
) -> int:
    """q (B, H, N, d), k (B, h, M, d), v (B, h, M, e): the products q k' and p v."""
    return 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])


def _attention_backward(
    grad: Shape,
    q: Shape,
    k: Shape,
    v: Shape,
    out: Shape,
    logsumexp: Shape,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Shape | None = None,
    scale: float | None = None,
    out_shape: Any = None,
) -> int:
    """q k' again, then the gradients of v, of p, of q and of k."""
    return 2 * q[0] * q[1] * q[2] * k[2] * (3 * q[3] + 2 * v[3])
