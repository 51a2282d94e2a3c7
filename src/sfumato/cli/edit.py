"""`sfumato edit IMAGE PROMPT...`: pictures that begin from a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from sfumato.cli import flags
from sfumato.cli.inputs import read_picture
from sfumato.cli.making import DEFAULT_MODEL, load_model, make
from sfumato.cli.plan import task_plan
from sfumato.generation.limits import LIMITS, number_from_text

HELP = "Change a picture after a prompt and print the paths of what comes out."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sfumato edit`."""
    add = parser.add_argument
    add("image", metavar="IMAGE", help="the picture to begin from")
    add("prompts", nargs="*", metavar="PROMPT", help="what it shall show; several prompts make several pictures")
    add("--strength", metavar="S", help="how much may change: above 0 (nothing) to 1 (everything); default 0.75")
    flags.add_model_flags(parser, DEFAULT_MODEL)
    flags.add_sampling_flags(parser)
    flags.add_size_flag(parser, "the picture's own")
    flags.add_background_flag(parser, "white, transparent for a picture with transparency")
    flags.add_running_flags(parser)
    flags.add_output_flags(parser, "picture")
    flags.add_manner_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Check and read everything first, then load the model, then make the pictures."""
    plan = task_plan(args, "edit", args.image)
    strength = None if args.strength is None else LIMITS.strength(number_from_text(args.strength))
    image = read_picture("image", args.image)
    pipeline = load_model(plan)
    from sfumato.generation.tasks.edit import edit

    background = None if args.background is None else plan.draft.background
    source = Path(args.image).name
    make(plan, pipeline, lambda model, draft: edit(model, image, draft, strength, background, source))
    return 0
