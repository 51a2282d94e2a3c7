"""Weights <-> safetensors, strictly: a missing, extra or mis-shaped tensor is an error and nothing is half loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from sfumato.errors import InputError
from sfumato.io.files import write_bytes


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, dict(metadata or {"format": "pt"})))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU; raises `InputError` when it is missing or damaged."""
    try:
        return load_file(path) if _is_utf8(path) else load(path.read_bytes())  # safetensors opens UTF-8 names only
    except FileNotFoundError:
        raise InputError(f"no such file: {path}.") from None
    except SafetensorError as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}); restore it.") from None


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Fill `module` from `tensors`, all or nothing; types are converted to the module's own."""
    own = module.state_dict()
    problems = [f"missing {k}" for k in own if k not in tensors]
    problems += [f"unexpected {k}" for k in tensors if k not in own]
    problems += [
        f"{k} has shape {tuple(tensors[k].shape)}, expected {tuple(v.shape)}"
        for k, v in own.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    problems += [
        f"{k} has type {tensors[k].dtype}, expected {v.dtype}"
        for k, v in own.items()
        if k in tensors and tensors[k].is_floating_point() != v.is_floating_point()
    ]
    problems += [f"{k} is not finite" for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise InputError(f"{source} does not fit this model: {shown}.")
    module.load_state_dict({k: v.to(own[k].dtype) for k, v in tensors.items()})
