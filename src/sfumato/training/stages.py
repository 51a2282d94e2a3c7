"""What depends on what: each stage of a run has a key, and only what a change touches is run again."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.config import to_dict
from sfumato.io.files import read_table, write_json
from sfumato.training.config import OptimConfig

CADENCE = (
    "steps", "checkpoint_every", "sample_every", "log_every", "compile", "cuda_graphs", "max_bad_steps", "seconds", "flops",
    "held_out_every",
)  # fmt: skip
"""Fields that do not make a stage another one. More steps, or a larger budget, go on from where it stopped."""

ADDED: dict[str, dict[str, Any]] = {
    "vq": {"quantizer": None},
    "diffusion": {"variance": "fixed", "bound_weight": 0.001},
    "unet": {"disable_self_attentions": [], "num_classes": None},
    "text": {"reach": 0},
    "retrieved": {"encoder": "", "digest": ""},
    "data": {"where": [], "label": "label"},
    "loss": {"codebook_weight": 1.0, "commitment_weight": 0.25, "codebook_decay": 0.0, "codebook_revive": 0.0},
    "coupling": {"coupling": "affine", "bins": 16, "bound": 4.0},
    "optim": {"flops": 0.0, "keep": "last"},
    "pixelcnn": {"dropout": 0.0},
}
"""By `kind` (data, loss, coupling and optim: `DataConfig`, `FirstStageLossConfig`, `CouplingConfig` and `OptimConfig`, which
have none), fields that configs got after runs had been made without them, and the values that mean the same as none."""

PACES = ("held_out_every",)
"""Of CADENCE, what was added after runs had been made, and is in no key at any depth."""

_WITHOUT_KIND = {"data": "max_bad_fraction", "loss": "half_size_weight", "coupling": "coupling", "optim": "accumulate"}


def key(*parts: Any) -> str:
    """A short hash of configs and keys of earlier stages."""
    text = json.dumps([_plain(p) for p in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(part: Any) -> Any:
    data = _as_ever(to_dict(part))
    if isinstance(part, OptimConfig):
        return {k: v for k, v in data.items() if k not in CADENCE}
    return data


def _as_ever(data: Any) -> Any:
    """A config as it was written before the fields of `ADDED`, so that older runs are not made again."""
    if isinstance(data, list):
        return [_as_ever(item) for item in data]
    if not isinstance(data, dict):
        return data
    other = next((kind for kind, field in _WITHOUT_KIND.items() if field in data), "")
    added = ADDED.get(str(data.get("kind", other)), {})
    kept = {name: value for name, value in data.items() if name not in PACES}
    return {name: _as_ever(value) for name, value in kept.items() if name not in added or value != added[name]}


_UNITS = {"seconds": "s", "flops": "flops"}


@dataclass(frozen=True)
class Stage:
    """A folder of a run. `stage.json` keeps the key it was made with, `done.json` its results.

    `goal`: the steps it is for. `seconds`, `flops`: the budgets that may end it before, 0 for none.
    """

    directory: Path
    key: str
    goal: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    @property
    def version(self) -> str:
        """What later stages depend on: the key, and how far it was trained."""
        return f"{self.key}-{self.goal}" + "".join(f"-{value:g}{_UNITS[name]}" for name, value in self._budgets.items())

    @property
    def _budgets(self) -> dict[str, float]:
        return {name: value for name in _UNITS if (value := getattr(self, name)) > 0}

    def open(self) -> bool:
        """Make the folder ready; whatever another key left there is deleted. True when something was."""
        marker = self.directory / "stage.json"
        stale = marker.is_file() and read_table(marker).get("key") != self.key
        if stale or (self.directory.is_dir() and not marker.is_file()):
            shutil.rmtree(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        if not marker.is_file():
            write_json(marker, {"key": self.key})
        return stale

    def results(self) -> dict[str, Any] | None:
        """What `finish` stored, if this stage is done up to its goal, or budgets as large as these were spent on it."""
        path = self.directory / "done.json"
        if not path.is_file():
            return None
        done = read_table(path)
        if done.get("key") != self.key or done.get("goal", 0) < self.goal:
            return None
        results = done["results"]
        # which of two budgets ended it is not known: each of them has to be one that this stage has too
        enough = all(0 < self._budgets.get(name, 0.0) <= done[name] for name in _UNITS if name in done)
        return results if enough or results.get("steps", 0) >= self.goal else None

    def finish(self, results: dict[str, Any]) -> dict[str, Any]:
        """Mark as done."""
        done = {"key": self.key, "goal": self.goal, "results": results}
        write_json(self.directory / "done.json", done | self._budgets)
        return results
