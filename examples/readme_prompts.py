"""The twenty prompts of the README on one sheet, with the prompt under each picture.

    python examples/readme_prompts.py --out prompts.png [--prompts examples/readme_prompts.txt] [--columns 5]

The prompts were written before any picture of them was seen. Prompt i has seed S + i; one try each.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sheets import Row, Tile, arguments, save, sheet

import sfumato

PROMPTS = Path(__file__).with_name("readme_prompts.txt")


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines don't count."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def main(argv: list[str] | None = None) -> int:
    """Write the sheet and its text, and print the text."""
    parser = arguments(__doc__, data=None)
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="a prompt a line (default: the README's)")
    parser.add_argument("--columns", type=int, default=5)
    args = parser.parse_args(argv)
    prompts = read_prompts(args.prompts)
    made = sfumato.load(args.model, args.device).generate(prompts, seed=args.seed)
    tiles = [Tile([picture], prompt) for picture, prompt in zip(made, prompts, strict=True)]
    rows = [Row(tiles[i : i + args.columns]) for i in range(0, len(tiles), args.columns)]
    save(sheet(rows), args.out, "\n".join(f"{prompt}, seed {args.seed + i}" for i, prompt in enumerate(prompts)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
