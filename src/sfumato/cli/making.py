"""Load the model, make the pictures of a plan, write each as soon as it is done and print its path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from sfumato.cli.bars import progress_bar
from sfumato.cli.plan import Plan
from sfumato.errors import InputError
from sfumato.generation.limits import shorten
from sfumato.generation.metadata import Parameters, TaskParameters
from sfumato.generation.request import Draft
from sfumato.generation.sheet import columns_of, make_sheet, save_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

    from sfumato.generation.engine import Progress
    from sfumato.generation.pipeline import Pipeline
    from sfumato.generation.tasks.job import Job

DEFAULT_MODEL = "emoji"

MakeJob = Callable[["Pipeline", Draft], "Job"]


def load_model(plan: Plan, default: str = DEFAULT_MODEL) -> Pipeline:
    """The plan's model on its device; `default` where the plan names none."""
    from sfumato.generation.pipeline import load

    model = _model(plan, default)
    return load(
        model,
        plan.device,
        card=plan.card,
        weights=plan.weights,
        vocabulary=plan.vocabulary,
        loras=plan.loras,
        dtype=plan.dtype,
        verify=plan.verify,
    )


def shipped(task: str) -> str | None:
    """The model that ships for a task, if one does."""
    from sfumato.io.pretrained import shipped_models

    name = f"{DEFAULT_MODEL}-{task}"
    return name if name in shipped_models() else None


def load_for(task: str, plan: Plan) -> Pipeline:
    """The plan's model, or the one that ships for the task. Raises `InputError` where neither is there."""
    default = shipped(task)
    if plan.model is None and default is None:
        raise InputError(f"model: none that can {task} ships with this release; name one with --model.")
    return load_model(plan, default or DEFAULT_MODEL)


def make(plan: Plan, pipeline: Pipeline, make_job: MakeJob) -> None:
    """Make the pictures of `make_job(pipeline, plan.draft)`, write each as soon as it is done and print its path."""
    from sfumato.generation.film import Film
    from sfumato.generation.tasks.job import perform

    job = make_job(pipeline, plan.draft)
    request = job.request
    _warn_if_another(pipeline, plan.source)
    pictures = request.pictures()
    columns = columns_of(len(request.prompts), request.num)
    film = None if plan.film is None else Film(len(pictures), columns)
    kept: list[Image] = []
    with progress_bar(len(pictures), plan.quiet) as bar:

        def on_step(progress: Progress) -> None:
            bar.step(progress)
            if film is not None:
                film.add(progress)

        for made in perform(pipeline, job, on_step):
            bar.clear()
            print(plan.out.save(made.image, made.picture, len(pictures)), flush=True)
            if film is not None:
                film.finish(made.picture.index, made.image)
            if plan.grid is not None:
                kept.append(made.image)
    if plan.grid is not None:
        print(save_sheet(make_sheet(kept, columns), plan.grid, overwrite=plan.overwrite))
    if film is not None and plan.film is not None:
        print(film.save(plan.film, overwrite=plan.overwrite))


def _model(plan: Plan, default: str) -> str:
    """The model to load. A picture may name a shipped model only: its text must not choose what is read from the disk."""
    from sfumato.io.pretrained import shipped_models

    if plan.model is not None or plan.source is None or plan.source.model is None:
        return plan.model or default
    if plan.source.model not in shipped_models():
        raise InputError(
            f"the picture's model {shorten(plan.source.model)} does not ship here; name its directory with --model."
        )
    return plan.source.model


def _warn_if_another(pipeline: Pipeline, source: Parameters | None) -> None:
    """Say on stderr why the picture that `--from` names cannot come out the same."""
    if source is not None and source.model_hash not in (None, pipeline.hash):
        given = f"model {shorten(source.model_hash)}, this is {pipeline.hash}"
        print(f"sfumato: the picture was made by other weights ({given}); the result will differ.", file=sys.stderr)
    if isinstance(source, TaskParameters):
        given = "" if source.source is None else f" from {shorten(source.source)}"
        print(
            f"sfumato: the picture was made by `sfumato {shorten(source.task)[1:-1]}`{given}, which its parameters alone "
            "cannot repeat; the result will differ.",
            file=sys.stderr,
        )
