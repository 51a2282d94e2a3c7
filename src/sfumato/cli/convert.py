"""`sfumato convert MODEL --out DIR --storage int8`: the same model, its weights stored otherwise."""

from __future__ import annotations

import argparse
import os
import sys

from sfumato.errors import InputError
from sfumato.io.storage import Storage

HELP = "write a model again with its weights stored in another precision"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("model", metavar="MODEL", help="a shipped model's name, a model directory or a training run")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write, which must not exist")
    parser.add_argument(
        "--storage", required=True, choices=[s.value for s in Storage], help="int8 is half of fp16, fp16 half of fp32"
    )


def run(args: argparse.Namespace) -> int:
    """Convert; prints the new directory, and both sizes on standard error."""
    from sfumato.generation.limits import shorten
    from sfumato.generation.output import checked_path
    from sfumato.io.files import directory_size
    from sfumato.io.pretrained import WEIGHTS, convert_pretrained
    from sfumato.io.weights import read_storage

    out = checked_path("out", args.out)
    if os.path.lexists(out):
        raise InputError(f"out: {shorten(args.out)} exists; choose another name.")
    source = convert_pretrained(args.model, out, Storage(args.storage)).path
    sizes = [f"{directory_size(path) / 1e6:.1f} MB ({read_storage(path / WEIGHTS).value})" for path in (source, out)]
    print(out)
    print(" -> ".join(sizes), file=sys.stderr)
    return 0
