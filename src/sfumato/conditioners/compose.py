"""Several named conditioners as one: text and a mask, text and sizes, a class and a small picture.

    context     one after the other (tokens); a mask counts all tokens of the parts that have none
    concat      one after the other (channels), all of one size
    vector      one after the other (features)

A picture's input is a mapping from a part's name to that part's input. Guidance nulls every part in its own way: text
becomes the empty prompt or zeros, and what a part keeps (masks, small pictures, maps, sizes) stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sfumato.conditioners.base import Conditioner, Parts, device_of
from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.class_embedder import ClassEmbedderConfig
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.depth import DepthConfig
from sfumato.conditioners.image_embedding import ImageEmbeddingConfig
from sfumato.conditioners.label import LabelConfig
from sfumato.conditioners.layout import LayoutConfig
from sfumato.conditioners.low_resolution import LowResolutionConfig, NoisedLowResolutionConfig
from sfumato.conditioners.masked import MaskedImageConfig
from sfumato.conditioners.neighbours import NeighboursConfig
from sfumato.conditioners.picture_latent import PictureLatentConfig
from sfumato.conditioners.retrieved import RetrievedConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.conditioners.sizes import SizesConfig
from sfumato.conditioners.text import TextConfig
from sfumato.conditioning import Conditioning, Twins
from sfumato.errors import InputError, unknown

PartConfig = (
    TextConfig
    | LabelConfig
    | ClassEmbedderConfig
    | BertConfig
    | LayoutConfig
    | ClipTextsConfig
    | SizesConfig
    | SegmentationConfig
    | LowResolutionConfig
    | NoisedLowResolutionConfig
    | MaskedImageConfig
    | PictureLatentConfig
    | DepthConfig
    | ImageEmbeddingConfig
    | NeighboursConfig
    | RetrievedConfig
)
"""Every conditioner that can be a part."""

TEXT = "text"
"""The part that an input of plain text is for."""


@dataclass(frozen=True)
class Part:
    """A conditioner and what it is called in inputs and in the state dict (`parts.NAME`)."""

    name: str
    conditioner: PartConfig


@dataclass(frozen=True)
class CompositeConfig:
    """parts: in the order in which their tokens, channels and features stand."""

    kind: ClassVar[str] = "composite"
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise InputError(f"composite: parts named {names}; expected one or more, with different names.")
        wrong = next((name for name in names if not name.isidentifier() or hasattr(nn.ModuleDict, name)), None)
        if wrong is not None:
            raise InputError(f"composite: a part is named {wrong!r}; expected a word such as {TEXT}, mask or sizes.")


class Composite(Conditioner[Mapping[str, Any] | str, Parts]):
    """Named conditioners. A plain text is the input of the part `text`; a negative input may leave parts out."""

    def __init__(self, parts: Mapping[str, Conditioner[Any, Any]]):
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def from_prompt(self, prompt: str, size: tuple[int, int]) -> Mapping[str, Any]:
        """Every part's input. Raises `InputError` when a part needs more than a prompt."""
        return {name: self._part(name).from_prompt(prompt, size) for name in self.parts}

    def with_inputs(self, prompt: str, size: tuple[int, int], inputs: Any) -> Mapping[str, Any]:
        """`inputs` by the names of parts, and for the other parts what the prompt gives them."""
        given = {} if inputs is None else inputs
        if not isinstance(given, Mapping):
            raise InputError(f"inputs: got {type(given).__name__}, expected a mapping with some of {', '.join(self.parts)}.")
        strange = next((name for name in given if name not in self.parts), None)
        if strange is not None:
            raise unknown("input", str(strange)[:100], list(self.parts))
        return {n: given[n] if n in given else self._part(n).from_prompt(prompt, size) for n in self.parts}

    def prepare(self, inputs: Sequence[Mapping[str, Any] | str]) -> Parts:
        """B mappings of the same names -> the parts' prepared values. Raises `InputError` for a name that is no part's."""
        rows = [{TEXT: given} if isinstance(given, str) else given for given in inputs]
        named = list(rows[0]) if rows else list(self.parts)
        for row in rows:
            strange = next((name for name in row if name not in self.parts), None)
            if strange is not None:
                raise unknown("input", str(strange)[:100], list(self.parts))
            if set(row) != set(named) or not row:
                raise InputError(
                    f"inputs {sorted(row)} and {sorted(named)} in one call; expected the same parts for every picture."
                )
        return Parts({name: self._part(name).prepare([row[name] for row in rows]) for name in self.parts if name in named})

    def count_truncated(self, inputs: Sequence[Mapping[str, Any] | str]) -> int:
        """How many of the inputs lose the end of a text."""
        rows = [{TEXT: given} if isinstance(given, str) else given for given in inputs]
        return sum(any(self._part(name).count_truncated([row[name]]) for name in row if name in self.parts) for row in rows)

    def null(self, count: int) -> Parts:
        """Every part's null input. Raises `InputError` where a part has none; `nulled` knows what such parts keep."""
        return Parts({name: self._part(name).null(count) for name in self.parts})

    def nulled(self, prepared: Parts) -> Parts:
        """Every part's null twin."""
        return Parts({name: self._part(name).nulled(value) for name, value in prepared.values.items()})

    def forward(self, prepared: Parts) -> Conditioning:
        """The parts' slots, joined. Raises `InputError` when a part has no input."""
        missing = [name for name in self.parts if name not in prepared.values]
        if missing:
            raise InputError(f"no input for {', '.join(missing)}; this model needs {', '.join(self.parts)}.")
        return joined([self.parts[name](prepared.values[name]) for name in self.parts])

    def twins(self, prepared: Parts, guidance: float, negative: Parts | None = None) -> Twins:
        """As every conditioner's; the parts that `negative` leaves out are nulled in their own way."""
        if negative is not None and guidance != 1.0:
            rest = {name: value for name, value in prepared.values.items() if name not in negative.values}
            kept = self.nulled(Parts(rest)).values if rest else {}
            negative = Parts({**negative.to(device_of(prepared)).values, **kept})
        return super().twins(prepared, guidance, negative)

    def tokenizer_json(self) -> str | None:
        """The tokenizer of the part that has one of its own."""
        own = [part for part in self.parts.values() if hasattr(part, "tokenizer_json")]
        return own[0].tokenizer_json() if own else None  # type: ignore[operator]

    def _part(self, name: str) -> Conditioner[Any, Any]:
        part = self.parts[name]
        assert isinstance(part, Conditioner)
        return part


def joined(parts: Sequence[Conditioning]) -> Conditioning:
    """One Conditioning of several: see the module's table."""
    contexts = [part for part in parts if part.context is not None]
    return Conditioning(
        context=_along([part.context for part in contexts], 1),
        mask=_masks(contexts),
        concat=_along([part.concat for part in parts], 1),
        vector=_along([part.vector for part in parts], 1),
    )


def _masks(parts: Sequence[Conditioning]) -> Tensor | None:
    if all(part.mask is None for part in parts):
        return None
    masks = []
    for part in parts:
        assert part.context is not None
        every = torch.ones(part.context.shape[:2], dtype=torch.bool, device=part.context.device)
        masks.append(every if part.mask is None else part.mask)
    return torch.cat(masks, dim=1)


def _along(values: Sequence[Tensor | None], dim: int) -> Tensor | None:
    """Concatenate what is there, in the first one's type; whole numbers (a noise level) stand alone."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    if len({value.is_floating_point() for value in there}) > 1:
        raise InputError("a noise level and a vector of features in one model: no published model has both.")
    if len(there) == 1:
        return there[0]
    sizes = [tuple(value.shape[:dim] + value.shape[dim + 1 :]) for value in there]
    if len(set(sizes)) > 1:
        shapes = " and ".join(str(tuple(value.shape)) for value in there)
        raise InputError(f"parts of shapes {shapes} do not fit together; give pictures and maps of one size.")
    return torch.cat([value.to(there[0].dtype) for value in there], dim=dim)
