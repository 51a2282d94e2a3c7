"""Guidance, steps, sampler and guidance interval on validation pairs: quality and seconds of every combination.

    python benchmarks/sampling_sweep.py --data emoji --out sweep.json [--model emoji] [--guidance 1.5 2 3 4 6]
        [--steps 6 10 20] [--samplers dpmpp_2m euler] [--intervals none 0.2-0.9] [--num N] [--no-fd] [--device auto]

Every cell is one `sfumato evaluate` on the same pairs with the same seeds, at the settings of that cell; its row is printed,
and FILE.json and FILE.md are written, as soon as it is done. Cells that are in FILE.json already are not measured again, so
that a sweep can be stopped, continued and widened. An interval is the part of t (1 is noise) in which guidance acts. What a
sweep chooses must not have seen test pairs: only --split validation, the default, is for choosing.

Seconds are of generation alone, by picture, with the model loaded; the first cell has the device's warm-up in it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import machine, table

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.evaluation.source import Source
    from sfumato.generation.pipeline import Pipeline

HEADER = ["sampler", "steps", "guidance", "interval", "retrieval@1", "FD / floor", "precision", "recall", "s a picture"]
KEYS = ("retrieval", "fd_ratio", "precision", "recall")
Interval = tuple[float, float] | None


def interval(text: str) -> Interval:
    """`none` or LOW-HIGH."""
    if text == "none":
        return None
    low, _, high = text.partition("-")
    return float(low), float(high)


def name_of(sampler: str, steps: int, guidance: float, where: Interval) -> str:
    """A cell's name in the JSON file."""
    return f"{sampler}, {steps} steps, guidance {guidance:g}, {'everywhere' if where is None else f'{where[0]:g}-{where[1]:g}'}"


def with_interval(pipeline: Pipeline, where: Interval) -> Pipeline:
    """The same model whose guidance acts in `where`."""
    import dataclasses

    from sfumato.generation.pipeline import Pipeline

    defaults = dataclasses.replace(pipeline.loaded.defaults, guidance_interval=where)
    return Pipeline(dataclasses.replace(pipeline.loaded, defaults=defaults), pipeline.device)


def measure(
    pipeline: Pipeline, source: Source, num: int | None, seed: int, batch_size: int, distance: bool = True, **asked: Any
) -> dict[str, Any]:
    """One cell: what the protocol says, and seconds a picture."""
    from sfumato.cli.evaluate import default_cache, generator
    from sfumato.evaluation.protocol import Settings, evaluate
    from sfumato.generation.request import Draft

    draft = Draft(prompts=("",), seed=seed, batch_size=batch_size, **asked)
    make, seconds, count = generator(pipeline, draft), 0.0, 0

    def timed(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        nonlocal seconds, count
        start = time.perf_counter()
        made = make(prompts, seeds)  # on the CPU when it returns: nothing is left to wait for
        seconds, count = seconds + time.perf_counter() - start, count + len(made)
        return made

    settings = Settings(num=num, seed=seed, batch_size=batch_size, distance=distance)
    found = evaluate(
        pipeline.model.first_stage, source.sets, settings, timed, device=pipeline.device, cache=default_cache()
    ).report
    values = {key: [found[key].value, found[key].low, found[key].high] if key in found else None for key in KEYS}
    return {**values, "by_group": dict(found.groups), "seconds_a_picture": seconds / count, "pictures": count}


def row(asked: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """A cell's line of the table, intervals in brackets."""
    where = asked["interval"]
    settings = [
        asked["sampler"],
        asked["steps"],
        f"{asked['guidance']:g}",
        "" if where is None else f"{where[0]:g}-{where[1]:g}",
    ]
    values = []
    for key in KEYS:
        value = found[key]
        values.append("" if value is None else f"{value[0]:.3g} ({value[1]:.3g} ... {value[2]:.3g})")
    return [*map(str, settings), *values, f"{found['seconds_a_picture']:.3g}"]


def page(kept: dict[str, Any]) -> str:
    """All cells as Markdown, best retrieval first."""
    cells = sorted(kept["cells"].values(), key=lambda cell: -(cell["found"]["retrieval"] or [0])[0])
    about = ", ".join(f"{name}: {value}" for name, value in kept["about"].items())
    return f"{about}; {kept['machine']}\n\n{table(HEADER, [row(cell['asked'], cell['found']) for cell in cells])}\n"


def opened(out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What `out` holds, or nothing yet. Raises `InputError` when it is a sweep of something else."""
    from sfumato.errors import InputError
    from sfumato.io.files import read_table

    if not out.exists():
        return {"about": about, "machine": machine(), "cells": {}}
    kept = read_table(out)
    if kept.get("about") != about:
        raise InputError(f"out: {out} is a sweep of {kept.get('about')}, not of {about}; give another name.")
    return kept


def main(argv: list[str] | None = None) -> int:
    """Measure the cells that are missing; print and write each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--model", default="emoji", help="a shipped model or a model directory")
    add("--out", type=Path, required=True, help="FILE.json; the table goes beside it (.md)")
    add("--guidance", nargs="+", type=float, default=[1.5, 2.0, 3.0, 4.0, 6.0])
    add("--steps", nargs="+", type=int, default=[6, 10, 20])
    add("--samplers", nargs="+", help="default: the model's")
    add("--intervals", nargs="+", type=interval, help="none, or LOW-HIGH in t (default: the model's)")
    add("--num", type=int, help="pairs (default: all of the split)")
    add("--no-fd", action="store_true", help="leave the Frechet distance out, which takes 97 pairs")
    add("--split", choices=("validation", "test"), default="validation")
    add("--seed", type=int, default=0)
    add("--batch-size", type=int, default=64)
    add("--device", default="auto")
    args = parser.parse_args(argv)
    import sfumato
    from sfumato.cli.evaluate import read_source
    from sfumato.io.files import write_bytes, write_json

    pipeline = sfumato.load(args.model, args.device)
    source = read_source(pipeline, args.data, args.split, args.num, args.seed)
    about = {"model": pipeline.hash, "split": args.split, "pairs": source.sets.held.fingerprint[:10], "num": args.num or "all"}
    about |= {"seed": args.seed, "device": pipeline.device.type} | ({"frechet": "left out"} if args.no_fd else {})
    kept = opened(args.out, about)
    defaults = pipeline.loaded.defaults
    grid = itertools.product(
        args.samplers or [defaults.sampler], args.steps, args.guidance, args.intervals or [defaults.guidance_interval]
    )
    print(table(HEADER, []))
    for sampler, steps, guidance, where in grid:
        name = name_of(sampler, steps, guidance, where)
        if name not in kept["cells"]:
            settings = {"sampler": sampler, "steps": steps, "guidance": guidance}
            cell = with_interval(pipeline, where)
            found = measure(cell, source, args.num, args.seed, args.batch_size, not args.no_fd, **settings)
            kept["cells"][name] = {"asked": {**settings, "interval": where}, "found": found}
            write_json(args.out, kept)
            write_bytes(args.out.with_suffix(".md"), page(kept).encode())
        print(f"| {' | '.join(row(kept['cells'][name]['asked'], kept['cells'][name]['found']))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
