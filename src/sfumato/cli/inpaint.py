"""`sfumato inpaint IMAGE --mask MASK [PROMPT]...`: a part of a picture made anew, the rest bit for bit as it was."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli import flags
from sfumato.cli.inputs import read_picture
from sfumato.cli.making import DEFAULT_MODEL, load_model, make, shipped
from sfumato.cli.plan import task_plan
from sfumato.generation.limits import number_from_text, shorten, whole

if TYPE_CHECKING:
    from sfumato.generation.pipeline import Pipeline
    from sfumato.generation.request import Draft
    from sfumato.generation.tasks.job import Job

HELP = "Make a part of a picture anew; outside of the mask every pixel stays as it is."
MOST = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sfumato inpaint`."""
    add = parser.add_argument
    add("image", metavar="IMAGE", help="the picture")
    add("prompts", nargs="*", metavar="PROMPT", help="what the new part shall show, for a model that reads text")
    add("--mask", metavar="MASK", required=True, help="a picture of the same size, white where the picture shall be new")
    add("--resampling", metavar="R", help="for a model that takes no mask: how often each step is walked (default: once)")
    flags.add_model_flags(parser, "the one for inpainting that ships")
    flags.add_sampling_flags(parser)
    flags.add_size_flag(parser, "the picture's own; the result always has that")
    flags.add_running_flags(parser)
    flags.add_output_flags(parser, "picture")
    flags.add_manner_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Check and read everything first, then load the model, then make the pictures."""
    plan = task_plan(args, "inpaint", args.image)
    rounds = None if args.resampling is None else whole("resampling", number_from_text(args.resampling), 1, MOST)
    image, mask = read_picture("image", args.image), read_picture("mask", args.mask)
    from sfumato.generation.paste import read_mask

    read_mask(mask, (image.height, image.width))  # its errors before the model is loaded
    pipeline = load_model(plan, shipped("inpaint") or DEFAULT_MODEL)

    def job(model: Pipeline, draft: Draft) -> Job:
        from sfumato.generation.tasks.inpaint import inpaint, trained_for_masks

        found = inpaint(model, image, mask, draft, rounds, Path(args.image).name)
        if not plan.quiet and not trained_for_masks(model):
            told = f"the model {shorten(model.name)} was not trained to inpaint; it is held to what is kept"
            print(f"sfumato: {told}.", file=sys.stderr)
        return found

    make(plan, pipeline, job)
    return 0
