"""What guidance and the number of steps do to a picture: the same prompts and seeds at several settings.

    python examples/settings_grid.py --out settings.png [--guidance 1 1.5 2 3 5 8] [--steps 4 6 10 20 40] [--prompts ...]

One column a prompt, which has seed S + i in every row. Each block changes one setting and leaves the others at the model's
own. For numbers see benchmarks/sampling_sweep.py.
"""

from __future__ import annotations

import sys
from typing import Any

from sheets import Row, Tile, arguments, save, sheet

import sfumato

PROMPTS = (
    "a grinning face, 3D style",
    "a woman astronaut with medium skin tone, noto style",
    "a fox, flat style",
    "a rocket, 3D style",
    "the flag of Japan, noto style",
    "a red apple, twemoji style",
)


def main(argv: list[str] | None = None) -> int:
    """Write the sheet and its text, and print the text."""
    parser = arguments(__doc__, data=None)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--guidance", nargs="*", type=float, default=[1.0, 1.5, 2.0, 3.0, 5.0, 8.0])
    parser.add_argument("--steps", nargs="*", type=int, default=[4, 6, 10, 20, 40])
    parser.add_argument("--sampler")
    args = parser.parse_args(argv)
    pipeline = sfumato.load(args.model, args.device)
    defaults = pipeline.loaded.defaults
    own = {"guidance": defaults.guidance, "steps": defaults.steps}
    blocks: dict[str, list[Any]] = {"guidance": args.guidance, "steps": args.steps}
    rows, lines = [], [f"sampler {args.sampler or defaults.sampler}"]
    for name, values in blocks.items():
        other = "steps" if name == "guidance" else "guidance"
        for i, value in enumerate(values):
            made = pipeline.generate(args.prompts, seed=args.seed, sampler=args.sampler, **{name: value})
            label = f"{value:g}" + (" (default)" if value == own[name] else "")
            heading = f"{name} ({other} {own[other]:g})" if i == 0 else ""
            rows.append(Row([Tile([picture]) for picture in made], heading, label))
        lines.append(f"{name} {', '.join(f'{value:g}' for value in values)} at {other} {own[other]:g}")
    lines += [f"column {i + 1}: {prompt}, seed {args.seed + i}" for i, prompt in enumerate(args.prompts)]
    save(sheet(rows, args.prompts), args.out, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
