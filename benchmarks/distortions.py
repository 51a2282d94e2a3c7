"""python benchmarks/distortions.py --data DIR: do FD-MobileNetV2 and KD-MobileNetV2 rank known distortions in order?

Held-out pictures are blurred, noised, compressed and made a mosaic, more and more, and compared with as many training pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import machine, table, write

if TYPE_CHECKING:
    from sfumato.evaluation.distortions import Ranking


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table; exit code 1 where a distance is out of order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR", help="a folder of pictures or a tar shard")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels (default: 64)")
    parser.add_argument("--num", type=int, default=500, help="pictures a side (default: 500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    args = parser.parse_args(argv)

    from sfumato.evaluation.distortions import rank
    from sfumato.evaluation.scoring import Scorer
    from sfumato.evaluation.source import read_sets

    sets = read_sets(
        Path(args.data), (3, args.size, args.size), num=args.num, say=lambda record: "", seed=args.seed, rest=args.num
    )
    if sets.sets.rest is None:
        raise SystemExit(f"{args.data} has no training pictures to compare with.")
    clean = sets.sets.held.pixels[: args.num]
    reference = sets.sets.rest.pixels[: len(clean)]
    found = rank(clean, reference, Scorer(), seed=args.seed, device=args.device)
    print(f"{len(clean)} pictures a side, {args.size} px, seed {args.seed}; {machine()}\n\n{page(found)}")
    write(args.out, {"machine": machine(), "num": len(clean), "size": args.size, "rankings": [as_json(one) for one in found]})
    if not all(one.fd_ordered and one.kd_ordered for one in found):
        raise SystemExit(1)


def page(found: Sequence[Ranking]) -> str:
    """A row for each distance of each distortion, strengths in brackets."""
    rows = []
    for one in found:
        strengths = ", ".join(f"{s:g}" for s in one.distortion.strengths)
        for name, floor, values, ordered in (
            ("FD", one.fd_floor, one.fd, one.fd_ordered),
            ("KD", one.kd_floor, one.kd, one.kd_ordered),
        ):
            cells = [f"{v:.3g}" for v in (floor, *values)]
            rows.append(
                [f"{one.distortion.name} ({one.distortion.unit}: {strengths})", name, *cells, "yes" if ordered else "NO"]
            )
    return table(["distortion", "distance", "none", "weakest", "weak", "strong", "strongest", "in order"], rows)


def as_json(one: Ranking) -> dict[str, Any]:
    """Plain values."""
    return {
        "distortion": one.distortion.name,
        "strengths": one.distortion.strengths,
        "fd": [one.fd_floor, *one.fd],
        "kd": [one.kd_floor, *one.kd],
        "in_order": one.fd_ordered and one.kd_ordered,
    }


if __name__ == "__main__":
    main()
