"""`sfumato inpaint IMAGE --mask MASK [PROMPT]...`: a part of a picture made anew, the rest bit for bit as it was."""

from __future__ import annotations

import argparse
from pathlib import Path

from sfumato.cli import flags
from sfumato.cli.inputs import read_picture
from sfumato.cli.making import load_for, make
from sfumato.cli.plan import task_plan

HELP = "Make a part of a picture anew; outside of the mask every pixel stays as it is."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sfumato inpaint`."""
    add = parser.add_argument
    add("image", metavar="IMAGE", help="the picture")
    add("prompts", nargs="*", metavar="PROMPT", help="what the new part shall show, for a model that reads text")
    add("--mask", metavar="MASK", required=True, help="a picture of the same size, white where the picture shall be new")
    flags.add_model_flags(parser, "the one for inpainting that ships")
    flags.add_sampling_flags(parser)
    flags.add_size_flag(parser, "the picture's own; the result always has that")
    flags.add_running_flags(parser)
    flags.add_output_flags(parser, "picture")
    flags.add_manner_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Check and read everything first, then load the model, then make the pictures."""
    plan = task_plan(args, "inpaint", args.image)
    image, mask = read_picture("image", args.image), read_picture("mask", args.mask)
    from sfumato.generation.paste import read_mask

    read_mask(mask, (image.height, image.width))  # its errors before the model is loaded
    pipeline = load_for("inpaint", plan)
    from sfumato.generation.tasks.inpaint import inpaint

    make(plan, pipeline, lambda model, draft: inpaint(model, image, mask, draft, Path(args.image).name))
    return 0
