"""`sfumato explain attention`: which words drove which pixels, by step, layer and head, as an overlay and a film."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.analyses import common
from sfumato.errors import InputError, unknown
from sfumato.generation.film import FILM_FORMATS
from sfumato.generation.output import checked_file

if TYPE_CHECKING:
    from sfumato.explain.attended import Attended
    from sfumato.generation.pipeline import Pipeline

NAME, HELP = "attention", "cross-attention maps: which words drove which pixels, by step, layer and head"
VIEWS = ("words", "steps", "layers", "heads")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its flags."""
    add = parser.add_argument
    common.add_model(parser)
    add("prompt", metavar="PROMPT", help="what to show")
    add("--by", metavar="VIEW", default=VIEWS[0], help="words (the mean of all), steps, layers, or heads of one word")
    add("--words", metavar="W,W", help="only these words of the prompt (default: all; with --by heads: the most attended)")
    common.add_seed(parser, "which picture, as of `generate`")
    common.add_sampling(parser)
    common.add_out(parser, required=False)
    add("--film", metavar="FILE", help="the maps step by step as an animation (gif, webp, png)")
    add("--json", metavar="FILE", help="the numbers beside the figure")


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, sample, draw."""
    if args.by not in VIEWS:
        raise unknown("view", args.by[:40], VIEWS)
    if args.out is None and args.film is None and args.json is None:
        raise InputError("out: got none of --out, --film and --json, expected one of them or more.")
    draft = common.draft_of(args, args.prompt, common.check_seed(common.number(args, "seed")))
    out = None if args.out is None else common.out_of(args)
    film = None if args.film is None else checked_file("film", args.film, FILM_FORMATS, args.overwrite)
    numbers = None if args.json is None else checked_file("json", args.json, {".json": "JSON"}, args.overwrite)

    from sfumato.explain.attended import attended, figure, film_frames

    pipeline = common.load_model(args)
    found = attended(pipeline, common.request_of(pipeline, draft))
    words = _chosen(found, args.words)
    print("of the attention:  " + "  ".join(f"{name} {share:.1%}" for name, share in found.shares()))
    facts = found.to_json()
    if out is not None:
        common.write(out, figure(found, args.by, words), facts, pipeline, args.overwrite)
    if numbers is not None:
        _write_numbers(numbers, found, pipeline)
    if film is not None:
        from sfumato.generation.film import save_frames

        frames = film_frames(pipeline, found, words)
        print(save_frames(frames, film, overwrite=args.overwrite, frame_ms=250))
    return 0


def _write_numbers(path: Path, found: Attended, pipeline: Pipeline) -> None:
    from sfumato.io.files import write_json

    write_json(path, {"model": common.model_facts(pipeline), **found.to_json()})
    print(path)


def _chosen(found: Attended, text: str | None) -> list[int]:
    """Indices of the groups that are words of `text`, or all that are words. Raises `InputError` for one that is none."""
    words = [index for index, group in enumerate(found.maps.groups) if group.is_word]
    if text is None:
        return words
    names = {found.maps.groups[index].name.casefold() for index in words}
    wanted = [name.strip().casefold() for name in text.split(",")]
    for name in wanted:
        if name not in names:
            raise unknown("word", name[:40], names)
    return [index for index in words if found.maps.groups[index].name.casefold() in wanted]
