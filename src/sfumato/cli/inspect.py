"""`sfumato inspect FILE|DIR`: what a checkpoint, a LoRA or a model directory is, without loading it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfumato.interop.inspection import Inspection
    from sfumato.io.pretrained import LoadedModel

SHOWN = 3
HELP = "say what a file or folder of weights is: a checkpoint, a diffusers folder, a LoRA, a model directory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("path", metavar="FILE|DIR", help="what others published, or a model directory; nothing in it is run")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--values", action="store_true", help="read every number too, and look for NaN and infinity")
    parser.add_argument("--verify", action="store_true", help="hash every file, and compare with the hash remembered of it")


def run(args: argparse.Namespace) -> int:
    """Print the description."""
    import dataclasses

    from sfumato.interop.inspection import inspect
    from sfumato.interop.native import native_directory

    own = native_directory(Path(args.path))
    if own is not None:
        _own(args, own)
        return 0
    found = inspect(args.path, values=args.values, verify=args.verify)
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=2, allow_nan=False))
    else:
        print("\n".join(lines(found)))
    return 0


def _own(args: argparse.Namespace, directory: Path) -> None:
    """A model directory of ours, as `sfumato info` describes it."""
    from sfumato.cli.info import describe
    from sfumato.interop.native import describe_native, not_finite
    from sfumato.io.pretrained import WEIGHTS
    from sfumato.io.weights import read_storage

    loaded, storage = describe_native(directory, verify=args.verify), read_storage(directory / WEIGHTS).value
    wrong = not_finite(directory) if args.values else []
    odd = [f"{len(wrong)} tensors hold NaN or infinity: {', '.join(wrong[:SHOWN])}."] if wrong else []
    if args.json:
        print(json.dumps(_own_facts(loaded, storage, odd), indent=2, allow_nan=False))
        return
    title, *rest = describe(loaded)
    told = [f"{directory}", f"  {'kind':12} a sfumato model, {title}", f"  {'storage':12} {storage}", *rest]
    print("\n".join(told + (["odd:", *(f"  {sentence}" for sentence in odd)] if odd else [])))


def _own_facts(loaded: LoadedModel, storage: str, odd: list[str]) -> dict[str, object]:
    import dataclasses

    model = loaded.model
    parts = {"first stage": model.first_stage, "prior": model.prior, "conditioner": model.conditioner}
    return {
        "path": str(loaded.path),
        "kind": "a sfumato model",
        "name": loaded.name,
        "hash": loaded.hash,
        "bytes": sum(file.stat().st_size for file in loaded.path.iterdir() if file.is_file()),
        "storage": storage,
        "image_size": model.image_size,
        "latent": model.latent_shape(*model.image_size),
        "portions": [
            {"name": name, "what": type(part).__name__, "parameters": sum(p.numel() for p in part.parameters())}
            for name, part in parts.items()
        ],
        "sampling": dataclasses.asdict(loaded.defaults),
        "oddities": odd,
    }


def lines(found: Inspection) -> list[str]:
    """The description for people: a line a fact, then the parts, then what is odd."""
    types = found.types or {}
    total = max(sum(types.values()), 1)
    size = None if found.image_size is None else "x".join(map(str, found.image_size))
    facts: dict[str, object] = {
        "format": f"{found.kind.removeprefix('a ')}, {found.bytes / 1e9:.2f} GB of weights",
        "pipeline": found.pipeline,
        "model": _model(found),
        "family": found.family,
        "task": found.task,
        "picture": size,
        "prediction": found.prediction,
        "schedule": found.schedule,
        "scale": None if found.scale_factor is None else f"{found.scale_factor:.6g}",
        "types": ", ".join(f"{name} {100 * count / total:.3g} %" for name, count in types.items()),
        "averages": None if found.lora else "yes" if found.averages else "no",
        "trained": _trained(found),
        "markers": ", ".join(found.markers),
        "yaml": found.yaml,
        **_lora(found),
    }
    told = [found.path, *(f"  {name:12} {value}" for name, value in facts.items() if value)]
    told += [f"  {'sha256':12} {digest} {Path(file).name}" for file, digest in (found.sha256 or {}).items()]
    told += [
        "parts:",
        *(f"  {p.name:16} {p.parameters / 1e6:10.2f} M in {p.tensors} tensors, {p.what}" for p in found.portions),
    ]
    return told + (["odd:", *(f"  {sentence}" for sentence in found.oddities)] if found.oddities else [])


def _model(found: Inspection) -> str:
    if found.lora is None:
        return " or ".join(found.cards) or "none of the published ones"
    return f"a LoRA for {' or '.join(found.cards) or 'none of the published models'}"


def _lora(found: Inspection) -> dict[str, object]:
    """What only a LoRA has."""
    facts = found.lora
    if facts is None:
        return {}
    where = f"{facts.text_modules} of them in text encoders" if facts.text_modules else "none of them in a text encoder"
    return {
        "rank": ", ".join(map(str, facts.ranks)),
        "changes": f"{facts.modules} layers, {where}",
        "alpha / rank": ", ".join(f"{factor:.4g}" for factor in facts.factors),
    }


def _trained(found: Inspection) -> str | None:
    said = {"step": found.step, "epoch": found.epoch}
    return ", ".join(f"{name} {value}" for name, value in said.items() if value is not None) or None
