"""What a model draws, in large: the same things in every style, or very many things at once.

    python examples/grids.py --out styles.png [--prompts "a rocket" "a cat" ...]
    python examples/grids.py --data emoji --out grid.png [--count 120] [--columns 12] [--split test]

The first command writes one row a style and one column a prompt. The second draws captions of held-out pairs, which no
training saw, on a grid without words: in the order of the SHA-256 of their names, taking the subjects (flags, food, ...) in
turn, since most pairs are people. Picture i, counted row by row, has seed S + i. Nothing is chosen by its looks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain, zip_longest

from held_out import hash_order, held_out, subjects
from sheets import Row, Tile, arguments, plain, save, sheet

import sfumato
from sfumato.generation.pipeline import Pipeline

STYLES = ("noto style", "twemoji style", "openmoji style", "3D style", "flat style")
PROMPTS = (
    "a grinning face",
    "a red heart",
    "thumbs up with medium skin tone",
    "a woman scientist with dark skin tone",
    "a superhero",
    "a fox",
    "a hamburger",
    "a sunflower",
    "a rocket",
    "a bicycle",
)


def by_style(pipeline: Pipeline, prompts: Sequence[str], styles: Sequence[str], seed: int) -> tuple[list[Row], list[str]]:
    """A row a style; the second value are the whole prompts."""
    asked = [f"{prompt}, {style}" for style in styles for prompt in prompts]
    made = pipeline.generate(asked, seed=seed)
    rows = [
        Row([Tile([picture]) for picture in made[i * len(prompts) : (i + 1) * len(prompts)]], label=style)
        for i, style in enumerate(styles)
    ]
    return rows, asked


def in_turn(names: Sequence[str], subject: dict[str, str]) -> list[int]:
    """Indices in the order of a hash, one of each subject in turn."""
    order = hash_order(names)
    kinds = sorted({subject.get(names[i], "") for i in order})
    queues = [[i for i in order if subject.get(names[i], "") == kind] for kind in kinds]
    return [i for i in chain.from_iterable(zip_longest(*queues)) if i is not None]


def main(argv: list[str] | None = None) -> int:
    """Write the sheet and its text, and print the text."""
    parser = arguments(__doc__, data=False)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS, help="what to draw in every style")
    parser.add_argument("--count", type=int, default=120, help="pictures of the large grid (default: 120)")
    parser.add_argument("--columns", type=int, default=12, help="columns of the large grid (default: 12)")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    args = parser.parse_args(argv)
    pipeline = sfumato.load(args.model, args.device)
    if args.data is None:
        rows, asked = by_style(pipeline, args.prompts, STYLES, args.seed)
        page, columns = sheet(rows, args.prompts), len(args.prompts)
    else:
        held = held_out(pipeline, args.data, args.split)
        chosen = in_turn(held.names, subjects(args.data, args.split))[: args.count]
        asked, columns = [held.captions[i] for i in chosen], args.columns
        page = sheet(plain(pipeline.generate(asked, seed=args.seed), columns))
    lines = [f"{i // columns + 1}.{i % columns + 1}  {text}, seed {args.seed + i}" for i, text in enumerate(asked)]
    save(page, args.out, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
