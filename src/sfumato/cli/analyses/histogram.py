"""`sfumato explain histogram`: the latents of a data set, channel by channel, against the standard normal density."""

from __future__ import annotations

import argparse

from sfumato.cli.analyses import common
from sfumato.generation.limits import LIMITS

NAME, HELP = "histogram", "latents by channel against the standard normal density, with their moments"
NUM = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its flags."""
    common.add_model(parser)
    common.add_data(parser, NUM)
    common.add_seed(parser, "which held-out pictures, and the noise of q(z | x)")
    common.add_batch_size(parser)
    common.add_out(parser)


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, count, draw."""
    num, batch_size = LIMITS.num(common.number(args, "num")), LIMITS.batch_size(common.number(args, "batch_size"))
    seed, data, out = common.check_seed(common.number(args, "seed"), num), common.data_of(args), common.out_of(args)

    from sfumato.explain.latents import histogram, histogram_figure

    pipeline = common.load_model(args)
    common.encoder_of(pipeline)
    held = common.held_out(pipeline, data, args.split, num, seed)
    latents = common.latents_of(pipeline, held.pixels, seed, batch_size, sample=True)
    found = histogram(latents.z, latents.spread)
    columns = [found.mean, found.std, found.skew, found.kurtosis, *([] if found.noise is None else [found.noise])]
    print("channel     mean      std     skew kurtosis" + ("" if found.noise is None else "    noise"))
    for channel, moments in enumerate(zip(*columns, strict=True)):
        print(f"{channel:7d} " + " ".join(f"{float(value):8.3f}" for value in moments))
    print(f"{len(held)} pictures, {found.num_values} values a channel")
    figure = histogram_figure(found, f"{pipeline.name}: latents of {len(held)} pictures")
    common.write(out, figure, {"histogram": found.to_json(), "num_pictures": len(held)}, pipeline, args.overwrite)
    return 0
