"""`sfumato inspect FILE|DIR`: what a published checkpoint is, without loading it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfumato.interop.inspection import Inspection

HELP = "say what a published checkpoint is: a .ckpt, a .safetensors or a diffusers folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("path", metavar="FILE|DIR", help="a checkpoint that others published; nothing in it is run")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--values", action="store_true", help="read every number too, and look for NaN and infinity")
    parser.add_argument("--verify", action="store_true", help="hash every file, and compare with the hash remembered of it")


def run(args: argparse.Namespace) -> int:
    """Print the description."""
    import dataclasses

    from sfumato.interop.inspection import inspect

    found = inspect(args.path, values=args.values, verify=args.verify)
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=2, allow_nan=False))
    else:
        print("\n".join(lines(found)))
    return 0


def lines(found: Inspection) -> list[str]:
    """The description for people: a line a fact, then the parts, then what is odd."""
    types = found.types or {}
    total = max(sum(types.values()), 1)
    size = None if found.image_size is None else "x".join(map(str, found.image_size))
    facts: dict[str, object] = {
        "format": f"{found.kind.removeprefix('a ')}, {found.bytes / 1e9:.2f} GB of weights",
        "pipeline": found.pipeline,
        "model": " or ".join(found.cards) or "none of the published ones",
        "family": found.family,
        "task": found.task,
        "picture": size,
        "prediction": found.prediction,
        "schedule": found.schedule,
        "scale": None if found.scale_factor is None else f"{found.scale_factor:.6g}",
        "types": ", ".join(f"{name} {100 * count / total:.3g} %" for name, count in types.items()),
        "averages": "yes" if found.averages else "no",
        "trained": _trained(found),
        "yaml": found.yaml,
    }
    told = [found.path, *(f"  {name:12} {value}" for name, value in facts.items() if value)]
    told += [f"  {'sha256':12} {digest} {Path(file).name}" for file, digest in (found.sha256 or {}).items()]
    told += [
        "parts:",
        *(f"  {p.name:16} {p.parameters / 1e6:10.2f} M in {p.tensors} tensors, {p.what}" for p in found.portions),
    ]
    return told + (["odd:", *(f"  {sentence}" for sentence in found.oddities)] if found.oddities else [])


def _trained(found: Inspection) -> str | None:
    said = {"step": found.step, "epoch": found.epoch}
    return ", ".join(f"{name} {value}" for name, value in said.items() if value is not None) or None
