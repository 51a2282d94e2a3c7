"""The part of a model's conditioner that takes a task's input: found by its class, alone or inside a composite."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.compose import Composite
from sfumato.conditioners.layout import LayoutBoxes
from sfumato.conditioners.low_resolution import LowResolution, NoisedLowResolution
from sfumato.conditioners.masked import MaskedLatents
from sfumato.conditioners.none import Unconditional
from sfumato.conditioners.picture_latent import PictureLatents
from sfumato.conditioners.retrieved import Retrieved
from sfumato.conditioners.segmentation import SegmentationMap
from sfumato.conditioners.sizes import SizeNumbers
from sfumato.errors import InputError
from sfumato.generation.limits import shorten
from sfumato.generation.request import Draft

if TYPE_CHECKING:
    from sfumato.generation.pipeline import Pipeline

C = TypeVar("C", bound=Conditioner[Any, Any])


@dataclass(frozen=True)
class Found(Generic[C]):
    """A part and its name inside a composite; no name where it is the whole conditioner."""

    conditioner: C
    name: str | None = None

    def inputs(self, value: Any) -> Any:
        """`value` as `inputs` of a call: by the part's name, or bare."""
        return value if self.name is None else {self.name: value}


def find_part(conditioner: Conditioner[Any, Any], kind: type[C]) -> Found[C] | None:
    """The part of class `kind`, or None where the model has none."""
    if isinstance(conditioner, kind):
        return Found(conditioner)
    if isinstance(conditioner, Composite):
        for name, part in conditioner.parts.items():
            if isinstance(part, kind):
                return Found(part, name)
    return None


def needed_part(pipeline: Pipeline, kind: type[C], what: str, do: str) -> Found[C]:
    """The part of class `kind`; raises `InputError` where the model takes no `what`, with what to do about it."""
    found = find_part(pipeline.model.conditioner, kind)
    if found is None:
        raise InputError(f"model: {shorten(pipeline.name)} takes no {what}; {do}.")
    return found


def reads_text(conditioner: Conditioner[Any, Any]) -> bool:
    """Whether a text says something to the model: words or the name of a class."""
    if isinstance(conditioner, Composite):
        return any(reads_text(part) for part in conditioner.parts.values() if isinstance(part, Conditioner))
    return not conditioner.needs and not isinstance(conditioner, Unconditional | SizeNumbers)


def check_texts(pipeline: Pipeline, draft: Draft) -> None:
    """Raise `InputError` for words that the model cannot read."""
    words = next((text for text in (*draft.prompts, draft.negative) if text), None)
    if words is not None and not reads_text(pipeline.model.conditioner):
        raise InputError(f"prompt: got {shorten(words)}, but the model {shorten(pipeline.name)} reads no text; leave it out.")


def with_prompt(pipeline: Pipeline, draft: Draft) -> Draft:
    """`draft` with the empty prompt where it has none, for a picture says enough. Raises as `check_texts`."""
    check_texts(pipeline, draft)
    return draft if draft.prompts else replace(draft, prompts=("",))


VERBS: tuple[tuple[type[Conditioner[Any, Any]], str], ...] = (
    (MaskedLatents, "inpaint"),
    (LowResolution, "upscale"),
    (NoisedLowResolution, "upscale"),
    (SegmentationMap, "paint"),
    (LayoutBoxes, "compose"),
    (PictureLatents, "edit"),
    (Retrieved, "generate --neighbours DIR"),
)
"""Which verb, or which flag of one, gives a part what it needs."""


def check_prompt_is_enough(pipeline: Pipeline, verb: str) -> None:
    """Raise `InputError` for a model that another verb is for, with its name."""
    for kind, right in VERBS:
        found = find_part(pipeline.model.conditioner, kind)
        if found is not None and right != verb:
            needs = found.conditioner.needs
            raise InputError(f"model: {shorten(pipeline.name)} needs {needs}; use `sfumato {right}`, or another --model.")
