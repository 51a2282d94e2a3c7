"""What a stage trains: which parameters meet which loss. Optimizers have names instead of indices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from sfumato.priors.base import Loss
from sfumato.training.config import OptimConfig

Batch = Mapping[str, Tensor]


class Task(ABC):
    """One training stage."""

    name: str

    @property
    def section(self) -> str:
        """Of a run's config that says how it is trained, for messages."""
        return self.name

    @abstractmethod
    def modules(self) -> Mapping[str, nn.Module]:
        """All modules with state, by name."""

    @abstractmethod
    def averaged(self) -> Mapping[str, nn.Module]:
        """Those whose moving average is the result."""

    @abstractmethod
    def parameters(self) -> Mapping[str, list[Parameter]]:
        """Trainable parameters by optimizer; each is in exactly one."""

    @abstractmethod
    def batch(self, step: int, config: OptimConfig, rng: torch.Generator) -> Batch:
        """The whole batch of a step, on the device; a function of the step and `rng` only."""

    @abstractmethod
    def loss(self, name: str, batch: Batch, step: int, rng: torch.Generator) -> Loss:
        """The loss that optimizer `name` descends on a part of the batch. Called for each name in order."""

    def active(self, name: str, step: int) -> bool:
        """Whether optimizer `name` takes part in this step."""
        return True

    def phase(self, step: int) -> Any:
        """Equal for steps whose losses are the same function of their tensors; None for a step that is like no other."""
        return ""

    def work(self, step: int) -> str:
        """Equal for steps of the same optimizers that do the same floating-point operations; so are those of one phase."""
        return ""

    def after_step(self, step: int, values: Mapping[str, float]) -> None:
        """Called after each applied step with the logged values of that step."""

    def compile(self) -> None:
        """Compile the networks in place. Called once the averages are made, which stay as they are."""

    def learning_rate(self, name: str, config: OptimConfig) -> float:
        """Peak learning rate of optimizer `name`."""
        return config.learning_rate

    def state_dict(self) -> dict[str, Any]:
        """Plain values to keep besides the modules."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
