"""`sfumato generate PROMPT...`: pictures from a prompt, written as PNG files whose paths are printed."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sfumato.cli.loras import lora_from_text
from sfumato.errors import InputError
from sfumato.generation.film import FILM_FORMATS, check_count
from sfumato.generation.limits import SAMPLER_NAMES, WHITE, guidance_from_text, number_from_text, shorten, size_from_text
from sfumato.generation.metadata import Parameters, read_parameters
from sfumato.generation.output import SHEET_FORMATS, Destination, checked_file, checked_path, destination
from sfumato.generation.request import BATCH_SIZE, Draft
from sfumato.generation.sheet import columns_of, make_sheet, save_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

    from sfumato.generation.engine import Progress
    from sfumato.generation.pipeline import Pipeline

HELP = "Make pictures from a prompt and print their paths."
DEFAULT_MODEL = "emoji"
DEVICES = ("auto", "cpu", "cuda", "mps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sfumato generate`. Numbers arrive as text; the limits read and refuse them, as at every front door."""
    add = parser.add_argument
    add("prompts", nargs="*", metavar="PROMPT", help="what to show; several prompts make several pictures")
    add(
        "--model",
        metavar="NAME|PATH",
        help=f"a shipped model, a directory, a checkpoint or owner/name on the hub (default: {DEFAULT_MODEL})",
    )
    add("--card", metavar="NAME", help="which published model a checkpoint is, where the file leaves that open")
    add(
        "--weights",
        metavar="KIND",
        default="ema",
        help="of a checkpoint: ema (averages where there are any) or raw (default: ema)",
    )
    add("--lora", metavar="FILE[:SCALE]", action="append", default=[], help="add a LoRA to a checkpoint (again for another)")
    add("--vocabulary", metavar="FILE", help="BERT's vocab.txt, for the checkpoints that read words with it")
    add("--num", metavar="N", default="1", help="pictures of each prompt (default: 1)")
    add("--seed", metavar="S", help="seed of the first picture; picture i has S + i (default: by chance)")
    add("--steps", metavar="K", help="denoising steps (default: the model's)")
    add("--guidance", metavar="W", help="how strongly the prompt pulls; 1 is off; by part: text=3,map=1.5")
    add("--negative", metavar="TEXT", help="what to stay away from")
    add("--sampler", metavar="NAME", help=f"{', '.join(SAMPLER_NAMES)} (default: the model's)")
    add("--size", metavar="HxW", help="height x width in pixels (default: the model's)")
    add("--background", metavar="COLOR", help="white, transparent, a colour's name or #rrggbb (default: white)")
    add("--batch-size", metavar="B", default=str(BATCH_SIZE), help=f"pictures at once on a GPU (default: {BATCH_SIZE})")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--out", metavar="FILE|DIR", help="a PNG file or a directory (default: here, named after prompt and seed)")
    add("--grid", metavar="FILE", help="also write all pictures on one sheet (png, jpg, webp; jpg is never transparent)")
    add("--film", metavar="FILE", help="also write an animation of the denoising (gif, webp, png; gif is never transparent)")
    add("--from", metavar="PICTURE", dest="source", help="make the picture of this PNG again; other flags change it")
    add("--overwrite", action="store_true", help="replace existing files")
    add("--quiet", action="store_true", help="no progress bar")


@dataclass(frozen=True)
class Plan:
    """A checked command line: what to make with which model, and where it goes."""

    draft: Draft
    model: str | None
    card: str | None
    weights: str
    vocabulary: Path | None
    loras: tuple[tuple[Path, float], ...]
    source: Parameters | None
    device: str
    out: Destination
    grid: Path | None
    film: Path | None
    overwrite: bool
    quiet: bool


def run(args: argparse.Namespace) -> int:
    """Check everything first, then load PyTorch and the model, then make the pictures one by one."""
    make(plan(args))
    return 0


def plan(args: argparse.Namespace) -> Plan:
    """Read and check the flags. Raises `InputError`; needs no PyTorch."""
    source = None if args.source is None else read_parameters(args.source)
    draft = _draft(args, source)
    grid = None if args.grid is None else checked_file("grid", args.grid, SHEET_FORMATS, args.overwrite)
    film = None if args.film is None else checked_file("film", args.film, FILM_FORMATS, args.overwrite)
    out = destination(args.out, args.overwrite)
    _check_different(draft, out, grid, film)
    if args.film is not None:
        check_count(max(len(draft.prompts), 1) * draft.num)
    if args.device.partition(":")[0] not in DEVICES:
        raise InputError(f"device: got {shorten(args.device)}, expected one of {', '.join(DEVICES)}.")
    return Plan(
        draft=draft,
        model=None if args.model is None else str(checked_path("model", args.model)),
        card=args.card,
        weights=args.weights,
        vocabulary=None if args.vocabulary is None else checked_path("vocabulary", args.vocabulary),
        loras=tuple(lora_from_text(text) for text in args.lora),
        source=source,
        device=args.device,
        out=out,
        grid=grid,
        film=film,
        overwrite=args.overwrite,
        quiet=args.quiet,
    )


def _check_different(draft: Draft, out: Destination, grid: Path | None, film: Path | None) -> None:
    """Raise `InputError` when two outputs would have one name."""
    count = max(len(draft.prompts), 1) * draft.num
    picture = out.directory / f"{out.stem}.png" if out.stem is not None and count == 1 else None
    named = [(name, path) for name, path in (("out", picture), ("grid", grid), ("film", film)) if path is not None]
    for (first, path), (second, other) in itertools.combinations(named, 2):
        if path == other:
            raise InputError(f"{first} and {second}: both are {shorten(str(path))}; give them different names.")


def _draft(args: argparse.Namespace, source: Parameters | None) -> Draft:
    """The flags, over the parameters of the picture that `--from` names."""

    def number(name: str) -> Any:
        text = getattr(args, name)
        return number_from_text(text) if text is not None else getattr(source, name, None)

    height, width = (None, None) if source is None else (source.height, source.width)
    if args.size is not None:
        height, width = size_from_text(args.size)
    guidance = getattr(source, "guidance", None) if args.guidance is None else guidance_from_text(args.guidance)
    prompts = tuple(args.prompts)
    if not prompts and source is not None:
        prompts = (source.prompt,)
    return Draft(
        prompts=prompts,
        negative=args.negative if args.negative is not None else getattr(source, "negative", None),
        num=number("num"),
        seed=number("seed"),
        steps=number("steps"),
        guidance=guidance,  # type: ignore[arg-type]  # what is no number is refused by Draft
        sampler=args.sampler if args.sampler is not None else getattr(source, "sampler", None),
        height=height,
        width=width,
        batch_size=number("batch_size"),
        background=args.background if args.background is not None else getattr(source, "background", WHITE),
    )


def make(plan: Plan) -> None:
    """Load the model, make the pictures, write each as soon as it is done and print its path."""
    from sfumato.generation.film import Film
    from sfumato.generation.pipeline import load

    pipeline = load(
        _model(plan), plan.device, card=plan.card, weights=plan.weights, vocabulary=plan.vocabulary, loras=plan.loras
    )
    request = pipeline.request(plan.draft)
    _warn_if_another(pipeline, plan.source)
    pictures = request.pictures()
    columns = columns_of(len(request.prompts), request.num)
    film = None if plan.film is None else Film(len(pictures), columns)
    kept: list[Image] = []
    with progress_bar(len(pictures), plan.quiet) as bar:

        def on_step(progress: Progress) -> None:
            bar.step(progress)
            if film is not None:
                film.add(progress)

        for made in pipeline.stream(request, on_step):
            bar.clear()
            print(plan.out.save(made.image, made.picture, len(pictures)), flush=True)
            if film is not None:
                film.finish(made.picture.index, made.image)
            if plan.grid is not None:
                kept.append(made.image)
    if plan.grid is not None:
        print(save_sheet(make_sheet(kept, columns), plan.grid, overwrite=plan.overwrite))
    if film is not None and plan.film is not None:
        print(film.save(plan.film, overwrite=plan.overwrite))


def _model(plan: Plan) -> str:
    """The model to load. A picture may name a shipped model only: its text must not choose what is read from the disk."""
    from sfumato.io.pretrained import shipped_models

    if plan.model is not None or plan.source is None or plan.source.model is None:
        return plan.model or DEFAULT_MODEL
    if plan.source.model not in shipped_models():
        raise InputError(
            f"the picture's model {shorten(plan.source.model)} does not ship here; name its directory with --model."
        )
    return plan.source.model


def _warn_if_another(pipeline: Pipeline, source: Parameters | None) -> None:
    if source is not None and source.model_hash not in (None, pipeline.hash):
        given = f"model {shorten(source.model_hash)}, this is {pipeline.hash}"
        print(f"sfumato: the picture was made by other weights ({given}); the result will differ.", file=sys.stderr)


class Bar(Protocol):
    """Shows how far a run is."""

    def step(self, progress: Progress) -> None: ...
    def clear(self) -> None: ...


class NoBar:
    """Shows nothing."""

    def step(self, progress: Progress) -> None:
        """Say nothing."""

    def clear(self) -> None:
        """Nothing to clear."""


@contextmanager
def progress_bar(num_pictures: int, quiet: bool) -> Iterator[Bar]:
    """A bar with steps and time left on stderr, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield NoBar()
        return
    from sfumato.cli.progress import StepBar

    with StepBar(num_pictures) as bar:
        yield bar
