"""Weights to begin from instead of chance."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sfumato.first_stages.base import FirstStage
from sfumato.first_stages.kl import KLFirstStage
from sfumato.io.pretrained import WEIGHTS, find_model
from sfumato.io.weights import load_strictly, read_weights


def start_first_stage(first: FirstStage, source: str) -> None:
    """Fill a first stage from a model directory or a safetensors file; its unit scale is forgotten, to be measured anew."""
    path = Path(source)
    tensors = read_weights(path) if path.is_file() else _part(source, "first_stage.")
    load_strictly(first, tensors, source)
    if isinstance(first, KLFirstStage):
        first.set_statistics(torch.zeros_like(first.shift), torch.ones_like(first.scale), torch.zeros_like(first.preview))


def start_part(module: nn.Module, source: str, name: str) -> None:
    """Fill the prior or the conditioner from a model directory."""
    load_strictly(module, _part(source, f"{name}."), source)


def _part(source: str, prefix: str) -> dict[str, torch.Tensor]:
    tensors = read_weights(find_model(source) / WEIGHTS)
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
