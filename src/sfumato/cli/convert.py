"""`sfumato convert SRC DST --to FORM`: the same model in another form; `--storage`: its weights stored otherwise;
`--share-first-stage`: without the first stage that it has in common with a model that ships."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from sfumato.cli.loras import lora_from_text
from sfumato.errors import InputError
from sfumato.io.storage import Storage

HELP = "write a model again in another form or precision"
FORMS = ("native", "single-file", "diffusers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add(
        "model",
        metavar="SRC",
        help="a shipped model's name, a model directory, a training run; with --to also a checkpoint, a diffusers folder or "
        "owner/name on the hub",
    )
    add("target", metavar="DST", nargs="?", help="folder or file to write, which must not exist")
    add("--out", metavar="DST", help="the same")
    add(
        "--to",
        choices=FORMS,
        help="native: a model directory; single-file: a .safetensors in the authors' names; diffusers: a folder that it loads",
    )
    add(
        "--storage",
        choices=[s.value for s in Storage],
        help="int8 is half of fp16, fp16 half of fp32 (default with --to: as in SRC)",
    )
    add(
        "--share-first-stage",
        metavar="NAME",
        help="leave out the first stage, which is that of the shipped model NAME and is read from there (a model directory)",
    )
    add("--card", metavar="NAME", help="which published model SRC is, where it leaves that open")
    add("--weights", metavar="KIND", help="of a checkpoint: ema (averages where there are any) or raw (default: ema)")
    add(
        "--lora",
        metavar="FILE[:SCALE[:TEXT]]",
        action="append",
        default=[],
        help="add a LoRA to the weights (again for another); TEXT: its scale in text encoders (default: SCALE)",
    )
    add("--vocabulary", metavar="FILE", help="BERT's vocab.txt, for the checkpoints that read words with it")
    add(
        "--verify",
        action="store_true",
        help="hash a checkpoint again and compare with the hash remembered of it (a model directory always is)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert; prints the new path, and for `--storage` or `--share-first-stage` alone both sizes on standard error."""
    from sfumato.generation.limits import shorten
    from sfumato.generation.output import checked_path

    given = [text for text in (args.target, args.out) if text is not None]
    if len(given) != 1:
        raise InputError(f"out: got {len(given)} places to write; give one, as DST or with --out.")
    out = checked_path("out", given[0])
    if os.path.lexists(out):
        raise InputError(f"out: {shorten(given[0])} exists; choose another name.")
    if args.to is not None:
        _transform(args, out)
    elif args.share_first_stage is not None:
        _share(args, out)
    else:
        _store(args, out)
    return 0


def _store(args: argparse.Namespace, out: Path) -> None:
    """The same directory in another precision."""
    from sfumato.io.pretrained import convert_pretrained

    if args.storage is None:
        raise InputError(f"nothing to change: give --to ({', '.join(FORMS)}), or --storage for a model directory.")
    _refuse_published(args)
    _say_sizes(convert_pretrained(args.model, out, Storage(args.storage)).path, out)


def _share(args: argparse.Namespace, out: Path) -> None:
    """The same directory without its first stage."""
    from sfumato.io.pretrained import share_first_stage

    if args.storage is not None:
        raise InputError("share-first-stage: got a storage too; convert to that first, and then the result with this flag.")
    _refuse_published(args)
    _say_sizes(share_first_stage(args.model, args.share_first_stage, out).path, out)


def _refuse_published(args: argparse.Namespace) -> None:
    if args.lora or any(value is not None for value in (args.card, args.weights, args.vocabulary)):
        raise InputError("card, weights, vocabulary and LoRAs need the form to write: give --to native.")


def _say_sizes(source: Path, out: Path) -> None:
    from sfumato.io.files import directory_size
    from sfumato.io.pretrained import WEIGHTS
    from sfumato.io.weights import read_storage

    sizes = [f"{directory_size(path) / 1e6:.1f} MB ({read_storage(path / WEIGHTS).value})" for path in (source, out)]
    print(out)
    print(" -> ".join(sizes), file=sys.stderr)


def _transform(args: argparse.Namespace, out: Path) -> None:
    """Another form."""
    from sfumato.generation.loading import Place
    from sfumato.generation.output import checked_path
    from sfumato.interop import convert
    from sfumato.interop.ema import Weights

    if args.share_first_stage is not None:
        raise InputError("share-first-stage: a model directory keeps its form for that; leave out --to, or use it first.")
    if args.weights not in (None, *(w.value for w in Weights)):
        raise InputError(f"weights: got {args.weights[:50]!r}, expected {' or '.join(w.value for w in Weights)}.")
    place = Place.of(checked_path("model", args.model))
    if not place.published and any(value is not None for value in (args.card, args.weights, args.vocabulary)):
        raise InputError("card, weights and vocabulary are for published models; this is a model directory.")
    loaded = convert.open_source(
        place.path,
        place.published,
        card=args.card,
        weights=Weights(args.weights or Weights.ema.value),
        vocabulary=None if args.vocabulary is None else checked_path("vocabulary", args.vocabulary),
        loras=[lora_from_text(text) for text in args.lora],
        verify=args.verify,
    )
    write = {
        "native": convert.write_native,
        "single-file": convert.write_single_file,
        "diffusers": convert.write_folder,
    }[args.to]
    notes = write(loaded, out, None if args.storage is None else Storage(args.storage))
    print(out)
    for note in notes or ():
        print(f"sfumato: {note}", file=sys.stderr)
