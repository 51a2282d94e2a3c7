"""`sfumato evaluate MODEL --data DIR`: how good a model is on pictures it has never seen."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.caches import cache_folder
from sfumato.errors import InputError, unknown
from sfumato.generation.limits import LIMITS, number_from_text
from sfumato.generation.output import checked_file, checked_path
from sfumato.generation.request import BATCH_SIZE, Draft

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.evaluation.protocol import Generate, Progress
    from sfumato.evaluation.source import Source
    from sfumato.generation.pipeline import Pipeline
    from sfumato.generation.request import Request

HELP = "Measure a model on held-out pictures: reconstruction, Frechet and kernel distance, precision, recall, retrieval."
SPLITS = ("test", "validation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sfumato evaluate`. Numbers arrive as text; the limits read and refuse them, as at every front door."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a shipped model or a model directory")
    add("--data", required=True, metavar="DIR", help="the data set: a folder of pictures or a tar shard")
    add("--split", metavar="NAME", help="test or validation (default: test where there is one)")
    add("--num", metavar="N", help="pictures to generate (default: one for each held-out picture)")
    add("--steps", metavar="K", help="denoising steps (default: the model's)")
    add("--guidance", metavar="W", help="how strongly the prompt pulls; 1 is off (default: the model's)")
    add("--sampler", metavar="NAME", help="default: the model's")
    add("--seed", metavar="S", default="0", help="seed of the first picture; picture i has S + i (default: 0)")
    add("--batch-size", metavar="B", default=str(BATCH_SIZE), help=f"pictures at once (default: {BATCH_SIZE})")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--out", metavar="FILE.json", help="write the report as JSON, and as a table beside it (.md)")
    add("--overwrite", action="store_true", help="replace an existing report")
    add("--reconstruction-only", action="store_true", help="measure the first stage and generate nothing")
    add("--cache", metavar="DIR", help="where features of real pictures are kept (default: the user's cache folder)")
    add("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Check everything first, then load, measure, print the table and write the report."""
    draft, num = _draft(args), None if args.num is None else LIMITS.num(number_from_text(args.num))
    if args.split is not None and args.split not in SPLITS:
        raise unknown("split", args.split[:40], SPLITS)
    data = checked_path("data", args.data)
    if not data.exists():
        raise InputError(f"data: no such folder {args.data!r}; give a folder of pictures or a tar shard.")
    out = None if args.out is None else _out(args.out, args.overwrite)
    cache = checked_path("cache", args.cache) if args.cache is not None else default_cache()

    from sfumato.evaluation.report import write_report
    from sfumato.generation.pipeline import load

    pipeline = load(str(checked_path("model", args.model)), args.device)
    with progress_bar(args.quiet) as progress:
        report = measure(pipeline, data, draft, args.split, num, cache, progress, not args.reconstruction_only)
    print(report.to_markdown(), end="")
    if out is not None:
        for path in write_report(report, out):
            print(path)
    return 0


def _draft(args: argparse.Namespace) -> Draft:
    def number(name: str) -> Any:
        text = getattr(args, name)
        return None if text is None else number_from_text(text)

    return Draft(
        prompts=("",),
        seed=number("seed"),
        steps=number("steps"),
        guidance=number("guidance"),
        sampler=args.sampler,
        batch_size=number("batch_size"),
    )


def _out(text: str, overwrite: bool) -> Path:
    path = checked_file("out", text, {".json": "JSON"}, overwrite)
    checked_file("out", str(path.with_suffix(".md")), {".md": "Markdown"}, overwrite)
    return path


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/sfumato/features` or `~/.cache/sfumato/features`."""
    return cache_folder("features")


def measure(
    pipeline: Pipeline,
    data: Path,
    draft: Draft,
    split: str | None,
    num: int | None,
    cache: Path | None,
    progress: Progress | None,
    generate: bool = True,
) -> Any:
    """The report of a loaded model on a data set."""
    from sfumato.evaluation.protocol import Settings, evaluate

    request = pipeline.request(draft)
    source = read_source(pipeline, data, split, num, request.seed)
    settings = Settings(num=num, seed=request.seed, batch_size=request.batch_size)
    LIMITS.seed(request.seed, num or len(source.sets.held))
    found = evaluate(
        pipeline.model.encoder,
        source.sets,
        settings,
        generator(pipeline, draft) if generate else None,
        device=pipeline.device,
        cache=cache,
        about=about(pipeline, request, source, data),
        progress=progress,
    )
    return found.report


def read_source(pipeline: Pipeline, data: Path, split: str | None, num: int | None, seed: int) -> Source:
    """The data set in the shape and the words of the model."""
    from sfumato.conditioners.label import ClassLabel
    from sfumato.conditioners.none import Unconditional
    from sfumato.data.folder import Record
    from sfumato.evaluation.source import caption_of, read_sets

    model = pipeline.model

    def say(record: Record) -> str:
        if isinstance(model.conditioner, Unconditional):
            return ""
        return record.label or "" if isinstance(model.conditioner, ClassLabel) else caption_of(record)

    shape = (model.first_stage.channels, *model.image_size)
    return read_sets(data, shape, name=split, num=num, say=say, seed=seed)


def generator(pipeline: Pipeline, draft: Draft) -> Generate:
    """The model as the protocol wants it: prompts and consecutive seeds in, bytes of the model's own channels out."""
    import dataclasses

    import torch

    def generate(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        asked = dataclasses.replace(draft, prompts=tuple(prompts), seed=seeds[0])
        return torch.stack([made.pixels for made in pipeline.stream(pipeline.request(asked))])

    return generate


def about(pipeline: Pipeline, request: Request, source: Source, data: Path) -> dict[str, Any]:
    """What the manifest says of the model, the sampling and the data."""
    return {
        "model": {"name": pipeline.name, "weights_sha256_10": pipeline.hash},
        "sampling": {
            "sampler": request.sampler,
            "steps": request.steps,
            "guidance": request.guidance,
            "size": [request.height, request.width],
        },
        "dataset": {"folder": data.name, "split": source.split, "unreadable": source.unreadable},
    }


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress | None]:
    """A bar for each part on stderr, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False) as bars:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield progress
