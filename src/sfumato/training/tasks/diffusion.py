"""Stage 2: the prior, whichever it is, and the conditioner, jointly, on cached latents or codes.

z ~ q(z | x),   L = prior.loss(z, tau(y)),   y replaced by null with probability `dropout`   (arXiv 2112.10752, eq. 3)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter

from sfumato.conditioners.base import Conditioner
from sfumato.priors.base import Loss, Prior
from sfumato.training.conditions import flat, unflat
from sfumato.training.config import OptimConfig
from sfumato.training.latents import Source
from sfumato.training.tasks.base import Batch, Task


class DiffusionTask(Task):
    """One optimizer, "prior", for the prior's network and the conditioner."""

    name = "prior"

    def __init__(self, prior: Prior[Any], conditioner: Conditioner[Any, Any], source: Source, dropout: float):
        self.prior, self.conditioner, self.source, self.dropout = prior, conditioner, source, dropout

    def modules(self) -> Mapping[str, nn.Module]:
        return {"prior": self.prior, "conditioner": self.conditioner}

    def averaged(self) -> Mapping[str, nn.Module]:
        return self.modules()

    def parameters(self) -> Mapping[str, list[Parameter]]:
        return {"prior": [*self.prior.parameters(), *self.conditioner.parameters()]}

    def compile(self) -> None:
        self.prior.network.compile()

    def batch(self, step: int, config: OptimConfig, rng: torch.Generator) -> Batch:
        z, prepared = self.source.batch(step, config.batch_size, rng)
        return {"z": z, **flat(self.conditioner.drop(prepared, self.dropout, rng))}

    def loss(self, name: str, batch: Batch, step: int, rng: torch.Generator) -> Loss:
        return self.prior.loss(batch["z"], self.conditioner(unflat(batch)), rng)
