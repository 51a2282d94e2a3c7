"""Does the model copy? The training pictures nearest to what it draws, and how near real unseen pictures come.

    python examples/nearest_training.py --data emoji --out nearest.png [--show 8] [--count N] [--made FILE.safetensors]
    python examples/nearest_training.py --data emoji --out nearest.png --prompts examples/readme_prompts.txt

Pictures of the captions of all held-out pairs (or the first N in the order of the SHA-256 of their names; or of the prompts of
a file) are compared with every training picture in two ways:

    features   1 - the cosine in the features that score, centred by the training pictures' mean
    pixels     root mean square of the differences of 8-bit values, transparency laid on white

The sheet shows the first few with their three nearest training pictures in either way. The table has quantiles of the
distance to the nearest one, beside those of real held-out pictures, which no model has copied: a model that copies is nearer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from held_out import draw, hash_order, held_out
from readme_prompts import read_prompts
from sheets import Row, Tile, arguments, picture, save, sheet
from torch import Tensor

import sfumato
from sfumato.cli.evaluate import default_cache, generator
from sfumato.data.dataset import ImageDataset
from sfumato.data.folder import Record
from sfumato.evaluation.data import EvaluationData, batches
from sfumato.evaluation.reference import ReferenceCache
from sfumato.evaluation.scoring import Scorer
from sfumato.evaluation.source import caption_of, group_of, read_split
from sfumato.generation.request import Draft
from sfumato.metrics.retrieval import centred_cosine

CHUNK = 1024  # training pictures in memory at once
NEAREST = 3
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Nearest:
    """distance (M, k) float64 in rising order, index (M, k) of the training pictures."""

    distance: Tensor
    index: Tensor

    def joined(self, other: Nearest) -> Nearest:
        """The nearest of both."""
        distance, order = torch.cat([self.distance, other.distance], 1).sort(dim=1, stable=True)
        k = self.distance.shape[1]
        return Nearest(distance[:, :k], torch.cat([self.index, other.index], 1).gather(1, order[:, :k]))

    def __getitem__(self, rows: slice) -> Nearest:
        return Nearest(self.distance[rows], self.index[rows])


class Training:
    """The training pictures, read in chunks: all of them together need not fit in memory."""

    def __init__(self, records: Sequence[Record], shape: Sequence[int]) -> None:
        self.records = records
        channels, height, width = shape
        self.dataset = ImageDataset(records, (height, width), channels)

    def chunks(self) -> list[slice]:
        return list(batches(len(self.records), CHUNK))

    def pixels(self, part: slice) -> Tensor:
        """(n, C, H, W) uint8."""
        target = self.dataset.target
        return ImageDataset(self.records[part], target.height_width, target.channels).load_all()

    def features(self, device: torch.device) -> Tensor:
        """(N, D), kept between runs in the cache that `sfumato evaluate` has."""
        cache, scorer, found = ReferenceCache(default_cache()), Scorer(), []
        for part in self.chunks():
            records = self.records[part]
            captions, groups, names = ([f(r) for r in records] for f in (caption_of, group_of, lambda r: r.name))
            found.append(cache.features(EvaluationData(self.pixels(part), captions, groups, names), scorer, device))
        return torch.cat(found)


def in_features(queries: Tensor, training: Tensor, k: int = NEAREST) -> Nearest:
    """(M, D), (N, D) features -> the k nearest in 1 - centred cosine."""
    found = (1 - centred_cosine(queries, training)).topk(min(k, len(training)), 1, largest=False)
    return Nearest(found.values, found.indices)


def in_pixels(queries: Tensor, training: Training, device: torch.device, k: int = NEAREST) -> Nearest:
    """(M, C, H, W) uint8 -> the k nearest in the root mean square of 8-bit differences."""
    asked, best = flat(queries).to(device), None
    for part in training.chunks():
        pixels = flat(training.pixels(part)).to(device)
        near = torch.cdist(asked, pixels).topk(min(k + 2, len(pixels)), 1, largest=False).indices  # fast, a little inexact
        exact = torch.stack([(row - pixels[i]).square().mean(1).sqrt() for row, i in zip(asked, near, strict=True)])
        distance, order = exact.double().cpu().sort(dim=1, stable=True)
        found = Nearest(distance[:, :k], near.cpu().gather(1, order)[:, :k] + part.start)
        best = found if best is None else best.joined(found)
    assert best is not None, "there are training pictures"
    return best


def flat(pixels: Tensor) -> Tensor:
    """(M, C, H, W) uint8 -> (M, 3HW or HW) fp32 in [0, 255], transparency laid on white."""
    x = pixels.float()
    if x.shape[1] == 4:
        x = x[:, :3] * (x[:, 3:] / 255) + (255 - x[:, 3:])
    return x.flatten(1)


def quantiles(columns: dict[str, Tensor]) -> list[str]:
    """A Markdown table: a row a quantile, a column a set of distances."""
    lines = ["| quantile | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for q in QUANTILES:
        values = [f"{torch.quantile(x.double(), q).item():.4g}" for x in columns.values()]
        lines.append(f"| {'nearest' if q == 0 else f'{q:.0%}'} | {' | '.join(values)} |")
    return lines


def nearer(made: Tensor, real: Tensor) -> str:
    """How many drawn pictures are nearer to a training picture than the nearest hundredth of real ones is."""
    bound = torch.quantile(real.double(), 0.01)
    return f"{int((made < bound).sum())} of {len(made)}"


def rows_of(made: Tensor, texts: Sequence[str], ways: dict[str, Nearest], training: Training) -> list[Row]:
    """The drawn picture, then its neighbours in every way, with their distances."""
    rows = []
    for i, text in enumerate(texts):
        tiles = [Tile([picture(made[i])], text)]
        for found in ways.values():
            for distance, index in zip(found.distance[i].tolist(), found.index[i].tolist(), strict=True):
                near = f"{caption_of(training.records[index])}\n{distance:.3g}"
                tiles.append(Tile([picture(training.dataset.pixels(index))], near))
        rows.append(Row(tiles))
    return rows


def table(made: dict[str, Nearest], real: dict[str, Nearest]) -> list[str]:
    """Quantiles of both, and what they say in words."""
    columns: dict[str, Tensor] = {}
    for way, found in made.items():
        columns |= {f"drawn, {way}": found.distance[:, 0], f"held-out, {way}": real[way].distance[:, 0]}
    lines = quantiles(columns)
    for way, found in made.items():
        share = nearer(found.distance[:, 0], real[way].distance[:, 0])
        lines += ["", f"{way}: {share} drawn pictures are nearer than 99% of real held-out pictures are."]
    return lines


def main(argv: list[str] | None = None) -> int:
    """Write the sheet and its text, and print the text."""
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, help="held-out pairs to draw (default: all)")
    parser.add_argument("--show", type=int, default=8, help="pictures on the sheet (default: 8)")
    parser.add_argument("--prompts", type=Path, help="draw these instead, a prompt a line")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--made", type=Path, help="keep what is drawn for held-out pairs in this .safetensors file")
    args = parser.parse_args(argv)
    pipeline = sfumato.load(args.model, args.device)
    held, scorer = held_out(pipeline, args.data, args.split), Scorer()
    if args.prompts is None:
        own = hash_order(held.names)[: args.count]
        made, texts = draw(pipeline, held, own, args.seed, args.made), [held.captions[i] for i in own]
    else:
        texts = read_prompts(args.prompts)[: args.count]
        made = generator(pipeline, Draft(prompts=("",), seed=args.seed))(texts, range(args.seed, args.seed + len(texts)))
    training = Training(read_split(args.data).train, held.pixels.shape[1:])
    both, device = torch.cat([made, held.pixels]), pipeline.device  # at once, since reading all training pictures takes long
    nearest = {
        "features": in_features(scorer(both, device), training.features(device)),
        "pixels": in_pixels(both, training, device),
    }
    found = {way: each[: len(made)] for way, each in nearest.items()}
    real = {way: each[len(made) :] for way, each in nearest.items()}
    rows = rows_of(made[: args.show], texts[: args.show], found, training)
    top = ["drawn", *(f"{n + 1}. in {way}" for way in found for n in range(found[way].index.shape[1]))]
    head = f"{len(made)} drawn and {len(held)} real held-out pictures against {len(training.records)} training pictures"
    save(sheet(rows, top), args.out, "\n".join([head, "", *table(found, real)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
