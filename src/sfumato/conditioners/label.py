"""Class labels: y -> e_y, one learned vector a class and one for "no class".

The class embedder of Rombach et al. 2021 (arXiv 2112.10752, App. E.2.1): a single context token for cross-attention. The
extra null class, index K of 0 ... K, is what the published cin256-v2 uses for guidance.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfumato.conditioners.base import Conditioner
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError


@dataclass(frozen=True)
class LabelConfig:
    """names: the classes in the order of their indices. dim: width of the embedding.

    as_context: the vector is a context token for cross-attention; otherwise it goes to the `vector` slot.
    """

    kind: ClassVar[str] = "class"
    names: tuple[str, ...]
    dim: int = 512
    as_context: bool = True

    def __post_init__(self) -> None:
        if not self.names or "" in self.names:
            raise InputError("class labels: expected one or more names, none of them empty.")
        if len(set(self.names)) < len(self.names):
            twice = next(name for i, name in enumerate(self.names) if name in self.names[:i])
            raise InputError(f"class labels: {twice!r} is given twice; expected different names.")
        if self.dim < 1:
            raise InputError(f"class labels: dim is {self.dim}, expected 1 or more.")


class ClassLabel(Conditioner[str, Tensor]):
    """An embedding table of K + 1 rows; the last is the null class."""

    def __init__(self, config: LabelConfig):
        super().__init__()
        self.config = config
        self.indices = {name: i for i, name in enumerate(config.names)}
        self.embedding = nn.Embedding(len(config.names) + 1, config.dim)

    def prepare(self, inputs: Sequence[str]) -> Tensor:
        """Class names -> (B,) int64 indices. The empty text is the null class. Raises `InputError` for an unknown name."""
        return torch.tensor([self._index(name) for name in inputs], dtype=torch.int64)

    def null(self, count: int) -> Tensor:
        """(count,) int64, all the null class."""
        return torch.full((count,), len(self.config.names), dtype=torch.int64)

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B,) indices -> context (B, 1, D) or vector (B, D)."""
        vector = self.embedding(prepared)
        return Conditioning(context=vector[:, None]) if self.config.as_context else Conditioning(vector=vector)

    def _index(self, name: str) -> int:
        if name == "":
            return len(self.config.names)
        if name in self.indices:
            return self.indices[name]
        folded = [i for known, i in self.indices.items() if known.casefold() == name.strip().casefold()]
        if len(folded) == 1:
            return folded[0]
        near = difflib.get_close_matches(name[:200], self.config.names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        some = ", ".join(self.config.names[:10])
        more = f" and {len(self.config.names) - 10} more" if len(self.config.names) > 10 else ""
        raise InputError(f"unknown class {name[:100]!r}: {hint}Known: {some}{more}.")
