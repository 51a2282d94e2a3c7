"""`sfumato paint MAP`: a map of classes becomes a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
    add("--palette", metavar="FILE", help="for a coloured map: an index PNG whose palette says which colour is which class")
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
    colours = None if args.palette is None else read_map("palette", args.palette)
    from sfumato.generation.maps import classes_of, is_coloured, palette_of
    from sfumato.generation.tasks.paint import class_names, paint

    palette = None if colours is None else palette_of(colours)
    pipeline = load_for("paint", plan)
    if palette is None and is_coloured(image):
        palette = _palette(class_names(pipeline))
    classes = classes_of(image, palette)
    make(plan, pipeline, lambda model, draft: paint(model, classes, draft, Path(args.map).name))
    return 0


def _palette(names: Sequence[str]) -> list[tuple[int, int, int]] | None:
    """The colours of a map of emoji scenes, for a model of their classes; None for other classes."""
    from sfumato.data.maps import UNLABELLED
    from sfumato.data.scene_classes import NAMES
    from sfumato.data.scenes import palette

    known = [name for name in names if name != UNLABELLED]  # which is the last where there is one
    if not known or any(name not in NAMES for name in known):
        return None
    flat = palette()
    places = [3 * NAMES.index(name) for name in known]
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in places]


def _list(args: argparse.Namespace) -> int:
    pipeline = load_for("paint", read_plan(args))
    from sfumato.generation.tasks.paint import class_names

    for number, name in enumerate(class_names(pipeline)):
        print(f"{number}\t{name}")
    return 0
