"""Exponential moving average of weights: ema <- d ema + (1 - d) w, with the warm-up d = min(decay, (1 + n) / (10 + n))."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn


class Ema:
    """Averaged copies of modules, ready to evaluate. `num_updates` n is part of the state."""

    def __init__(self, modules: Mapping[str, nn.Module], decay: float):
        self.decay = decay
        self.num_updates = 0
        self.live = dict(modules)
        self.modules = {name: copy.deepcopy(module).eval().requires_grad_(False) for name, module in modules.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages one step towards the live weights; buffers are copied."""
        rate = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        for name, module in self.modules.items():
            live = self.live[name]
            own: list[torch.Tensor] = list(module.parameters())
            new: list[torch.Tensor] = list(live.parameters())
            if own:
                torch._foreach_lerp_(own, new, rate)
            for buffer, source in zip(module.buffers(), live.buffers(), strict=True):
                buffer.copy_(source)
