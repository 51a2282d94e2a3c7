"""`sfumato generate PROMPT...`: pictures from a prompt, written as PNG files whose paths are printed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli import flags
from sfumato.cli.bars import NoBar, progress_bar
from sfumato.cli.caches import cache_folder
from sfumato.cli.inputs import read_picture
from sfumato.cli.making import DEFAULT_MODEL, load_model, make
from sfumato.cli.plan import Plan, plan
from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, number_from_text, real, shorten
from sfumato.generation.output import checked_path
from sfumato.generation.request import Draft, Request

if TYPE_CHECKING:
    from sfumato.diffusion.guide import Guide
    from sfumato.generation.pipeline import Pipeline
    from sfumato.generation.tasks.job import Job

__all__ = ["HELP", "NoBar", "Plan", "add_arguments", "plan", "progress_bar", "run"]

HELP = "Make pictures from a prompt and print their paths."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sfumato generate`. Numbers arrive as text; the limits read and refuse them, as at every front door."""
    add = parser.add_argument
    add("prompts", nargs="*", metavar="PROMPT", help="what to show; several prompts make several pictures")
    add(
        "--class",
        metavar="NAME",
        dest="classes",
        action="append",
        default=[],
        help="a class that the model knows (again for another)",
    )
    flags.add_model_flags(parser, DEFAULT_MODEL)
    flags.add_sampling_flags(parser)
    flags.add_truncation_flags(parser)
    flags.add_size_flag(parser)
    flags.add_background_flag(parser)
    flags.add_running_flags(parser)
    flags.add_output_flags(parser)
    add("--film", metavar="FILE", help="also write an animation of the denoising (gif, webp, png; gif is never transparent)")
    add("--from", metavar="PICTURE", dest="source", help="make the picture of this PNG again; other flags change it")
    add("--guide", metavar="FILE", help="a small picture that the result looks like when shrunk, or a classifier's folder")
    add("--guide-class", metavar="NAME", help="the class that the classifier is asked for")
    add("--guide-scale", metavar="S", help="how strongly it pulls (default: 1, as strongly as it is likely)")
    add("--neighbours", metavar="DIR", help="pictures to be told of, for a model trained with neighbours")
    flags.add_manner_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Check everything first, then load PyTorch and the model, then make the pictures one by one."""
    checked = plan(args)
    classes = LIMITS.prompts(args.classes, checked.draft.num)
    scale = _guide_scale(args)
    guide = None if args.guide is None else _guide(args.guide, args.guide_class, scale)
    gallery = None if args.neighbours is None else checked_path("neighbours", args.neighbours)

    def job(pipeline: Pipeline, draft: Draft) -> Job:
        from sfumato.generation.tasks.classes import check_class_is_named, of_classes
        from sfumato.generation.tasks.job import Job
        from sfumato.generation.tasks.parts import check_prompt_is_enough

        if gallery is None:
            check_prompt_is_enough(pipeline, "generate")
        if gallery is not None and not draft.prompts and not classes:
            draft = replace(draft, prompts=("",))  # the neighbours may say it all
        if not classes:
            check_class_is_named(pipeline, draft)
        made = of_classes(pipeline, classes, draft) if classes else Job(pipeline.request(draft))
        if guide is not None:
            made = replace(made, guide=guide(pipeline, made.request), task="generate", source=Path(args.guide).name)
        return made if gallery is None else _with_neighbours(pipeline, made, gallery)

    if len(classes) == 1 and not checked.draft.prompts:
        checked = replace(checked, out=replace(checked.out, label=classes[0]))
    make(checked, load_model(checked), job)
    return 0


def _guide(text: str, name: str | None, scale: float) -> Callable[[Pipeline, Request], Guide]:
    """A picture's guide, or that of a class by the classifier in a folder; files are read at once, before a model is."""
    path = checked_path("guide", text)
    if not path.is_dir():
        if name is not None:
            raise InputError("guide-class: got one beside a picture; give the folder of a classifier with --guide.")
        small = read_picture("guide", text)
        return lambda pipeline, request: pipeline.guide_from(small, request, scale)
    from sfumato.generation.guides import class_score
    from sfumato.io.classifier import load_classifier

    found = load_classifier(path)
    if name is None:
        raise InputError(f"guide: {shorten(text)} is a classifier; say with --guide-class which class.")
    class_score(found.network, name)  # its error before a model is loaded

    def of_class(pipeline: Pipeline, request: Request) -> Guide:
        if found.latents not in ("", pipeline.hash):
            raise InputError(f"guide: this classifier reads latents of the model {found.latents}, this is {pipeline.hash}.")
        return pipeline.guide_from(class_score(found.network.to(pipeline.device), name), request, scale)

    return of_class


def _guide_scale(args: argparse.Namespace) -> float:
    for flag in ("guide_scale", "guide_class"):
        if args.guide is None and getattr(args, flag) is not None:
            raise InputError(f"{flag.replace('_', '-')}: got one without a guide; name a picture with --guide.")
    if args.guide_scale is None:
        return 1.0
    return real("guide-scale", number_from_text(args.guide_scale), 0.0, LIMITS.max_guidance)


def _with_neighbours(pipeline: Pipeline, job: Job, directory: Path) -> Job:
    from sfumato.training.gallery import neighbours_by_seed

    inputs = neighbours_by_seed(pipeline, directory, cache_folder("neighbours"), lambda _: job.inputs)
    return replace(job, inputs=inputs, task="generate", source=directory.name)
