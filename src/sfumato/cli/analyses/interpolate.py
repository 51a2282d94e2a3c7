"""`sfumato explain interpolate`: pictures between two seeds, or between two pictures."""

from __future__ import annotations

import argparse

from sfumato.cli.analyses import common
from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, number_from_text, whole

NAME, HELP = "interpolate", "pictures between two seeds (along the arc of their noise), or between two pictures"
COUNT, STRENGTH = 9, 0.6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its flags."""
    add = parser.add_argument
    common.add_model(parser)
    add("--seeds", nargs=2, metavar="S", help="the two seeds, as of `generate`")
    add("--images", nargs=2, metavar="FILE", help="the two pictures")
    add("--prompt", metavar="TEXT", help="what to show, of both (with --images: what they are, if anything)")
    add("--count", metavar="N", default=str(COUNT), help=f"pictures, the two ends among them (default: {COUNT})")
    add("--strength", metavar="X", default=str(STRENGTH), help=f"of --images: how much is drawn anew (default: {STRENGTH})")
    common.add_sampling(parser)
    common.add_seed(parser, "of --images: of the noise that all share")
    common.add_out(parser)


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, draw."""
    of_seeds = common.exactly_one(args, ("seeds", "images")) == "seeds"
    count = whole("count", common.number(args, "count"), 2, 64)
    strength = LIMITS.strength(common.number(args, "strength"))
    ends = [common.check_seed(number_from_text(text)) for text in args.seeds or (args.seed,)]
    prompt = args.prompt if of_seeds or args.prompt is not None else ""
    draft = common.draft_of(args, prompt, ends[0])
    out = common.out_of(args)
    if out.suffix.lower() == ".json":
        raise InputError("out: an interpolation is a figure and has no numbers; give .svg, .png or .webp.")

    from sfumato.explain.between import between_seeds, decoded, line, redrawn, weights
    from sfumato.explain.sheets import Row, sheet
    from sfumato.priors.diffusion import DiffusionPrior

    pipeline = common.load_model(args)
    request = common.request_of(pipeline, draft)
    heads = [f"{weight:.2f}" for weight in weights(count)]
    if of_seeds:
        rows = [Row("", between_seeds(pipeline, request, ends[0], ends[1], count))]
        title = f"{args.prompt or pipeline.name}: from seed {ends[0]} to seed {ends[1]}"
    else:
        first, second = (pipeline.encoded(common.picture_of(pipeline, "images", text)) for text in args.images)
        z = line(first, second, count)
        rows = [Row("latents,\ndecoded", decoded(pipeline, z))]
        if isinstance(pipeline.model.prior, DiffusionPrior):
            rows.append(Row(f"drawn anew,\n{strength:g} of the way", redrawn(pipeline, request, z, strength)))
        title = f"{pipeline.name}: between two pictures"
    common.write(out, sheet(rows, heads, title).figure, {}, pipeline, args.overwrite)
    return 0
