"""`sfumato explain traverse`: a picture's latent moved along the directions in which latents differ most, or by channel."""

from __future__ import annotations

import argparse

from sfumato.cli.analyses import common
from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, number_from_text, real, whole

NAME, HELP = "traverse", "a latent moved along the principal directions of the latents, or along single channels"
NUM, DIRECTIONS, COUNT, REACH = 256, 5, 7, 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its flags."""
    add = parser.add_argument
    common.add_model(parser)
    common.add_data(parser, NUM, required=False)
    add("--image", metavar="FILE", help="the picture to begin from (default: a held-out one)")
    add("--directions", metavar="K", default=str(DIRECTIONS), help=f"principal directions of --data (default: {DIRECTIONS})")
    add("--channels", nargs="+", metavar="C", help="single channels, in place of principal directions")
    add("--count", metavar="N", default=str(COUNT), help=f"pictures a direction (default: {COUNT})")
    add("--reach", metavar="R", default=str(REACH), help=f"standard deviations to both sides (default: {REACH:g})")
    common.add_seed(parser, "which held-out pictures")
    common.add_batch_size(parser)
    common.add_out(parser)


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, move, draw."""
    if args.data is None and (args.image is None or args.channels is None):
        raise InputError("data: got none, which takes both --image, to begin from, and --channels, to move along.")
    num, seed = LIMITS.num(common.number(args, "num")), common.check_seed(common.number(args, "seed"))
    count, reach = whole("count", common.number(args, "count"), 2, 40), real("reach", common.number(args, "reach"), 0.01, 20)
    wanted = whole("directions", common.number(args, "directions"), 1, 40)
    channels = [whole("channel", number_from_text(text), 0, 4096) for text in args.channels or ()]
    batch_size = LIMITS.batch_size(common.number(args, "batch_size"))
    data = None if args.data is None else common.data_of(args)
    out = common.out_of(args)

    import torch

    from sfumato.explain.between import decoded
    from sfumato.explain.latents import channel_directions, principal_directions
    from sfumato.explain.sheets import Row, sheet

    pipeline = common.load_model(args)
    common.encoder_of(pipeline)
    latents = None
    if data is not None:
        held = common.held_out(pipeline, data, args.split, num, seed)
        latents = common.latents_of(pipeline, held.pixels, seed, batch_size, sample=False).z
    if args.image is not None:
        base = pipeline.encoded(common.picture_of(pipeline, "image", args.image)).cpu()
    else:
        assert latents is not None
        base = latents[:1]
    if channels:
        directions = channel_directions(base.shape[1:], channels, base)
    else:
        assert latents is not None
        directions = principal_directions(latents, wanted)
    places = torch.linspace(-reach, reach, count).tolist()
    rows = []
    for one in directions:
        name = one.name if one.share is None else f"direction {one.name}\n{one.share:.1%} of the variance"
        moved = torch.cat([base + place * one.step for place in places]).to(pipeline.device)
        rows.append(Row(name, decoded(pipeline, moved)))
    along = "channels" if channels or latents is None else f"the principal directions of {len(latents)} pictures"
    title = f"{pipeline.name}: a latent moved along {along}"
    figure = sheet(rows, [f"{place:+.1f} std" for place in places], title).figure
    shares = [{"name": one.name, "share": one.share} for one in directions]
    numbers = {"directions": shares, "places": places, "pictures": 0 if latents is None else len(latents)}
    common.write(out, figure, numbers, pipeline, args.overwrite)
    return 0
