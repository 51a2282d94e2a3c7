"""What tests of whole runs do again and again."""

from __future__ import annotations

from pathlib import Path

import torch

from sfumato.io.weights import read_weights
from sfumato.training.config import RunConfig
from sfumato.training.run import train
from tiny_runs import CPU


def go(config: RunConfig, data: Path, out: Path, minutes: float | None = None) -> Path:
    return train(config, data, out, CPU, minutes=minutes, quiet=True)


def times(out: Path, *parts: str) -> dict[str, int]:
    """When each file was written, but for those that every call writes."""
    return {
        str(p.relative_to(out)): p.stat().st_mtime_ns
        for part in parts or (".",)
        for p in (out / part).rglob("*")
        if p.is_file() and p.name not in ("config.json", "run.json", "run.lock") and "tfevents" not in p.name
    }


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Everything that both stages learned: checkpoints with averages and optimizers, and the model."""
    found = {}
    for path in [*sorted(out.glob("*/checkpoints/*/state.safetensors")), out / "model" / "model.safetensors"]:
        name = str(path.parent.relative_to(out))
        found |= {f"{name}/{k}": v for k, v in read_weights(path).items()}
    return found
