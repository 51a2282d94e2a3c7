"""`sfumato explain denoise`: sampling step by step, the state and the estimate of the clean picture, as a strip and a film."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.analyses import common
from sfumato.errors import InputError
from sfumato.generation.film import FILM_FORMATS, kept_steps
from sfumato.generation.limits import whole
from sfumato.generation.output import checked_file

if TYPE_CHECKING:
    from PIL.Image import Image

    from sfumato.explain.walk import Moment
    from sfumato.generation.pipeline import Pipeline

NAME, HELP = "denoise", "sampling step by step: what is there, and what the model believes"
COLUMNS = 8
FILM_MS = 250


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its flags."""
    common.add_model(parser)
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to show")
    common.add_seed(parser, "which picture, as of `generate`")
    common.add_sampling(parser)
    parser.add_argument("--columns", metavar="N", default=str(COLUMNS), help=f"steps shown, at most (default: {COLUMNS})")
    common.add_out(parser, "the strip", required=False)
    parser.add_argument("--film", metavar="FILE", help="all steps as an animation (gif, webp, png)")


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, sample, draw."""
    if args.out is None and args.film is None:
        raise InputError("out: got neither --out nor --film, expected one of them, or both.")
    columns = whole("columns", common.number(args, "columns"), 2, 40)
    draft = common.draft_of(args, args.prompt, common.check_seed(common.number(args, "seed")))
    out = None if args.out is None else common.out_of(args)
    film = None if args.film is None else checked_file("film", args.film, FILM_FORMATS, args.overwrite)

    from sfumato.explain.walk import diffusion_of, watched

    pipeline = common.load_model(args)
    diffusion_of(pipeline, "steps to look at")
    moments, image = watched(pipeline, common.request_of(pipeline, draft))
    title = args.prompt or pipeline.name
    if out is not None:
        _write_strip(out, pipeline, moments, image, columns, title, args.overwrite)
    if film is not None:
        _write_film(film, pipeline, moments, image, title, args.overwrite)
    return 0


def _names(pipeline: Pipeline) -> tuple[str, str]:
    from sfumato.first_stages.identity import IdentityFirstStage

    if isinstance(pipeline.model.first_stage, IdentityFirstStage):
        return "x_t", "estimate\nof x_0"
    return "z_t,\ndecoded", "estimate of z_0,\ndecoded"


def _write_strip(
    out: Path, pipeline: Pipeline, moments: list[Moment], image: Image, columns: int, title: str, overwrite: bool
) -> None:
    from sfumato.explain.between import decoded
    from sfumato.explain.sheets import Row, evenly, sheet

    shown = [moments[index] for index in evenly(len(moments), columns)]
    states, estimates = ([decoded(pipeline, z)[0] for z in column] for column in zip(*((m.z_t, m.z_0) for m in shown)))
    heads = [*(f"t = {m.t:.2f}" for m in shown), "done"]
    rows = [Row(name, [*row, image]) for name, row in zip(_names(pipeline), (states, estimates), strict=True)]
    times = [m.t for m in moments]
    spread = {name: [float(getattr(m, name).std()) for m in moments] for name in ("z_t", "z_0")}
    numbers = {"prompt": title, "times": times, "std": spread}
    common.write(out, sheet(rows, heads, title).figure, numbers, pipeline, overwrite)


def _write_film(film: Path, pipeline: Pipeline, moments: list[Moment], image: Image, title: str, overwrite: bool) -> None:
    from sfumato.explain.between import decoded
    from sfumato.explain.figure import FILM_SCALE
    from sfumato.explain.sheets import Row, sheet
    from sfumato.generation.film import save_frames

    count, frames = len(moments), []
    width = len(str(count))
    kept = [(step, moments[step - 1]) for step in sorted(kept_steps(count))]
    pairs = [([*decoded(pipeline, m.z_t), *decoded(pipeline, m.z_0)], step, m.t) for step, m in kept]
    names = [name.replace("\n", " ") for name in _names(pipeline)]
    for pictures, step, t in [*pairs, ([image, image], count, 0.0)]:
        note = f"step {step:{width}} of {count}, t = {t:.3f}"
        frames.append(sheet([Row("", pictures)], names, title, 160, [note]).figure.image(FILM_SCALE))
    print(save_frames(frames, film, overwrite=overwrite, frame_ms=FILM_MS))
