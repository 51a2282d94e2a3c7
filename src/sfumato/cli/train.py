"""`sfumato train`: from a folder of pictures to a model, one resumable command."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import InputError, unknown

if TYPE_CHECKING:
    from sfumato.training.config import RunConfig

HELP = "train both stages on a folder of pictures; the same command again continues"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE|CONFIG",
        help="a recipe (`sfumato info --recipes` lists them), such as folder, inpaint or emoji, or a config.json of a run",
    )
    parser.add_argument("--data", required=True, metavar="DIR", type=Path, help="folder of pictures, or a tar shard")
    parser.add_argument("--out", metavar="RUN", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="change a field, such as prior.train.steps=2000"
    )
    parser.add_argument(
        "--first-stage", metavar="MODEL|RUN", help="take the first stage of a model or run as it is, and train the prior only"
    )
    parser.add_argument("--only-first-stage", action="store_true", help="stop when the first stage is trained")
    parser.add_argument("--dry-run", action="store_true", help="print the config, parameter counts and memory; write nothing")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--stop-after", type=_minutes, metavar="MINUTES", help="save and stop politely after this time")
    parser.add_argument("--quiet", action="store_true", help="print the model's path only")


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"got {text[:40]!r}, expected minutes, 0 or more")
    return value


def run(args: argparse.Namespace) -> int:
    """Train, or describe what would be trained. Prints the model directory."""
    if not os.path.exists(args.data):  # False also for what no path can be
        raise InputError(f"--data {str(args.data)[:300]}: no such folder; give a folder of pictures.")
    assignments = list(args.set)
    if args.first_stage is not None:
        assignments.append(f"first_stage.frozen={json.dumps(args.first_stage)}")
    config = read_config(args.recipe, assignments)
    if args.dry_run:
        return describe(config, args.data)
    from sfumato.generation.device import find_device
    from sfumato.training import run as training
    from sfumato.training.signals import Stopped

    out = args.out or Path("runs") / config.name
    device = find_device(args.device)
    if device.type == "cuda":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    try:
        model = training.train(
            config, args.data, out, device, minutes=args.stop_after, quiet=args.quiet, only_first_stage=args.only_first_stage
        )
    except Stopped as stop:
        print(f"sfumato: {stop}", file=sys.stderr)
        return 0
    print(model)
    return 0


def read_config(recipe: str, assignments: list[str]) -> RunConfig:
    """A recipe by name or a config file, with `--set` applied. Raises `InputError` that names the nearest field."""
    from sfumato.config import from_dict, override, to_dict
    from sfumato.io.files import read_json
    from sfumato.recipes import RECIPES
    from sfumato.training.config import RunConfig

    data: dict[str, Any]
    if recipe in RECIPES:
        data = to_dict(RECIPES[recipe]())
    elif Path(recipe).suffix == ".json" or os.path.isfile(recipe):
        data = read_json(Path(recipe))
    else:
        raise unknown("recipe", recipe[:200], RECIPES, "or the path of a config.json; `sfumato info --recipes` lists them all")
    return from_dict(RunConfig, override(data, assignments))


def describe(config: RunConfig, data: Path) -> int:
    """Print the resolved config as JSON, and counts and memory on standard error."""
    from sfumato.config import to_dict
    from sfumato.training.run import parameter_counts, resolve

    resolved, prepared = resolve(config, data)
    print(json.dumps(to_dict(resolved), indent=2, ensure_ascii=False))
    counts = parameter_counts(resolved)
    print(f"pictures: {len(prepared.train)} to train on, {len(prepared.held_out)} held out", file=sys.stderr)
    for name, count in counts.items():
        print(f"{name}: {count:,} parameters", file=sys.stderr)
    for name, size in memory(resolved, counts).items():
        print(
            f"{name}: about {size / 2**30:.1f} GiB (rough: weights, gradients, optimizer, average, activations)",
            file=sys.stderr,
        )
    return 0


def memory(config: RunConfig, counts: dict[str, int]) -> dict[str, float]:
    """Rough peak bytes of each stage: 20 a parameter, and activations of about 24 feature maps a level in 4 bytes."""
    size, result = config.data.size, {}
    first, prior = config.first_stage, config.prior
    network = getattr(first.model, "network", None)
    if network is not None:
        pixels = first.train.batch_size / first.train.accumulate * size**2
        result["memory of the first stage"] = 20.0 * counts["first stage"] + 24 * 4 * pixels * network.channels * 1.5
    factor = 2 ** (len(network.multipliers) - 1) if network is not None else 1
    cells = prior.train.batch_size / prior.train.accumulate * (size / factor) ** 2
    weights = 20.0 * (counts["prior"] + counts["conditioner"])
    wide = getattr(getattr(prior.model, "network", None), "channels", 0)
    result["memory of the prior"] = weights + 40 * 4 * cells * wide * 1.5
    return result
