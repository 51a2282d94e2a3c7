"""Guidance by a small picture, without retraining: held-out pictures, shrunk, guide what is drawn for their captions.

    python examples/small_guides.py --data emoji --out guided.png [--count 16] [--show 8] [--factor 8] [--steps 20] [--scale 1]

The pictures are the first held-out ones in the order of the SHA-256 of their names; picture i has seed S + i in every row. For
each row stand the mean difference to the small picture at its size (in 8-bit levels) and the perceptual distance to the true
one: drawn from the words alone, from words and the small picture, and from the small picture alone.
"""

from __future__ import annotations

import sys

import torch
from held_out import hash_order, held_out, pixels_of
from sheets import Row, Tile, arguments, picture, save, sheet
from torch import Tensor

import sfumato
from sfumato.data.degrade import shrink
from sfumato.evaluation.tasks.closeness import closeness
from sfumato.generation.pixels import to_bytes, to_unit
from sfumato.metrics.bootstrap import mean_interval

BICUBIC = torch.Generator()  # which bicubic shrinking draws nothing from


def shrunk(pixels: Tensor, factor: int) -> Tensor:
    """(N, 3, H, W) uint8 -> (N, 3, H / factor, W / factor) uint8, by antialiased bicubic interpolation."""
    return to_bytes(shrink(to_unit(pixels), factor, "bicubic", BICUBIC))


def levels(made: Tensor, small: Tensor, factor: int) -> Tensor:
    """(N,) float64: the mean difference to the small picture, in 8-bit levels."""
    return (shrunk(made, factor).double() - small.double()).abs().mean((1, 2, 3))


def main(argv: list[str] | None = None) -> int:
    """Write the sheet and its text, and print the text."""
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=16, help="pictures (default: 16)")
    parser.add_argument("--show", type=int, default=8, help="columns of the sheet (default: 8)")
    parser.add_argument("--factor", type=int, default=8, help="how many times smaller the guides are (default: 8)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args(argv)
    pipeline = sfumato.load(args.model, args.device)
    held = held_out(pipeline, args.data, "test")
    held = held.take(hash_order(held.names)[: args.count])
    truth = held.pixels[:, :3]  # on white
    small = shrunk(truth, args.factor)
    guides = [picture(pixels) for pixels in small]
    shown = {"truth": truth, "small": small.repeat_interleave(args.factor, 2).repeat_interleave(args.factor, 3)}
    for name, told, guided in (("words", True, False), ("words and small", True, True), ("small alone", False, True)):
        made = [
            pipeline.generate(
                words if told else "",
                seed=args.seed + i,
                steps=args.steps,
                guide=guide if guided else None,
                guide_scale=args.scale,
            )[0]
            for i, (words, guide) in enumerate(zip(held.captions, guides, strict=True))
        ]
        shown[name] = pixels_of(made)
    rng = torch.Generator().manual_seed(0)
    lines = ["| told | difference to the small picture | distance to the true one | pictures |", "|---|---|---|---|"]
    for name in list(shown)[2:]:
        off = mean_interval(levels(shown[name], small, args.factor), rng)
        far = closeness(shown[name], truth, rng, pipeline.device).perceptual
        near = f"{off.value:.1f} ({off.low:.1f} to {off.high:.1f})"
        lines.append(f"| {name} | {near} | {far.value:.3f} ({far.low:.3f} to {far.high:.3f}) | {len(truth)} |")
    rows = [Row([Tile([picture(x)]) for x in pixels[: args.show]], label=name) for name, pixels in shown.items()]
    lines += ["", *(f"column {i + 1}: {words}" for i, words in enumerate(held.captions[: args.show]))]
    save(sheet(rows), args.out, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
