"""Weights to begin from instead of chance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sfumato.build import FirstStageConfig, LearnedFirstStage
from sfumato.config import from_dict
from sfumato.errors import InputError
from sfumato.first_stages.base import FirstStage
from sfumato.io.files import read_json
from sfumato.io.pretrained import find_model, model_weights, read_config
from sfumato.io.weights import load_strictly, read_weights


def start_first_stage(first: FirstStage, source: str) -> None:
    """Fill a first stage from a model directory or a safetensors file; its unit scale is forgotten, to be measured anew."""
    path = Path(source)
    tensors = read_weights(path) if path.is_file() else _part(source, "first_stage.")
    load_strictly(first, tensors, source)
    if isinstance(first, LearnedFirstStage):
        first.set_statistics(torch.zeros_like(first.shift), torch.ones_like(first.scale), torch.zeros_like(first.preview))


def start_part(module: nn.Module, source: str, name: str) -> None:
    """Fill the prior or the conditioner from a model directory."""
    load_strictly(module, _part(source, f"{name}."), source)


def _part(source: str, prefix: str) -> dict[str, torch.Tensor]:
    tensors = model_weights(find_model(source))
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


STATISTICS = ("shift", "scale", "preview")


@dataclass(frozen=True)
class Frozen:
    """A first stage to be taken as it is. `statistics`: of its unit scale; empty for one that has not measured it yet."""

    config: FirstStageConfig
    weights: Mapping[str, torch.Tensor]
    statistics: Mapping[str, torch.Tensor]

    def digest(self) -> str:
        """A short hash of what it holds."""
        total = hashlib.sha256()
        for name, value in sorted({**self.weights, **self.statistics}.items()):
            total.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
        return total.hexdigest()[:16]


def frozen_first_stage(source: str) -> Frozen:
    """The first stage of a shipped model, a model directory, or a run that has trained its first stage. Raises `InputError`."""
    run = Path(source)
    alone = run / "first_stage" / "first_stage.safetensors"
    if not (run / "model" / "config.json").is_file() and alone.is_file():
        data = read_json(run / "config.json")
        part = data.get("first_stage", {}) if isinstance(data, dict) else {}
        config: FirstStageConfig = from_dict(FirstStageConfig, part.get("model"), "first_stage.model")  # type: ignore[arg-type]
        weights = read_weights(alone)
        return Frozen(config, {k: v for k, v in weights.items() if k not in STATISTICS}, {})
    try:
        path = find_model(source)
    except InputError as error:
        raise InputError(f"first_stage.frozen: {error}") from None
    weights = _part(source, "first_stage.")
    own = {k: v for k, v in weights.items() if k in STATISTICS}
    return Frozen(read_config(path)[0].first_stage, {k: v for k, v in weights.items() if k not in STATISTICS}, own)


def fill_frozen(first: FirstStage, frozen: Frozen) -> None:
    """Give a first stage these weights, and no unit scale yet."""
    blank = {name: value for name, value in first.state_dict().items() if name in STATISTICS}
    load_strictly(first, {**frozen.weights, **blank}, "first_stage.frozen")
