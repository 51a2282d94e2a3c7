"""Several named conditioners as one: text and a mask, text and sizes, a class and a small picture.

    context     one after the other (tokens); a mask counts all tokens of the parts that have none
    concat      one after the other (channels), all of one size
    vector      one after the other (features)

A picture's input is a mapping from a part's name to that part's input. Guidance nulls every part in its own way: text
becomes the empty prompt or zeros, and what a part keeps (masks, small pictures, maps, sizes) stays.

Guidance of each part by itself, with scales s_1 ... s_n in the order of the parts, nests them (Brooks et al. 2022,
arXiv 2211.09800, eq. 3, for any number):

    x_0 = x_0(0, ..., 0) + sum_i s_i (x_0(c_1, ..., c_i, 0, ..., 0) - x_0(c_1, ..., c_(i-1), 0, ..., 0))

The parts that no scale is given for, and those of scale 1, are always told. A part that keeps its input has a null of its own
only where training left it out at times (`CompositeConfig.dropped`): zeros in its slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sfumato.conditioners.base import Conditioner, Parts, Prepared, Scales, choose, device_of
from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.class_embedder import ClassEmbedderConfig
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.depth import DepthConfig
from sfumato.conditioners.frozen_text import FrozenTextConfig
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
    | FrozenTextConfig
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

ABSENT = "absent-"
"""Before a part's name in prepared values: (B,) bool, the rows in which that part is left out."""


@dataclass(frozen=True)
class Part:
    """A conditioner and what it is called in inputs and in the state dict (`parts.NAME`)."""

    name: str
    conditioner: PartConfig


@dataclass(frozen=True)
class CompositeConfig:
    """parts: in the order in which their tokens, channels and features stand.

    dropped: names of the parts that training also leaves out, by zeros, so that they can be guided by themselves; for those
    that guidance else keeps.
    """

    kind: ClassVar[str] = "composite"
    parts: tuple[Part, ...]
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise InputError(f"composite: parts named {names}; expected one or more, with different names.")
        wrong = next((name for name in names if not name.isidentifier() or hasattr(nn.ModuleDict, name)), None)
        if wrong is not None:
            raise InputError(f"composite: a part is named {wrong!r}; expected a word such as {TEXT}, mask or sizes.")
        strange = next((name for name in self.dropped if name not in names), None)
        if strange is not None:
            raise unknown("dropped part", strange, names)


class Composite(Conditioner[Mapping[str, Any] | str, Parts]):
    """Named conditioners. A plain text is the input of the part `text`; a negative input may leave parts out."""

    def __init__(self, parts: Mapping[str, Conditioner[Any, Any]], dropped: Sequence[str] = ()):
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.dropped = tuple(dropped)

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
        values = prepared.values.items()
        return Parts({name: self._part(name).nulled(value) if name in self.parts else value for name, value in values})

    def forward(self, prepared: Parts) -> Conditioning:
        """The parts' slots, joined. Raises `InputError` when a part has no input."""
        missing = [name for name in self.parts if name not in prepared.values]
        if missing:
            raise InputError(f"no input for {', '.join(missing)}; this model needs {', '.join(self.parts)}.")
        told = {name: self.parts[name](prepared.values[name]) for name in self.parts}
        for name in self.parts:
            if ABSENT + name in prepared.values:
                told[name] = _without(told[name], prepared.tensor(ABSENT + name))
        return joined(list(told.values()))

    def drop(self, prepared: Parts, probability: float, rng: torch.Generator | None) -> Parts:
        """As every conditioner's; and each part of `dropped` is left out with `probability`, and of every other null twin."""
        if probability <= 0 or not self.dropped:
            return super().drop(prepared, probability, rng)
        device = device_of(prepared)
        null = torch.rand(len(prepared), generator=rng, device=device) < probability  # (B,)
        some = choose(null, self.nulled(prepared), prepared)
        assert isinstance(some, Parts)
        values = dict(some.values)
        for name in self.dropped:
            chance = torch.rand(len(prepared), generator=rng, device=device)
            values[ABSENT + name] = (chance < probability) | (null & (chance < 0.5))
        return Parts(values)

    def twins(self, prepared: Parts, guidance: Scales, negative: Parts | None = None) -> Twins:
        """As every conditioner's; the parts that `negative` leaves out are nulled in their own way.

        guidance: also a scale by the names of parts, see the module. Raises `InputError` for a name that is no part's, and for
        a part that has no null.
        """
        if isinstance(guidance, Mapping):
            return self._nested(prepared, guidance, {} if negative is None else negative.to(device_of(prepared)).values)
        if negative is not None and guidance != 1.0:
            rest = {name: value for name, value in prepared.values.items() if name not in negative.values}
            kept = self.nulled(Parts(rest)).values if rest else {}
            negative = Parts({**negative.to(device_of(prepared)).values, **kept})
        return super().twins(prepared, guidance, negative)

    def _nested(self, prepared: Parts, scales: Mapping[str, float], negative: Mapping[str, Prepared]) -> Twins:
        strange = next((name for name in scales if name not in self.parts), None)
        if strange is not None:
            raise unknown("guidance of", str(strange)[:100], list(self.parts))
        guided = [name for name in self.parts if scales.get(name, 1.0) != 1.0]
        weights = [1.0, *(float(scales[name]) for name in guided), 0.0]  # s_0 of what is always told, s_1 ... s_n
        values = dict(prepared.values)
        twins: Twins = []
        for i in reversed(range(len(guided) + 1)):  # c_1 ... c_i are told
            weight = weights[i] - weights[i + 1]
            if weight or not twins:
                twins.append((self(Parts(values)), weight))
            if i:
                values |= self._null_of(guided[i - 1], prepared.values[guided[i - 1]], negative)
        return twins

    def _null_of(self, name: str, value: Prepared, negative: Mapping[str, Prepared]) -> dict[str, Prepared]:
        """What stands for a part that is not told."""
        if name in negative:
            return {name: negative[name]}
        if name in self.dropped:
            return {ABSENT + name: torch.ones(len(value), dtype=torch.bool, device=device_of(value))}
        null = self._part(name).nulled(value)
        if null is value:
            raise InputError(
                f"guidance of {name}: this model was never trained without it, so it has no null; leave {name} out of guidance."
            )
        return {name: null}

    def tokenizer_json(self) -> str | None:
        """The tokenizer of the part that has one of its own."""
        own = [part for part in self.parts.values() if hasattr(part, "tokenizer_json")]
        return own[0].tokenizer_json() if own else None  # type: ignore[operator]

    def _part(self, name: str) -> Conditioner[Any, Any]:
        part = self.parts[name]
        assert isinstance(part, Conditioner)
        return part


def _without(cond: Conditioning, absent: Tensor) -> Conditioning:
    """Zeros in the floating slots of the rows that are `absent` (B,)."""

    def cleared(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return value.masked_fill(absent.view(-1, *[1] * (value.ndim - 1)), 0.0)

    return cond.map(cleared)


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
