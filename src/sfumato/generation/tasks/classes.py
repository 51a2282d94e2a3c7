"""Pictures of classes that are named: for models whose conditioner, or a part of it, is a table of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sfumato.conditioners.class_embedder import ClassEmbedder
from sfumato.conditioners.label import ClassLabel
from sfumato.errors import InputError
from sfumato.generation.limits import shorten
from sfumato.generation.request import Draft
from sfumato.generation.tasks.job import Job
from sfumato.generation.tasks.parts import Found, find_part

if TYPE_CHECKING:
    from sfumato.generation.pipeline import Pipeline


def of_classes(pipeline: Pipeline, classes: Sequence[str], draft: Draft) -> Job:
    """The draft's pictures of each class; with prompts, which a model of text and classes reads, all of one class.

    Raises `InputError` for a class that the model does not know, with the nearest that it does.
    """
    conditioner = pipeline.model.conditioner
    part: Found[Any] | None = find_part(conditioner, ClassLabel) or find_part(conditioner, ClassEmbedder)
    if part is None:
        raise InputError(f"class: the model {shorten(pipeline.name)} knows no classes; describe the picture with a prompt.")
    for name in classes:
        part.conditioner.prepare([name])  # its errors before anything is made
    if part.name is None:
        if draft.prompts:
            raise InputError(f"prompt: got {shorten(draft.prompts[0])} beside a class, but this model reads classes only.")
        return Job(pipeline.request(replace(draft, prompts=tuple(classes))))
    if len(classes) > 1:
        raise InputError(f"class: got {len(classes)}, but beside a text this model takes one a call; make them one by one.")
    prompts = draft.prompts or ("",)
    return Job(pipeline.request(replace(draft, prompts=prompts)), inputs=part.inputs(classes[0]))
