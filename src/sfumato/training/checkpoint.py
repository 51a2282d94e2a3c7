"""Checkpoints: a folder a step, whole or not there, checked by hash, in tensors and JSON only.

    checkpoints/step-00001200/{state.safetensors, state.json, manifest.json}

The newest whole one counts, ordered by step and never by time; a damaged one is passed over with a warning.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.errors import InputError
from sfumato.io.files import check_manifest, new_directory, read_json, write_json
from sfumato.io.weights import read_weights, save_weights

_NAME = re.compile(r"step-(\d{8})")
KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: tensors by name and plain values."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save_checkpoint(directory: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
    """Write `directory`/step-N atomically, then delete all but the newest two."""
    target = directory / f"step-{step:08d}"
    with new_directory(target) as folder:
        save_weights(folder / "state.safetensors", tensors)
        write_json(folder / "state.json", {"step": step, **values})
    for old in _steps(directory)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, or None, and a warning for each damaged one that was passed over."""
    warnings: list[str] = []
    for path in reversed(_steps(directory)):
        try:
            check_manifest(path)
            values = read_json(path / "state.json")
            return Checkpoint(int(values["step"]), read_weights(path / "state.safetensors"), values), warnings
        except InputError as error:
            warnings.append(f"{error} Going back to the checkpoint before it.")
    return None, warnings


def _steps(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    for leftover in directory.glob(".step-*"):  # a killed save; the lock on the run says nobody is writing it
        shutil.rmtree(leftover, ignore_errors=True)
    return sorted(p for p in directory.iterdir() if _NAME.fullmatch(p.name))
