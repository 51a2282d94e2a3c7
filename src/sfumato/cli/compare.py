"""`sfumato compare --data DIR --budget MINUTES`: every family trained for the same time, or operations, on one page."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, number_from_text

HELP = "Train every family of image generators on the same data for the same time or operations; judge them by one protocol."
BUDGET, SAMPLES, SIZE, BATCH_SIZE, SAMPLE_MINUTES = 5.0, 2000, 32, 100, 5.0
MOST = 1e30  # minutes or operations; more is a slip of the finger
COMMAND = "command.txt"  # in --out
COARSE_CHAIN = 100  # steps of a diffusion's bound where there is no GPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sfumato compare`."""
    add = parser.add_argument
    add("--data", metavar="DIR", type=Path, help="the data set: a folder of pictures, or a tar shard")
    add("--out", metavar="DIR", type=Path, default=Path("runs/compare"), help="where all goes (default: runs/compare)")
    add("--budget", metavar="MINUTES", help=f"of training, for each family (default: {BUDGET:g})")
    add("--budget-flops", metavar="N", help="floating-point operations of training, such as 2e16, in place of minutes")
    add("--families", metavar="A,B,C", help="gan, vae, ldm ... or recipes by their names (default: all)")
    add("--samples", metavar="N", default=str(SAMPLES), help=f"of each family (default: {SAMPLES})")
    add("--sample-minutes", metavar="M", default=str(SAMPLE_MINUTES),
        help=f"a slow family makes no more samples after these (default: {SAMPLE_MINUTES:g})")  # fmt: skip
    add("--size", metavar="PIXELS", default=str(SIZE), help=f"side of all pictures (default: {SIZE})")
    add("--batch-size", metavar="B", default=str(BATCH_SIZE), help=f"samples made at once (default: {BATCH_SIZE})")
    add("--seed", metavar="S", default="0", help="of training and of the first sample; sample i has S + i (default: 0)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps (default: auto)")
    add("--page-only", action="store_true", help="draw the page of the results that are in --out, and train nothing")
    add("--quiet", action="store_true", help="print the page's path only")


def run(args: argparse.Namespace) -> int:
    """Train and judge what is not there yet, and write the page. Prints its path."""
    if args.page_only:
        print(write(args.out, ""))
        return 0
    if args.data is None or not os.path.exists(args.data):
        given = "none given" if args.data is None else f"{str(args.data)[:300]}: no such folder"
        raise InputError(f"--data {given}; give a folder of pictures.")
    minutes, flops = _budget(args)
    sample_minutes = _positive("sample-minutes", args.sample_minutes, "minutes")
    seed, batch_size = LIMITS.seed(number_from_text(args.seed)), LIMITS.batch_size(number_from_text(args.batch_size))
    samples, size = LIMITS.num(number_from_text(args.samples)), LIMITS.side("size", number_from_text(args.size))
    names = None if args.families is None else [name.strip() for name in args.families.split(",") if name.strip()]

    from sfumato.generation.device import find_device
    from sfumato.studies.compare import Comparison, Settings
    from sfumato.studies.families import choose
    from sfumato.studies.judge import Protocol
    from sfumato.training.signals import Stopped

    families, device = choose(names), find_device(args.device)
    bound_steps = None if device.type == "cuda" else COARSE_CHAIN
    settings = Settings(minutes, size, batch_size, sample_minutes, bound_steps, Protocol(samples, seed), flops)
    _allow_fast_matrices(device.type)
    say = (lambda text: None) if args.quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    comparison = Comparison(args.data, args.out, settings, device, args.quiet, say, lambda: _bars(args.quiet))
    results: list[Any] = []
    try:
        results = comparison.run(families)
    except Stopped as stop:
        print(f"sfumato: {stop}", file=sys.stderr)
        if not any(args.out.glob("*/result.json")):
            return 0
    print(write(args.out, command(args)))
    return 1 if results and not any(result.done for result in results) else 0


def write(out: Path, told: str) -> Path:
    """The page and the overview of all results in `out`. Raises `InputError` where there are none.

    told: the command that made them, "" for that of the last call.
    """
    from sfumato.io.files import write_bytes
    from sfumato.studies.families import FAMILIES
    from sfumato.studies.overview import write_overview
    from sfumato.studies.page import conditions, write_page
    from sfumato.studies.results import read_results

    results = read_results(out, list(FAMILIES))
    if not results:
        raise InputError(f"--out {str(out)[:300]}: it holds no results; train some families first, without --page-only.")
    kept = out / COMMAND
    if told:
        write_bytes(kept, f"{told}\n".encode())
    elif kept.is_file():
        told = kept.read_text(encoding="utf-8").strip()
    write_overview(results, out, conditions(results))
    return write_page(results, out, told)


def command(args: argparse.Namespace) -> str:
    """The command that made the page, without the places of this machine."""
    minutes, flops = _budget(args)
    budget = f"--budget-flops {args.budget_flops}" if flops else f"--budget {minutes:g}"
    parts = ["sfumato compare", f"--data {args.data.name}", budget]
    parts += [f"--families {args.families}"] if args.families else []
    defaults = {"samples": SAMPLES, "sample_minutes": SAMPLE_MINUTES, "size": SIZE, "batch_size": BATCH_SIZE, "seed": 0}
    for name, default in defaults.items():
        value = getattr(args, name)
        parts += [f"--{name.replace('_', '-')} {value}"] if str(value) != str(default) else []
    return " ".join(parts)


def _budget(args: argparse.Namespace) -> tuple[float, float]:
    """Minutes and operations, of which one is 0."""
    if args.budget_flops is None:
        return _positive("budget", str(BUDGET) if args.budget is None else args.budget, "minutes"), 0.0
    if args.budget is not None:
        raise InputError("--budget and --budget-flops: a family's training ends by one of them; give one.")
    return 0.0, _positive("budget-flops", args.budget_flops, "a number of operations such as 2e16")


def _positive(name: str, text: str, what: str) -> float:
    value = number_from_text(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value <= MOST):
        raise InputError(f"{name}: got {text[:40]!r}, expected {what}, more than 0.")
    return float(value)


def _allow_fast_matrices(kind: str) -> None:
    """TensorFloat-32 on a GPU, as training has it."""
    if kind == "cuda":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def _bars(quiet: bool) -> AbstractContextManager[Any]:
    from sfumato.cli.bars import part_bars

    return part_bars(quiet)
