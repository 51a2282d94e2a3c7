"""`sfumato upscale IMAGE`: a picture made larger."""

from __future__ import annotations

import argparse
from pathlib import Path

from sfumato.cli import flags
from sfumato.cli.inputs import read_picture
from sfumato.cli.making import load_for, make
from sfumato.cli.plan import task_plan
from sfumato.generation.limits import number_from_text, whole

HELP = "Make a picture larger, with the details that a small one cannot hold."
MOST = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sfumato upscale`."""
    add = parser.add_argument
    add("image", metavar="IMAGE", help="the small picture, of any size")
    add("prompts", nargs="*", metavar="PROMPT", help="what it shows, for a model that reads text")
    add("--factor", metavar="F", help="how many times larger; the model has one, which is the default")
    flags.add_model_flags(parser, "the one for upscaling that ships")
    flags.add_sampling_flags(parser)
    flags.add_running_flags(parser)
    flags.add_output_flags(parser, "picture")
    flags.add_manner_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Check and read everything first, then load the model, then make the pictures."""
    plan = task_plan(args, "upscale", args.image)
    factor = None if args.factor is None else whole("factor", number_from_text(args.factor), 2, MOST)
    image = read_picture("image", args.image)
    pipeline = load_for("upscale", plan)
    from sfumato.generation.tasks.upscale import upscale

    make(plan, pipeline, lambda model, draft: upscale(model, image, draft, factor, Path(args.image).name))
    return 0
