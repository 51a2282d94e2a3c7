"""`sfumato train-classifier MODEL --data DIR --out DIR`: a classifier of a model's latents, for `generate --guide`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, number_from_text, real, shorten, whole
from sfumato.generation.output import checked_path
from sfumato.generation.request import BATCH_SIZE

if TYPE_CHECKING:
    from sfumato.data.dataset import ImageDataset
    from sfumato.generation.pipeline import Pipeline

HELP = "Train a classifier of a model's latents on labelled pictures; `sfumato generate --guide` guides by it."
STEPS, BATCH, NOISE = 2000, 64, 1.0
MOST_STEPS, MOST_BATCH, MOST_NOISE = 10_000_000, 65536, 100.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags. Numbers arrive as text; the limits read and refuse them, as at every front door."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="whose latents it reads: a shipped model, a model directory or a training run")
    add("--data", required=True, metavar="DIR", help="labelled pictures: a subfolder a class, or a table with labels")
    add("--out", required=True, metavar="DIR", help="the folder of the classifier, to be named with --guide")
    add("--label", metavar="FIELD", default="label", help="the field of the table that is a picture's class (default: label)")
    add("--steps", metavar="K", default=str(STEPS), help=f"steps of training (default: {STEPS})")
    add("--train-batch", metavar="B", default=str(BATCH), help=f"latents in a step (default: {BATCH})")
    add("--noise", metavar="S", default=str(NOISE), help=f"the most noise that latents get (default: {NOISE:g})")
    add("--seed", metavar="S", default="0", help="decides weights, order and noise (default: 0)")
    add("--batch-size", metavar="B", default=str(BATCH_SIZE), help=f"pictures encoded at once (default: {BATCH_SIZE})")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--overwrite", action="store_true", help="replace an existing classifier")
    add("--quiet", action="store_true", help="print the classifier's path only")


def run(args: argparse.Namespace) -> int:
    """Check everything first, then load, encode, train, measure on held-out pictures, write."""
    steps = whole("steps", number_from_text(args.steps), 1, MOST_STEPS)
    batch = whole("train-batch", number_from_text(args.train_batch), 1, MOST_BATCH)
    noise = real("noise", number_from_text(args.noise), 0.0, MOST_NOISE)
    seed, at_once = LIMITS.seed(number_from_text(args.seed), 1), LIMITS.batch_size(number_from_text(args.batch_size))
    data = checked_path("data", args.data)
    if not data.exists():
        raise InputError(f"data: no such folder {shorten(args.data)}; give a folder of labelled pictures.")
    out = _out(args.out, args.overwrite)

    from sfumato.generation.pipeline import load
    from sfumato.io.classifier import save_classifier
    from sfumato.networks.classifier import ClassifierConfig
    from sfumato.training.classifier import ClassifierTraining, accuracy, labelled_latents, train_classifier

    pipeline = load(str(checked_path("model", args.model)), args.device)
    train, held_out = read(pipeline, data, args.label)
    names = classes_of(train, args.label)
    say = _silent if args.quiet else _say
    say(f"{len(names)} classes; encoding {len(train)} pictures and {len(held_out)} held-out ones")
    seen, unseen = (labelled_latents(pipeline.model, part, names, pipeline.device, at_once) for part in (train, held_out))
    network = train_classifier(
        ClassifierConfig(names, seen.z.shape[1]),
        seen.z,
        seen.labels,
        ClassifierTraining(steps=steps, batch_size=batch, noise=noise, seed=seed),
        pipeline.device,
        lambda step, loss: say(f"step {step}/{steps}: loss {loss:.3f}"),
    )
    if len(unseen.z):
        right, count = accuracy(network, unseen), len(unseen.z)
        say(f"right on {right:.1%} of {count} held-out pictures; {1 / len(names):.1%} would be chance")
    save_classifier(out, network, latents=pipeline.hash)
    print(out)
    return 0


def read(pipeline: Pipeline, directory: Path, label: str) -> tuple[ImageDataset, ImageDataset]:
    """Training and held-out pictures in the model's shape, with the classes that the field `label` names."""
    from sfumato.data.dataset import ImageDataset
    from sfumato.training.config import DataConfig
    from sfumato.training.prepare import prepare_data

    size, channels = pipeline.model.image_size, pipeline.channels
    prepared = prepare_data(directory, DataConfig(size=max(size), channels=channels, label=label), None)
    train, held_out = (ImageDataset(part.records, size, channels) for part in (prepared.train, prepared.held_out))
    return train, held_out


def classes_of(train: ImageDataset, label: str) -> tuple[str, ...]:
    """The classes of the training pictures, sorted. Raises `InputError` for fewer than two."""
    names = tuple(sorted({record.label for record in train.records if record.label}))
    if len(names) < 2:
        raise InputError(
            f"data: {len(names)} classes by {shorten(label)}, expected two or more; put pictures into a subfolder a class, "
            "or name a field of the table with --label."
        )
    return names


def _out(text: str, overwrite: bool) -> Path:
    """A free folder's name, or a classifier's that may be replaced: no other folder ever is."""
    from sfumato.io.classifier import CLASSIFIER

    path = checked_path("out", text)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return path
    if not (path / CLASSIFIER).is_file():
        raise InputError(f"out: {shorten(text)} exists and is no classifier; choose another name.")
    if not overwrite:
        raise InputError(f"out: {shorten(text)} exists; choose another name, or replace it with --overwrite.")
    return path


def _say(line: str) -> None:
    print(f"sfumato: {line}", file=sys.stderr)


def _silent(line: str) -> None:
    pass
