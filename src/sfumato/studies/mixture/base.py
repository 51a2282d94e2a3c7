"""A generative model of points of the plane: what each family has to say about itself.

evidence: exact     log_prob is log p(x)
          bound     log_prob is a lower bound on it
          none      p(x) is implicit: it can be drawn from and not evaluated
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.fit import Budget, Curve


class Evidence(enum.Enum):
    """What `Model.log_prob` gives."""

    exact = "exact"
    bound = "bound"
    none = "none"


class Model(nn.Module, ABC):
    """p(x) of points x (B, 2)."""

    evidence: ClassVar[Evidence]

    @abstractmethod
    def learn(self, mixture: Mixture, budget: Budget, rng: torch.Generator) -> Curve:
        """Train on fresh points of the mixture. Raises `fit.Diverged`."""

    @abstractmethod
    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, 2) points of the model's own distribution."""

    def log_prob(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """log p(x) of (B, 2) points, or a lower bound on it by draws from `rng`: (B,) nats."""
        raise AssertionError("an implicit density has no log_prob")

    def details(self, mixture: Mixture, x: Tensor, rng: torch.Generator) -> dict[str, Any]:
        """What else is worth saying of this family, as plain numbers; x (B, 2) are held-out points."""
        return {}
