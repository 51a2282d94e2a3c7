"""Everything a training stage must not lose, as tensors by name: weights, averages, optimizers, step.

Random numbers need no state: each step draws from generators seeded by (seed, step), and the data order is a function
of the step alone. So a resumed run is the uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.io.weights import load_strictly
from sfumato.training.checkpoint import Checkpoint
from sfumato.training.clock import TrainingClock
from sfumato.training.config import OptimConfig
from sfumato.training.ema import Ema
from sfumato.training.muon import Group, Muon
from sfumato.training.tasks.base import Task


def step_seed(seed: int, stage: str, step: int) -> int:
    """A 63-bit seed that belongs to one step of one stage."""
    digest = hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class TrainState:
    """Live modules, their averages and the optimizers of a task."""

    def __init__(self, task: Task, config: OptimConfig, device: torch.device):
        self.task = task
        self.step = 0
        self.clock = TrainingClock(config.seconds, flops=config.flops)
        self.modules = dict(task.modules())
        tables = embedding_tables(self.modules.values())
        self.optimizers = {
            name: make_optimizer(parameters, config, task.learning_rate(name, config), device, tables)
            for name, parameters in task.parameters().items()
        }
        self.ema = Ema(task.averaged(), config.ema_decay) if config.ema_decay > 0 else None

    def make_recordable(self, device: torch.device) -> None:
        """Learning rates into tensors on `device`, so that a recorded update sees them change."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=device)
                group["capturable"] = True

    def set_learning_rate(self, name: str, value: float) -> None:
        """Of every group of optimizer `name`."""
        for group in self.optimizers[name].param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state by name."""
        found: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            found |= {f"module.{name}.{k}": v for k, v in module.state_dict().items()}
        if self.ema is not None:
            for name, module in self.ema.modules.items():
                found |= {f"ema.{name}.{k}": v for k, v in module.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            for index, entry in optimizer.state_dict()["state"].items():
                found |= {f"optimizer.{name}.{index}.{k}": v for k, v in entry.items()}
        return found

    def values(self) -> dict[str, Any]:
        """The plain part of the state."""
        clock = self.clock.state_dict()
        found = {"ema_updates": self.ema.num_updates if self.ema else 0, "task": self.task.state_dict()}
        return found | ({"clock": clock} if clock else {})

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore everything; raises `InputError` when the checkpoint does not fit."""
        tensors, source = checkpoint.tensors, f"checkpoint at step {checkpoint.step}"
        for name, module in self.modules.items():
            load_strictly(module, _under(tensors, f"module.{name}."), source)
        if self.ema is not None:
            for name, module in self.ema.modules.items():
                load_strictly(module, _under(tensors, f"ema.{name}."), source)
            self.ema.num_updates = int(checkpoint.values["ema_updates"])
        for name, optimizer in self.optimizers.items():
            _load_optimizer(optimizer, _under(tensors, f"optimizer.{name}."), source)
        self.task.load_state_dict(checkpoint.values["task"])
        self.clock.load_state_dict(checkpoint.values.get("clock", {}))
        self.step = checkpoint.step


def make_optimizer(
    parameters: list[Any],
    config: OptimConfig,
    learning_rate: float,
    device: torch.device,
    tables: frozenset[nn.Parameter] = frozenset(),
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101), or Muon; biases, gains and other vectors are not decayed.

    `tables`: embeddings, whose rows are looked up and multiply nothing; Muon leaves them to AdamW.
    """
    matrices, vectors = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    if config.optimizer == "muon":
        groups = [
            Group([p for p in matrices if p not in tables], config.weight_decay, orthogonal=True),
            Group([p for p in matrices if p in tables], config.weight_decay, orthogonal=False),
            Group(vectors, 0.0, orthogonal=False),
        ]
        return Muon([g for g in groups if g.parameters], learning_rate, config.betas, device)
    plain = [{"params": g, "weight_decay": d} for g, d in ((matrices, config.weight_decay), (vectors, 0.0)) if g]
    return torch.optim.AdamW(plain, lr=learning_rate, betas=config.betas, fused=device.type == "cuda")


def embedding_tables(modules: Iterable[nn.Module]) -> frozenset[nn.Parameter]:
    """The parameters of every `nn.Embedding` in `modules`."""
    found = (m for module in modules for m in module.modules() if isinstance(m, nn.Embedding))
    return frozenset(p for m in found for p in m.parameters())


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], source: str) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        entries.setdefault(int(index), {})[key] = tensor
    count = sum(len(g["params"]) for g in optimizer.param_groups)
    if entries and max(entries) >= count:
        raise InputError(f"{source} has optimizer state for other parameters; start the stage anew.")
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    for p, entry in optimizer.state.items():  # files know no memory layout; optimizers take moments to lie as p does
        entry |= {k: torch.empty_like(p).copy_(v) for k, v in entry.items() if v.ndim > 1}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
