"""`sfumato compose LAYOUT.json [PROMPT]...`: labelled boxes become a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from sfumato.cli import flags
from sfumato.cli.making import load_for, make
from sfumato.cli.plan import plan as read_plan
from sfumato.cli.plan import task_plan
from sfumato.errors import InputError
from sfumato.generation.layouts import EXAMPLE, read_layout
from sfumato.generation.output import checked_path

HELP = f"Make a picture of labelled boxes: a JSON file such as {EXAMPLE}, or COCO annotations of one picture."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sfumato compose`."""
    add = parser.add_argument
    add("layout", nargs="?", metavar="LAYOUT", help='a JSON file of boxes, in shares or, with "size": [H, W], in pixels')
    add("prompts", nargs="*", metavar="PROMPT", help="what it shows, for a model that reads text")
    add("--list-classes", action="store_true", help="print the numbers and names of the model's labels, and make nothing")
    flags.add_model_flags(parser, "the one for layouts that ships, if one does")
    flags.add_sampling_flags(parser)
    flags.add_size_flag(parser)
    flags.add_background_flag(parser)
    flags.add_running_flags(parser)
    flags.add_output_flags(parser, "layout")
    flags.add_manner_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Check and read everything first, then load the model, then make the pictures."""
    if args.list_classes:
        return _list(args)
    if args.layout is None:
        raise InputError("layout: got none, expected the path of a JSON file; --list-classes says which labels there are.")
    plan = task_plan(args, "compose", args.layout)
    boxes = read_layout(checked_path("layout", args.layout))
    pipeline = load_for("compose", plan)
    from sfumato.generation.tasks.compose import compose

    make(plan, pipeline, lambda model, draft: compose(model, boxes, draft, Path(args.layout).name))
    return 0


def _list(args: argparse.Namespace) -> int:
    pipeline = load_for("compose", read_plan(args))
    from sfumato.generation.tasks.compose import label_names

    for number, name in enumerate(label_names(pipeline)):
        print(f"{number}\t{name}")
    return 0
