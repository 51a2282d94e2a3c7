"""Features of real pictures, kept on disk: they are the same for every model that is measured on them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sfumato.errors import MachineError
from sfumato.evaluation.data import EvaluationData
from sfumato.evaluation.scoring import Features, OnBatch
from sfumato.io.files import write_bytes


class ReferenceCache:
    """Features by (pixels, extractor) under a directory; None keeps nothing. A damaged or foreign file is made anew."""

    def __init__(self, directory: Path | None):
        self.directory = directory

    def features(
        self,
        data: EvaluationData,
        scorer: Features,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        on_batch: OnBatch | None = None,
    ) -> Tensor:
        """(N, D) fp32, from the disk where they are, else computed and kept."""
        key = self.key(data, scorer)
        found = self._read(key, len(data))
        if found is None:
            found = scorer(data.pixels, device, batch_size, on_batch)
            self._write(key, found)
        return found

    def key(self, data: EvaluationData, scorer: Features) -> str:
        """SHA-256 of everything that decides the features."""
        return hashlib.sha256(json.dumps([data.fingerprint, scorer.describe()], sort_keys=True).encode()).hexdigest()

    def _path(self, key: str) -> Path | None:
        return None if self.directory is None else self.directory / f"{key[:32]}.safetensors"

    def _read(self, key: str, count: int) -> Tensor | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            features = load(path.read_bytes())["features"]
        except (SafetensorError, KeyError, OSError):
            return None
        whole = features.ndim == 2 and len(features) == count and bool(features.isfinite().all())
        return features if whole else None

    def _write(self, key: str, features: Tensor) -> None:
        path = self._path(key)
        if path is None:
            return
        try:
            write_bytes(path, save({"features": features.contiguous()}))
        except (MachineError, OSError):
            self.directory = None  # a cache that cannot be written is no reason to fail; later sets are not tried
