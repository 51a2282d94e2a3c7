"""Where a model runs: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""

from __future__ import annotations

import torch

from sfumato.errors import InputError
from sfumato.generation.limits import shorten

KINDS = ("auto", "cpu", "cuda", "mps")


def find_device(name: str | torch.device = "auto") -> torch.device:
    """The device of that name; `auto` takes the first GPU that works, else the CPU.

    Raises `InputError` when the name is none or this machine lacks the device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        raise InputError(f"device: got {shorten(name)}, expected one of {', '.join(KINDS)}.") from None
    if device.type not in KINDS:
        raise InputError(f"device: got {shorten(name)}, expected one of {', '.join(KINDS)}.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device: got {shorten(name)}, but PyTorch finds no Apple GPU here; use cpu or auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise InputError(f"device: got {shorten(str(name))}, but PyTorch finds {found} CUDA GPUs here; use cpu or auto.")
    return device
