"""Held-out pictures above what the model draws for their captions: no choosing, no second tries.

    python examples/unseen_pairs.py --data emoji --out unseen.png [--count 32] [--split test]
    python examples/unseen_pairs.py --data emoji --by rank --out ranked.png [--show 16] [--count N] [--made FILE.safetensors]

The pictures are those that `sfumato evaluate` scores, one try each: held-out pair i has seed S + i. The first command shows
the first pairs in the order of the SHA-256 of their names. The second draws all pairs (or the first N of that order),
sorts them by the distance between the drawn and the true picture in the features that score (1 - the cosine that
retrieval@1 compares) and shows the nearest, the middle and the farthest, with retrieval@1 by style and by subject.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from held_out import draw, hash_order, held_out, subjects
from sheets import Row, Tile, arguments, picture, save, sheet
from torch import Tensor

import sfumato
from sfumato.cli.evaluate import default_cache
from sfumato.evaluation.data import EvaluationData
from sfumato.evaluation.protocol import by_group
from sfumato.evaluation.reference import ReferenceCache
from sfumato.evaluation.scoring import Scorer
from sfumato.metrics.retrieval import chance, distance_to_own, retrieval_at_1

COLUMNS = 8


def pairs(held: EvaluationData, own: Sequence[int], made: Tensor, notes: Sequence[str] = ()) -> list[Tile]:
    """Truth above, the drawn one below, the caption under both."""
    texts = [f"{held.captions[i]}\n{note}" for i, note in zip(own, notes or [""] * len(own), strict=True)]
    return [Tile([picture(held.pixels[i]), picture(x)], text.strip()) for i, x, text in zip(own, made, texts, strict=True)]


def rows_of(tiles: Sequence[Tile], heading: str = "") -> list[Row]:
    """Rows of eight, the first under the heading."""
    return [Row(tiles[i : i + COLUMNS], heading if i == 0 else "") for i in range(0, len(tiles), COLUMNS)]


def numbered(texts: Sequence[str]) -> list[str]:
    """row.column and text."""
    return [f"{i // COLUMNS + 1}.{i % COLUMNS + 1}  {text}" for i, text in enumerate(texts)]


def ranked(show: int, count: int) -> dict[str, range]:
    """Which ranks of `count` are shown, `show` of each kind."""
    show = min(show, count)
    middle = (count - show) // 2
    return {"best": range(show), "median": range(middle, middle + show), "worst": range(count - show, count)}


def by_rank(
    held: EvaluationData, own: Sequence[int], made: Tensor, show: int, subject: dict[str, str], device: str
) -> tuple[list[Row], list[str]]:
    """The sheet's rows and the text: best, median and worst pairs, then retrieval@1."""
    scorer = Scorer()
    drawn = scorer(made, device)
    real = ReferenceCache(default_cache()).features(held, scorer, device)
    distance = distance_to_own(drawn, real, held.groups, own)
    hits = retrieval_at_1(drawn, real, held.groups, own)
    order = distance.argsort(stable=True).tolist()
    rows, lines = [], []
    for name, ranks in ranked(show, len(own)).items():
        chosen = [order[rank] for rank in ranks]
        notes = [f"{distance[i]:.3f}" for i in chosen]
        title = f"{name} of {len(own)} by distance to the true picture (truth above, the model below)"
        rows += rows_of(pairs(held, [own[i] for i in chosen], made[chosen], notes), title)
        found = [f"{held.captions[own[i]]}  distance {distance[i]:.3f}{'' if hits[i] else ', not retrieved'}" for i in chosen]
        lines += [title, *numbered(found), ""]
    lines += [f"retrieval@1 {hits.mean():.3f} of {len(own)} pairs, chance {chance(held.groups):.3f}"]
    for groups in ([held.groups[i] for i in own], [subject.get(held.names[i], "") for i in own]):
        shares = by_group(hits, groups)
        lines += ["", *(f"{name or '(none)':20} {share:.3f} of {groups.count(name)}" for name, share in shares.items())]
    return rows, lines


def main(argv: list[str] | None = None) -> int:
    """Write the sheet and its text, and print the text."""
    parser = arguments(__doc__)
    parser.add_argument("--by", choices=("hash", "rank"), default="hash")
    parser.add_argument("--count", type=int, help="pairs to draw (default: 32 by hash, all by rank)")
    parser.add_argument("--show", type=int, default=16, help="pairs of each kind by rank (default: 16)")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--made", type=Path, help="keep what is drawn in this .safetensors file")
    args = parser.parse_args(argv)
    pipeline = sfumato.load(args.model, args.device)
    held = held_out(pipeline, args.data, args.split)
    own = hash_order(held.names)[: args.count or (32 if args.by == "hash" else len(held))]
    made = draw(pipeline, held, own, args.seed, args.made)
    if args.by == "hash":
        rows, lines = rows_of(pairs(held, own, made)), numbered([held.captions[i] for i in own])
    else:
        subject = subjects(args.data, args.split)
        rows, lines = by_rank(held, own, made, args.show, subject, str(pipeline.device))
    save(sheet(rows), args.out, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
