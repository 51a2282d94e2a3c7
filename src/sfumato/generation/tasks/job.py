"""A job: a request, what the model is told beside the prompt, and what becomes of each picture that it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from sfumato.diffusion.guide import Guide
from sfumato.generation.engine import Made, OnStep
from sfumato.generation.metadata import Parameters, TaskParameters
from sfumato.generation.request import Request
from sfumato.priors.diffusion import Start
from sfumato.samplers.known import Known

if TYPE_CHECKING:
    from sfumato.generation.pipeline import Pipeline


@dataclass(frozen=True, eq=False)
class Job:
    """start, inputs, known, guide: as in `Pipeline.stream`. finish: makes the user's picture of what was made; None keeps it.

    task, strength, source: what the file says beside the request; no task for plain generation.
    """

    request: Request
    start: Start | None = None
    inputs: Any = None
    known: Known | None = None
    guide: Guide | None = None
    finish: Callable[[Made], Image.Image] | None = None
    task: str | None = None
    strength: float | None = None
    source: str | None = None

    def parameters(self, plain: Parameters) -> Parameters:
        """What a picture's file says: `plain`, and the task if there is one."""
        if self.task is None:
            return plain
        known = {field.name: getattr(plain, field.name) for field in fields(Parameters)}
        return TaskParameters(**known, task=self.task, strength=self.strength, source=_writable(self.source))


def perform(pipeline: Pipeline, job: Job, on_step: OnStep | None = None) -> Iterator[Made]:
    """The job's pictures in order, each as soon as it is done, with its parameters in `image.info`."""
    for made in pipeline.stream(job.request, on_step, job.start, job.inputs, job.known, job.guide):
        image = made.image if job.finish is None else job.finish(made)
        image.info.update(job.parameters(pipeline.parameters(job.request, made.picture)).to_info())
        yield replace(made, image=image)


def pictures(pipeline: Pipeline, job: Job, on_step: OnStep | None = None) -> list[Image.Image]:
    """All of the job's pictures."""
    return [made.image for made in perform(pipeline, job, on_step)]


def _writable(name: str | None) -> str | None:
    """A file's name as UTF-8 can write it: on some systems names are bytes of no encoding."""
    return None if name is None else name.encode("utf-8", "replace").decode("utf-8")[:1000]
