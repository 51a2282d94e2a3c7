"""Exponential moving average of weights: ema <- d ema + (1 - d) w, with the warm-up d = min(decay, (1 + n) / (10 + n))."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """Averaged copies of modules, ready to evaluate. `num_updates` n is part of the state."""

    def __init__(self, modules: Mapping[str, nn.Module], decay: float):
        self.decay = decay
        self.num_updates = 0
        self.live = dict(modules)
        self.modules = {name: copy.deepcopy(module).eval().requires_grad_(False) for name, module in modules.items()}

    def next_rate(self) -> float:
        """1 - d of the coming update, which is counted as done."""
        rate = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        return rate

    @torch.no_grad()
    def update(self, rate: float | Tensor) -> None:
        """Move the averages one step towards the live weights by `rate`, a number or () on their device; buffers are copied."""
        for name, module in self.modules.items():
            live = self.live[name]
            own: list[Tensor] = list(module.parameters())
            new: list[Tensor] = list(live.parameters())
            if not own:
                pass
            elif isinstance(rate, Tensor):
                way = torch._foreach_sub(new, own)
                torch._foreach_mul_(way, rate)
                torch._foreach_add_(own, way)
            else:
                torch._foreach_lerp_(own, new, rate)
            for buffer, source in zip(module.buffers(), live.buffers(), strict=True):
                buffer.copy_(source)
