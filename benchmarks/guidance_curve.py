"""The curve over guidance scales, of the numbers that `benchmarks/tasks.py guidance` wrote.

    python benchmarks/guidance_curve.py DIR/guidance.json --out curve.svg

To the left the Frechet distance, beside it precision and recall (Ho & Salimans 2022, arXiv 2207.12598, Fig. 4), each with its
95 % intervals; the grey line is the distance of as many training pictures, the floor.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.explain.axes import Axes
from sfumato.explain.figure import FAINT, FIGURE_FORMATS, INK, LINE, MARK, Figure, save_figure

ROW, FLOOR = "guidance ", "floor: training pictures"
WIDTH, HEIGHT, LEFT, TOP = 320, 200, 56, 34  # of a panel's rectangle, and the margins around it


def curve_figure(numbers: Mapping[str, Any]) -> Figure:
    """numbers: the rows by name, "guidance SCALE" each with fd, precision and recall as value, low and high."""
    rows = {float(name.removeprefix(ROW)): row for name, row in numbers.items() if name.startswith(ROW)}
    scales = sorted(rows)
    floor = numbers[FLOOR]["fd"]["value"]
    highest = max(rows[scale]["fd"]["high"] for scale in scales)
    figure = Figure(2 * (WIDTH + LEFT) + 24, HEIGHT + TOP + 44)
    across = (scales[0] - 0.25, scales[-1] + 0.25)  # so that no interval lies on the axis
    distance = Axes(figure, LEFT, TOP, WIDTH, HEIGHT, across, (0.0, math.ceil(highest)))
    distance.line(across, (floor, floor), FAINT, 1.0)
    draw(distance, scales, [rows[scale]["fd"] for scale in scales], LINE)
    distance.frame("guidance scale (1: off)")
    distance.say(0, -0.07, "FD-MobileNetV2", colour=LINE, size=12)
    distance.say(1, -0.07, f"floor {floor:.2f}", "end", FAINT)
    shares = Axes(figure, WIDTH + 2 * LEFT, TOP, WIDTH, HEIGHT, across, (0.0, 1.0))
    draw(shares, scales, [rows[scale]["precision"] for scale in scales], MARK)
    draw(shares, scales, [rows[scale]["recall"] for scale in scales], INK)
    shares.frame("guidance scale (1: off)")
    shares.say(0, -0.07, "precision", colour=MARK, size=12)
    shares.say(0.25, -0.07, "recall", size=12)
    return figure


def draw(axes: Axes, scales: Sequence[float], found: Sequence[Mapping[str, float]], colour: str) -> None:
    """A line through the values, and an upright one over each interval."""
    axes.line(scales, [each["value"] for each in found], colour)
    for scale, each in zip(scales, found, strict=True):
        axes.line((scale, scale), (each["low"], each["high"]), colour, 1.2)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw one curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=Path, help="guidance.json of `benchmarks/tasks.py guidance`")
    parser.add_argument("--out", type=Path, required=True, help=f"figure: {', '.join(FIGURE_FORMATS)}")
    args = parser.parse_args(argv)
    figure = curve_figure(json.loads(args.numbers.read_text(encoding="utf-8")))
    print(save_figure(figure, args.out, overwrite=True))


if __name__ == "__main__":
    main()
