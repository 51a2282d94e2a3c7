"""`sfumato paint MAP`: a map of classes becomes a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from sfumato.cli import flags
from sfumato.cli.inputs import read_map
from sfumato.cli.making import load_for, make
from sfumato.cli.plan import plan as read_plan
from sfumato.cli.plan import task_plan
from sfumato.errors import InputError

HELP = "Make a picture of a map whose pixels are numbers of classes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sfumato paint`."""
    add = parser.add_argument
    add("map", nargs="?", metavar="MAP", help="an index PNG (mode P) or a grey picture; its values are numbers of classes")
    add("prompts", nargs="*", metavar="PROMPT", help="what it shows, for a model that reads text")
    add("--list-classes", action="store_true", help="print the numbers and names of the model's classes, and make nothing")
    flags.add_model_flags(parser, "the one for maps that ships, if one does")
    flags.add_sampling_flags(parser)
    flags.add_size_flag(parser, "the map's own")
    flags.add_background_flag(parser)
    flags.add_running_flags(parser)
    flags.add_output_flags(parser, "map")
    flags.add_manner_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Check and read everything first, then load the model, then make the pictures."""
    if args.list_classes:
        return _list(args)
    if args.map is None:
        raise InputError("map: got none, expected the path of an index PNG; --list-classes says what its numbers mean.")
    plan = task_plan(args, "paint", args.map)
    image = read_map("map", args.map)
    from sfumato.generation.maps import classes_of

    classes = classes_of(image)
    pipeline = load_for("paint", plan)
    from sfumato.generation.tasks.paint import paint

    make(plan, pipeline, lambda model, draft: paint(model, classes, draft, Path(args.map).name))
    return 0


def _list(args: argparse.Namespace) -> int:
    pipeline = load_for("paint", read_plan(args))
    from sfumato.generation.tasks.paint import class_names

    for number, name in enumerate(class_names(pipeline)):
        print(f"{number}\t{name}")
    return 0
