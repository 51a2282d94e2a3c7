"""`sfumato explain forward`: a picture dissolving in noise, with the signal-to-noise ratio beside it."""

from __future__ import annotations

import argparse

from sfumato.cli.analyses import common
from sfumato.generation.limits import LIMITS, whole

NAME, HELP = "forward", "a picture at ever later times, with its SNR: x_t, or z_t by its preview and decoded"
TIMES, MOST = 9, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its flags."""
    common.add_model(parser)
    common.add_data(parser, 1, required=False)
    parser.add_argument("--image", metavar="FILE", help="the picture, in place of one of --data")
    parser.add_argument("--times", metavar="K", default=str(TIMES), help=f"columns, from t = 0 to 1 (default: {TIMES})")
    common.add_seed(parser)
    common.add_out(parser)


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, noise, draw."""
    from_image = common.exactly_one(args, ("image", "data")) == "image"
    num, seed = whole("num", common.number(args, "num"), 1, MOST), common.check_seed(common.number(args, "seed"), MOST)
    columns = whole("times", common.number(args, "times"), 2, LIMITS.max_steps)
    data = None if from_image else common.data_of(args)
    out = common.out_of(args)

    from sfumato.explain import forward
    from sfumato.explain.walk import diffusion_of
    from sfumato.generation.pixels import to_unit

    pipeline = common.load_model(args)
    schedule, stage = diffusion_of(pipeline, "a forward chain").denoiser.schedule, common.encoder_of(pipeline)
    if data is None:
        x = common.picture_of(pipeline, "image", args.image)
    else:
        x = to_unit(common.held_out(pipeline, data, args.split, num, seed).pixels)
    times = forward.even_times(schedule, columns)
    found, rows = [], []
    for index, one in enumerate(x):
        found.append(forward.strip(schedule, pipeline.encoded(one[None]).clone(), times, seed + index))
        rows += forward.rows(stage, found[-1].z_t)
    figure = forward.figure(rows, found[0], schedule, f"{pipeline.name}: the forward process")
    common.write(out, figure, {"strips": [one.to_json() for one in found]}, pipeline, args.overwrite)
    return 0
