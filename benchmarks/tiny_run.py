"""Wall time of the recipe `tiny`, both stages end to end.

    python benchmarks/tiny_run.py [--pictures 96] [--cores 2] [--set A.B=VALUE ...] [--out FILE.json]

Coloured shapes with captions are drawn into a temporary folder; then a fresh `python -m sfumato train tiny` is timed from
its start to its end, with everything that it does (import, audit, both stages, checkpoints, samples, the finished model).
On Linux it may use `--cores` cores. Untimed, the model that came out makes a picture.
"""

from __future__ import annotations

import argparse
import colorsys
import os
import tempfile
from pathlib import Path

from common import machine, table, until_end, write
from PIL import Image, ImageDraw

GOAL_SECONDS = 60.0
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "violet", "pink")
SHAPES = ("disc", "square", "triangle", "ring", "bar")


def main(argv: list[str] | None = None) -> None:
    """Print a table and, with --out, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--cores", type=int, default=2, help="cores that the run may use (Linux)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="as in `sfumato train`")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):  # the processes started from here inherit it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    where = machine()
    print(where)
    with tempfile.TemporaryDirectory() as folder:
        data, run, picture = Path(folder, "data"), Path(folder, "run"), Path(folder, "picture.png")
        draw_shapes(data, args.pictures)
        changes = [f"--set={change}" for change in args.set]
        seconds = until_end(["-m", "sfumato", "train", "tiny", "--data", str(data), "--out", str(run), "--quiet", *changes])
        until_end(["-m", "sfumato", "generate", "a red disc", "--model", str(run), "--seed=0", "--out", str(picture)])
        with Image.open(picture) as made:
            size = made.size
    goal = "-" if args.set else f"{GOAL_SECONDS:g}"
    what = f"`sfumato train tiny`, {args.pictures} pictures" + "".join(f", {change}" for change in args.set)
    print(table(["what", "s", "goal s"], [(what, f"{seconds:.1f}", goal)]))
    write(args.out, {"machine": where, "pictures": args.pictures, "set": args.set, "seconds": seconds, "made": size})


def draw_shapes(directory: Path, count: int, side: int = 40) -> None:
    """`count` PNG files of `side` pixels with captions beside them; colour, shape, place and size go round unevenly."""
    directory.mkdir(parents=True)
    for i in range(count):
        colour, shape = COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)]
        page = Image.new("RGB", (side, side), "white")
        radius = 8 + i * 7 % 8
        x, y = side // 2 + i * 3 % 7 - 3, side // 2 + i * 5 % 9 - 4
        red, green, blue = colorsys.hsv_to_rgb(i % len(COLOURS) / len(COLOURS), 0.9, 0.9 - i % 11 / 40)
        draw_shape(ImageDraw.Draw(page), shape, x, y, radius, tuple(int(255 * c) for c in (red, green, blue)))
        page.putpixel((i % side, side - 1 - i // side % side), (0, 0, 0))  # no two are equal
        page.save(directory / f"{i:04d}.png")
        (directory / f"{i:04d}.txt").write_text(f"a {colour} {shape}\n", encoding="utf-8")


def draw_shape(draw: ImageDraw.ImageDraw, shape: str, x: int, y: int, radius: int, fill: tuple[int, ...]) -> None:
    """One shape around (x, y)."""
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "disc":
        draw.ellipse(box, fill)
    elif shape == "square":
        draw.rectangle(box, fill)
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill)
    elif shape == "ring":
        draw.ellipse(box, outline=fill, width=4)
    else:
        draw.rectangle((x - radius, y - 3, x + radius, y + 3), fill)


if __name__ == "__main__":
    main()
