"""The cache of codes: what an autoregressive prior trains on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfumato.conditioners.base import Prepared
from sfumato.first_stages.base import CodesFace
from sfumato.io.weights import read_weights, save_weights
from sfumato.training.conditions import ConditionSource
from sfumato.training.latents import Draw


def measure_codes(face: CodesFace, pixels: Iterator[Tensor], path: Path) -> None:
    """Write every picture's codes (N, ...) to a safetensors file, as bytes where they fit, else as int32."""
    kind = torch.uint8 if face.latent.vocabulary <= 256 else torch.int32
    save_weights(path, {"codes": torch.cat([face.encode(x).to(kind).cpu() for x in pixels])})


class CodeSource:
    """Batches of codes and prepared conditions, all of it on the device; as `LatentSource`, without chance but which ones."""

    def __init__(self, sides: Tensor, conditions: ConditionSource, device: torch.device, seed: int, weights: Tensor | None):
        self.codes = sides.to(device)  # (S, N, ...)
        self.conditions = conditions
        self.draw = Draw(sides.shape[1], len(sides), device, seed, weights)

    def batch(self, step: int, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Prepared]:
        """Codes (B, ...) int64 and their prepared conditions (B, ...)."""
        index, side = self.draw(step, batch_size, rng)
        return self.codes[side, index].long(), self.conditions.batch(index, side, rng)


@dataclass(frozen=True)
class CachedCodes:
    """The codes on disk: of the pictures, and of the mirrored ones where there are two files. (S, N, ...)."""

    sides: Tensor

    @staticmethod
    def read(paths: list[Path]) -> CachedCodes:
        """Read what `measure_codes` wrote."""
        return CachedCodes(torch.stack([read_weights(path)["codes"] for path in paths]))

    def source(self, conditions: ConditionSource, device: torch.device, seed: int, weights: Tensor | None = None) -> CodeSource:
        """Batches of these codes with their pictures' conditions."""
        return CodeSource(self.sides, conditions, device, seed, weights)
