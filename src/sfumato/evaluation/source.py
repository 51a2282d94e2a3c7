"""From a data set folder to the sets of an evaluation: the same split as training's, held-out pictures only drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sfumato.data.audit import audit
from sfumato.data.dataset import ImageDataset
from sfumato.data.decode import DecodeError
from sfumato.data.folder import Record, scan
from sfumato.data.split import Split, split
from sfumato.errors import InputError, unknown
from sfumato.evaluation.asked import SPLITS
from sfumato.evaluation.data import EvaluationData, choose
from sfumato.evaluation.settings import Sets

MOST_HELD = 5000
"""Held-out pictures beyond these are left out, by chance: a larger gallery makes retrieval a different question."""

Say = Callable[[Record], str]
"""What the model is told to draw for a record: a caption, a class name, nothing."""


@dataclass(frozen=True)
class Source:
    """The sets, which split is held out, and how many pictures of the chosen ones could not be read.

    fit: training pictures for the variance of a decoder, where they were asked for; `sets.rest` is as small as what is drawn.
    """

    sets: Sets
    split: str
    unreadable: int
    fit: EvaluationData | None = None


def group_of(record: Record) -> str:
    """The style or group that the metadata names, else the class."""
    for name in ("style", "group"):
        if isinstance(record.row.get(name), str):
            return str(record.row[name])
    return record.label or ""


def caption_of(record: Record) -> str:
    """The best caption."""
    return record.captions[0] if record.captions else ""


def read_split(directory: Path) -> Split:
    """The parts as training makes them. A folder that marks its validation pictures is not decoded for that."""
    folder = scan(directory)
    if any(record.split == "validation" for record in folder.records):
        return split(folder.records)
    return split(audit(folder, max_bad=1.0).records)


def read_sets(
    directory: Path,
    shape: tuple[int, int, int],
    *,
    name: str | None = None,
    num: int | None = None,
    say: Say = caption_of,
    seed: int = 0,
    rest: int | None = None,
    fit: int = 0,
) -> Source:
    """Pictures of `shape` (C, H, W) for an evaluation that draws `num` of split `name` (None: test, else validation).

    With `num` above the split's size, validation captions help out the test's, never the other way round. The other
    real pictures are `rest` from training (None: as many as are drawn), chosen once for all seeds, as are `fit` more. Raises
    `InputError`: no such folder or split.
    """
    if name not in (None, *SPLITS):
        raise unknown("split", str(name), SPLITS)
    parts = read_split(directory)
    chosen = name or ("test" if parts.test else "validation")
    records = parts.test if chosen == "test" else parts.validation
    if not records:
        raise InputError(f"{directory} has no {chosen} pictures; give --split validation, or mark some in its metadata.")
    loader = _Loader(shape, say)
    held = loader.read([records[i] for i in choose(len(records), MOST_HELD, 0)])
    wanted = len(held) if num is None else num
    more = parts.validation if chosen == "test" else ()
    extra_wanted = max(0, wanted - len(held))
    extra = loader.some([more[i] for i in choose(len(more), extra_wanted, seed)])
    drawn = min(wanted, len(held) + (0 if extra is None else len(extra)))
    others = loader.some([parts.train[i] for i in choose(len(parts.train), drawn if rest is None else rest, 0)])
    fitted = _Loader(shape, say).some([parts.train[i] for i in choose(len(parts.train), fit, 0)])
    return Source(Sets(held, extra, others), chosen, loader.unreadable, fitted)


def read_records(records: Sequence[Record], shape: tuple[int, int, int], say: Say) -> tuple[EvaluationData, int]:
    """The pictures in `shape` (C, H, W), and how many could not be read. Raises `InputError` when none could."""
    loader = _Loader(shape, say)
    return loader.read(records), loader.unreadable


class _Loader:
    """Decodes records one by one and counts those that cannot be."""

    def __init__(self, shape: tuple[int, int, int], say: Say) -> None:
        self.shape, self.say, self.unreadable = shape, say, 0

    def read(self, records: Sequence[Record]) -> EvaluationData:
        """Raises `InputError` when none can be read."""
        channels, height, width = self.shape
        dataset = ImageDataset(records, (height, width), channels)
        pixels = torch.empty((len(records), *self.shape), dtype=torch.uint8)
        kept: list[Record] = []
        first: DecodeError | None = None
        for index, record in enumerate(records):
            try:
                pixels[len(kept)] = dataset.pixels(index)
            except DecodeError as error:
                first = first or error
                self.unreadable += 1
            else:
                kept.append(record)
        if not kept:
            raise InputError(f"none of {len(records)} held-out pictures can be read; the first: {first}.")
        captions, groups, names = ([f(r) for r in kept] for f in (self.say, group_of, lambda r: r.name))
        return EvaluationData(pixels[: len(kept)], captions, groups, names)

    def some(self, records: Sequence[Record]) -> EvaluationData | None:
        return self.read(records) if records else None
