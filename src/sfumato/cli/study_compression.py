"""`sfumato study compression --data DIR --out OUT`: how much the first stage should compress, on one's own data."""

from __future__ import annotations

import argparse
import sys

from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, number_from_text, real, shorten, whole
from sfumato.generation.output import checked_path

HELP = "quality against training time and speed for f = 1 ... 32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    add = parser.add_argument
    add("--data", metavar="DIR", help="folder of pictures, or a tar shard")
    add("--out", required=True, metavar="OUT", help="folder of the study; a factor lies in OUT/f4")
    add("--factors", metavar="LIST", default="1,2,4,8,16,32", help="of these, in this order (default: 1,2,4,8,16,32)")
    add("--minutes-per-stage", metavar="M", default="3", help="training time of each stage (default: 3)")
    add("--size", metavar="PX", default="128", help="side of the pictures, a power of two (default: 128)")
    add("--samples", metavar="N", default="1000", help="pictures for each distance, 97 or more (default: 1000)")
    add("--steps", metavar="LIST", default="10,20,50,100,200", help="of DDIM, for the speeds (default: 10,20,50,100,200)")
    add("--seed", metavar="S", default="0", help="of the first sample; sample i has S + i (default: 0)")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--stop-after", metavar="MINUTES", help="save and stop politely after this time; the same command goes on")
    add("--page-only", action="store_true", help="write the page of what OUT holds, and train nothing")
    add("--quiet", action="store_true", help="print the page's path only")


def run(args: argparse.Namespace) -> int:
    """Check everything, go on with what is left, write the page. Prints its path."""
    out = checked_path("out", args.out)
    if args.page_only:
        from sfumato.studies.compression.page import write_page

        print(write_page(out))
        return 0
    if args.data is None:
        raise InputError("data: got none; give --data DIR, a folder of pictures (or --page-only).")
    data = checked_path("data", args.data)
    if not data.exists():
        raise InputError(f"data: no such folder {args.data!r}; give a folder of pictures or a tar shard.")
    factors = _numbers("factors", args.factors, 32)
    seed = LIMITS.seed(number_from_text(args.seed), samples := LIMITS.num(number_from_text(args.samples)))
    minutes = real("minutes_per_stage", number_from_text(args.minutes_per_stage), 0.0, 10_000.0)
    stop = None if args.stop_after is None else real("stop_after", number_from_text(args.stop_after), 0.0, 1e6)
    size, steps = LIMITS.side("size", number_from_text(args.size)), _numbers("steps", args.steps, 1000)

    from sfumato.generation.device import find_device
    from sfumato.studies.compression.page import write_page
    from sfumato.studies.compression.results import Settings
    from sfumato.studies.compression.study import Study
    from sfumato.training.signals import Stopped

    settings = Settings(minutes=minutes, size=size, samples=samples, num_steps=tuple(sorted(steps)), seed=seed)
    device = find_device(args.device)
    if device.type == "cuda":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True

    def say(text: str) -> None:
        if not args.quiet:
            print(text, file=sys.stderr, flush=True)

    try:
        results = Study(data, out, settings, device, say, quiet=args.quiet, minutes=stop).run(factors)
    except Stopped as stopped:
        print(f"sfumato: {stopped}", file=sys.stderr)
        return 0
    print(write_page(out))
    return 1 if all(result.failed for result in results) else 0


def _numbers(name: str, text: str, most: int) -> list[int]:
    """Different whole numbers from 1 to `most`, between commas."""
    found = [whole(name, number_from_text(part.strip()), 1, most) for part in text.split(",")]
    if len(set(found)) != len(found):
        raise InputError(f"{name}: got {shorten(text)}, in which a number stands twice; give each once.")
    return found
