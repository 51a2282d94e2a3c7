"""Layouts: labelled boxes -> 92 tokens -> the jointly trained transformer, without a tokenizer.

Rombach et al. 2021 (arXiv 2112.10752, Sec. 4.3.1, App. E.2.1, Tab. 17) on the token layout of Jahn et al. 2021 (arXiv
2105.06458). Each object is three tokens (label, top left corner, bottom right corner), 30 objects at most, then the two
corners of the crop. A corner (x, y) in [0, 1]^2 is the token

    s round(y (s - 1)) + round(x (s - 1)),   s = floor(sqrt(8192)) = 90,

and the last token of the vocabulary, 8191, means no object. A label is its class number, plus the number of classes where
the box holds a group. The order of objects has no meaning: in training it was random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.bert import BertEmbedding
from sfumato.conditioners.pictures import check_names
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.networks.text_transformer import TextTransformerConfig


@dataclass(frozen=True)
class Box:
    """An object: its class number, and left, top, width and height as shares of the picture, in [0, 1]."""

    label: int
    left: float
    top: float
    width: float
    height: float
    group: bool = False

    def __post_init__(self) -> None:
        sides = (self.left, self.top, self.width, self.height)
        if not all(0 <= side <= 1 for side in sides) or max(self.left + self.width, self.top + self.height) > 1 + 1e-6:
            raise InputError(f"box {sides}: expected left, top, width and height as shares of the picture, within 0 to 1.")


WHOLE = Box(0, 0.0, 0.0, 1.0, 1.0)
Layout = tuple[Box, ...]


@dataclass(frozen=True)
class LayoutConfig:
    """dim, depth: of the transformer. vocabulary: tokens. num_objects: boxes at most. num_classes: labels, groups apart.

    names: of the classes, in the order of their numbers; empty where only numbers are known.

    The defaults are those of layout2img-openimages256; its class list (OpenImages) is not part of the file.
    """

    kind: ClassVar[str] = "layout"
    dim: int = 512
    depth: int = 16
    vocabulary: int = 8192
    num_objects: int = 30
    num_classes: int | None = None
    heads: int = 8
    head_channels: int = 64
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_names("layout", self.names, self.num_classes)
        if self.num_objects < 1 or self.vocabulary < 5:
            raise InputError(f"layout: num_objects {self.num_objects}, vocabulary {self.vocabulary}: expected 1 and 5 or more.")
        if self.num_classes is not None and not 1 <= self.num_classes <= self.nothing // 2:
            raise InputError(
                f"layout: num_classes {self.num_classes}, expected 1 to {self.nothing // 2}: a group is a class too."
            )
        self.transformer()

    @property
    def length(self) -> int:
        """Tokens a layout: three an object, two for the crop."""
        return 3 * self.num_objects + 2

    @property
    def nothing(self) -> int:
        """The token of an object that is not there."""
        return self.vocabulary - 1

    def transformer(self) -> TextTransformerConfig:
        """The transformer's own config. Raises `InputError` when a field is out of range."""
        return TextTransformerConfig(
            vocabulary=self.vocabulary,
            dim=self.dim,
            depth=self.depth,
            heads=self.heads,
            length=self.length,
            head_channels=self.head_channels,
        )


class LayoutBoxes(Conditioner[Layout, Tensor]):
    """Boxes of whole pictures (the crop is the picture). The null input is the empty layout."""

    needs = "a layout of boxes"

    def __init__(self, config: LayoutConfig):
        super().__init__()
        self.config = config
        self.embedder = BertEmbedding(config.transformer())

    def prepare(self, inputs: Sequence[Layout]) -> Tensor:
        """B layouts -> (B, 3 num_objects + 2) int64. Raises `InputError` for too many boxes or an unknown label."""
        return torch.tensor([self._tokens(layout) for layout in inputs], dtype=torch.int64).reshape(-1, self.config.length)

    def null(self, count: int) -> Tensor:
        """(count, 3 num_objects + 2) int64: no objects."""
        return self.prepare([()]).expand(count, -1)

    def forward(self, prepared: Tensor) -> Conditioning:
        """(B, L) tokens -> context (B, L, dim)."""
        return Conditioning(context=self.embedder(prepared))

    def _tokens(self, layout: Layout) -> list[int]:
        config = self.config
        if len(layout) > config.num_objects:
            raise InputError(f"a layout of {len(layout)} boxes: this model takes {config.num_objects} at most.")
        objects = [token for box in layout for token in (self._label(box), *self._corners(box))]
        empty = [config.nothing] * (3 * (config.num_objects - len(layout)))
        return objects + empty + self._corners(WHOLE)

    def _label(self, box: Box) -> int:
        classes = self.config.num_classes or self.config.nothing
        if not 0 <= box.label < classes:
            raise InputError(f"box label {box.label}: expected a class number, 0 to {classes - 1}.")
        if box.group and self.config.num_classes is None:
            raise InputError("a box of a group needs num_classes in the layout's config, which is not set.")
        return box.label + classes * box.group

    def _corners(self, box: Box) -> list[int]:
        return [self._corner(box.left, box.top), self._corner(box.left + box.width, box.top + box.height)]

    def _corner(self, x: float, y: float) -> int:
        sections = math.isqrt(self.config.vocabulary)
        return sections * round(min(y, 1.0) * (sections - 1)) + round(min(x, 1.0) * (sections - 1))
