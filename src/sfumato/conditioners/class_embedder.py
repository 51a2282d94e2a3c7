"""The class embedder as released: y -> e_y, one context token, with or without a null class.

Rombach et al. 2021 (arXiv 2112.10752, App. E.2.1). The files `cin` (1000 rows) and `cin256-v2` (1001 rows, the last one the
null class that guidance uses) differ in that row only. Published key: `cond_stage_model.embedding.weight`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfumato.conditioners.base import Conditioner
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError, unknown


@dataclass(frozen=True)
class ClassEmbedderConfig:
    """num_classes: without the null class. null_class: one more row, the last, that stands for no class.

    names: what the classes are called, in the order of their indices, or nothing; an index is always understood.
    """

    kind: ClassVar[str] = "class_embedder"
    num_classes: int = 1000
    dim: int = 512
    null_class: bool = False
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_classes < 1 or self.dim < 1:
            raise InputError(f"class embedder: num_classes {self.num_classes} and dim {self.dim}: expected 1 or more.")
        if self.names and len(self.names) != self.num_classes:
            raise InputError(
                f"class embedder: {len(self.names)} names for {self.num_classes} classes; give one a class, or none."
            )


class ClassEmbedder(Conditioner[str | int, Tensor]):
    """An embedding table of `num_classes` rows, and one more if there is a null class."""

    def __init__(self, config: ClassEmbedderConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.num_classes + config.null_class, config.dim)

    def prepare(self, inputs: Sequence[str | int]) -> Tensor:
        """Class indices (numbers or digits) or names -> (B,) int64. The empty text is the null class.

        Raises `InputError` for an unknown class, and for the empty text where there is no null class.
        """
        return torch.tensor([self._index(given) for given in inputs], dtype=torch.int64)

    def null(self, count: int) -> Tensor:
        """(count,) int64, all the null class. Raises `InputError` where the model has none: it cannot be guided."""
        if not self.config.null_class:
            raise InputError("this model has no null class, which guidance needs; set guidance to 1 and give every class.")
        return torch.full((count,), self.config.num_classes, dtype=torch.int64)

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B,) indices -> context (B, 1, D)."""
        return Conditioning(context=self.embedding(prepared)[:, None])

    def _index(self, given: str | int) -> int:
        text = str(given).strip()
        if text == "":
            return int(self.null(1)[0])
        if text in self.config.names:
            return self.config.names.index(text)
        if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < len(self.embedding.weight):
            return int(text)
        if self.config.names:
            raise unknown("class", text[:100], self.config.names, f"or an index below {self.config.num_classes}")
        raise InputError(f"unknown class {text[:100]!r}: expected an index, 0 to {self.config.num_classes - 1}.")
