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
    part = _class_part(pipeline)
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


def check_class_is_named(pipeline: Pipeline, draft: Draft) -> None:
    """Raise `InputError` for a model that reads classes only and a draft that names none."""
    part = _class_part(pipeline)
    if part is None or part.name is not None or draft.prompts:
        return
    such = f", such as {shorten(part.conditioner.config.names[0])}" if isinstance(part.conditioner, ClassLabel) else ""
    name = shorten(pipeline.name)
    raise InputError(f"class: got none, and the model {name} makes pictures of classes; name one with --class{such}.")


def _class_part(pipeline: Pipeline) -> Found[Any] | None:
    conditioner = pipeline.model.conditioner
    return find_part(conditioner, ClassLabel) or find_part(conditioner, ClassEmbedder)
