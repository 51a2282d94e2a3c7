"""`sfumato data emoji DIR`, `sfumato data scenes DIR`, `sfumato data audit DIR`, `sfumato data pack DIR FILE`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sfumato.errors import InputError

HELP = "build the emoji data set or scenes of emoji, look over a folder of pictures, or pack one into a shard"

_STYLES = ("noto", "twemoji", "openmoji", "fluent-3d", "fluent-flat")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The four actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    emoji = actions.add_parser("emoji", help="build the data set of the default model from npm packages (needs npm)")
    emoji.add_argument("directory", type=Path, help="folder to write")
    emoji.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
    emoji.add_argument("--styles", nargs="+", default=list(_STYLES), metavar="STYLE", help=f"of {', '.join(_STYLES)}")
    emoji.add_argument("--background", default="transparent", help="transparent (RGBA, the default) or white (RGB)")
    emoji.add_argument("--cache", type=Path, help="folder for npm tarballs (default ~/.cache/sfumato/npm)")
    emoji.add_argument("--workers", type=int, help="processes that render (default: one a core)")
    emoji.add_argument("--pairs", type=int, default=500, help="pictures a style of two emoji together (default 500)")

    _add_scenes(actions.add_parser("scenes", help="draw scenes of several emoji with boxes, maps and captions"))

    audit = actions.add_parser("audit", help="count pictures, sizes, duplicates and unreadable files")
    audit.add_argument("directory", type=Path, help="folder of pictures, or a .tar shard")
    audit.add_argument("--max-bad", type=float, default=0.01, help="share of unreadable files to accept (default 0.01)")
    audit.add_argument("--bad-files", type=Path, default=Path("bad_files.jsonl"), help="where unreadable files are listed")

    pack = actions.add_parser("pack", help="write a folder's pictures and captions into one .tar shard of WebP")
    pack.add_argument("directory", type=Path, help="folder of pictures")
    pack.add_argument("file", type=Path, help="the .tar to write")
    pack.add_argument("--size", type=int, help="side to resize to (default: as they are)")
    pack.add_argument("--format", default="webp", help="webp, or bmp (raw, for a compressor over the whole archive)")
    pack.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    pack.add_argument("--quality", type=int, help="lossy WebP quality 1 to 100 (default: lossless)")


def _add_scenes(scenes: argparse.ArgumentParser) -> None:
    scenes.add_argument("directory", type=Path, help="folder to write")
    scenes.add_argument("--count", type=int, default=20_000, help="training scenes (default 20000)")
    scenes.add_argument("--test-count", type=int, default=1000, help="scenes of held-out emoji alone (default 1000)")
    scenes.add_argument("--validation-count", type=int, default=500, help="scenes of validation emoji alone (default 500)")
    scenes.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
    scenes.add_argument("--seed", type=int, default=0, help="the same seed gives the same scenes (default 0)")
    scenes.add_argument("--max-objects", type=int, default=4, help="most emoji in a scene, 1 to 8 (default 4)")
    scenes.add_argument(
        "--sources", type=Path, help="folder of `sfumato data emoji`, or a .tar of it (default: build it once; needs npm)"
    )
    scenes.add_argument("--sprites", type=Path, metavar="FILE", help="also write the emoji used as a .tar for --sources")
    scenes.add_argument("--cache", type=Path, help="folder for npm tarballs and emoji (default ~/.cache/sfumato/npm)")
    scenes.add_argument("--workers", type=int, help="processes that draw (default: one a core)")


def run(args: argparse.Namespace) -> int:
    """Carry out one action; returns the exit code."""
    return {"emoji": _emoji, "scenes": _scenes, "audit": _audit, "pack": _pack}[args.action](args)


def _emoji(args: argparse.Namespace) -> int:
    from sfumato.data.emoji import build_emoji

    with _bar() as step:
        report = build_emoji(
            args.directory, args.size, args.styles, args.background, args.cache, args.workers, step, args.pairs
        )
    for style in args.styles:
        parts = [f"{split} {n:,}" for (name, split), n in sorted(report.counts.items()) if name == style]
        print(f"{style}: {', '.join(parts)}")
    for name, reason in sorted(report.failed.items()):
        print(f"left out {name}: {reason}")
    print(f"{report.total:,} pictures, {report.num_bytes / 1e6:.1f} MB, in {report.directory}")
    return 0


def _scenes(args: argparse.Namespace) -> int:
    from sfumato.data.scenes import build_scenes

    with _bar() as step:
        report = build_scenes(
            args.directory,
            count=args.count,
            test_count=args.test_count,
            validation_count=args.validation_count,
            size=args.size,
            seed=args.seed,
            max_objects=args.max_objects,
            sources=args.sources,
            sprites=args.sprites,
            cache=args.cache,
            workers=args.workers,
            progress=step,
        )
    for split, count in report.counts.items():
        print(f"{split}: {count:,} scenes of {report.drawings[split]:,} emoji pictures")
    print(f"{report.num_things:,} emoji placed, {report.num_bytes / 1e6:.1f} MB, in {report.directory}")
    if args.sprites is not None:
        print(f"{args.sprites}: {report.sprites_bytes / 1e6:.1f} MB")
    return 0


def _audit(args: argparse.Namespace) -> int:
    from sfumato.data.audit import audit

    with _bar() as step:
        report = audit(args.directory, args.bad_files, args.max_bad, progress=lambda done, total: step("looking", done, total))
    print("\n".join(report.lines()))
    if report.bad:
        print(f"the unreadable files are listed in {args.bad_files}")
    return 0


def _pack(args: argparse.Namespace) -> int:
    from sfumato.data.shards import pack

    if args.file.is_file() and not args.overwrite:
        raise InputError(f"{args.file} exists; choose another name, or add --overwrite.")
    with _bar() as step:
        num_bytes = pack(
            args.directory, args.file, args.size, args.quality, args.format, progress=lambda d, t: step("packing", d, t)
        )
    print(f"{args.file}: {num_bytes / 1e6:.1f} MB")
    return 0


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr where that is a terminal, gone when it ends; call it with (stage, done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    quiet = not console.is_terminal  # elsewhere a bar would leave an empty line before an error's one line
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=quiet) as progress:
        task = progress.add_task("starting", total=None)

        def step(stage: str, done: int, total: int) -> None:
            progress.update(task, description=stage, completed=done, total=total)

        yield step
