"""What `sfumato edit` keeps of a picture and what it takes from the words, over strengths.

    python examples/edit_strengths.py --data emoji --out edit.png [--count 24] [--show 6] [--strengths 0.25 0.5 0.75 1]

Each held-out picture is edited with the caption of another one of its style, the next in the order of the SHA-256 of the
names that shows another subject: so the picture that the words ask for is known. Edit i has seed S + i. For every strength
stand the perceptual distance to the picture it began from, and how often the result is nearer to the picture asked for than
to that one (by the cosine of retrieval@1: features centred on all held-out pictures of the style).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from held_out import hash_order, held_out, pixels_of, subjects
from sheets import Row, Tile, arguments, on_white, picture, save, sheet
from torch import Tensor

import sfumato
from sfumato.evaluation.data import EvaluationData
from sfumato.evaluation.scoring import Scorer
from sfumato.evaluation.tasks.closeness import closeness
from sfumato.metrics.bootstrap import mean_interval
from sfumato.metrics.retrieval import centred_cosine

STRENGTHS = (0.25, 0.5, 0.75, 1.0)


def choose_pairs(held: EvaluationData, subject: dict[str, str], count: int) -> list[tuple[int, int]]:
    """(source, asked for): of one style and of two subjects; pictures of two emoji together are left out."""
    order = [i for i in hash_order(held.names) if subject[held.names[i]] != "pairs"]
    found: list[tuple[int, int]] = []
    for place, source in enumerate(order):
        after = (*order[place + 1 :], *order[:place])
        fits = (i for i in after if held.groups[i] == held.groups[source])
        asked = next((i for i in fits if subject[held.names[i]] != subject[held.names[source]]), None)
        if asked is not None:
            found.append((source, asked))
    return found[:count]


def nearer_to_asked(made: Tensor, held: EvaluationData, pairs: Sequence[tuple[int, int]], device: str) -> Tensor:
    """(N,) float64 of 0 and 1 for made pictures (N, C, H, W) uint8: nearer to the asked for than to the source."""
    scorer, real = Scorer(), Scorer()(held.pixels, device)
    features, nearer = scorer(made, device), torch.zeros(len(made), dtype=torch.float64)
    for row, (source, asked) in enumerate(pairs):
        members = [i for i, group in enumerate(held.groups) if group == held.groups[source]]
        similar = centred_cosine(features[row : row + 1], real[members])[0]
        nearer[row] = float(similar[members.index(asked)] > similar[members.index(source)])
    return nearer


def main(argv: list[str] | None = None) -> int:
    """Write the sheet and its text, and print the text."""
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=24, help="pictures (default: 24)")
    parser.add_argument("--show", type=int, default=6, help="rows of the sheet (default: 6)")
    parser.add_argument("--strengths", nargs="+", type=float, default=STRENGTHS)
    args = parser.parse_args(argv)
    pipeline = sfumato.load(args.model, args.device)
    held = held_out(pipeline, args.data, "test")
    pairs = choose_pairs(held, subjects(args.data, "test"), args.count)
    sources, asked = ([picture(held.pixels[pair[i], :3]) for pair in pairs] for i in (0, 1))  # on white
    captions = [held.captions[i] for _, i in pairs]
    columns, rng = [sources], torch.Generator().manual_seed(0)
    lines = ["| strength | distance to the source | nearer to what was asked for | pictures |", "|---|---|---|---|"]
    for strength in args.strengths:
        made = [
            pipeline.edit(image, words, seed=args.seed + i, strength=strength)[0]
            for i, (image, words) in enumerate(zip(sources, captions, strict=True))
        ]
        pixels = pixels_of(made)
        far = closeness(pixels, pixels_of(sources), rng, pipeline.device).perceptual
        share = mean_interval(nearer_to_asked(pixels, held, pairs, str(pipeline.device)), rng)
        intervals = " | ".join(f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})" for value in (far, share))
        lines.append(f"| {strength:g} | {intervals} | {len(pairs)} |")
        columns.append([on_white(image) for image in made])
    columns.append(asked)
    rows = [Row([Tile([column[i]]) for column in columns], label=captions[i]) for i in range(min(args.show, len(pairs)))]
    names = ["source", *(f"strength {strength:g}" for strength in args.strengths), "asked for"]
    lines += ["", *(f"row {i + 1}: {held.captions[s]} -> {held.captions[a]}" for i, (s, a) in enumerate(pairs[: args.show]))]
    save(sheet(rows, names), args.out, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
