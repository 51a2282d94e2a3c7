"""A checked command line of the verbs that make pictures: what to make with which model, and where it goes. No PyTorch."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfumato.cli.loras import Scale, lora_from_text
from sfumato.errors import InputError, unknown
from sfumato.generation.film import FILM_FORMATS, check_count
from sfumato.generation.limits import DTYPE_NAMES, WHITE, guidance_from_text, number_from_text, shorten, size_from_text
from sfumato.generation.metadata import Parameters, read_parameters
from sfumato.generation.output import SHEET_FORMATS, Destination, checked_file, checked_path, destination
from sfumato.generation.request import Draft

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Plan:
    """A checked command line: what to make with which model, and where it goes."""

    draft: Draft
    model: str | None
    card: str | None
    weights: str
    vocabulary: Path | None
    loras: tuple[tuple[Path, Scale], ...]
    verify: bool
    source: Parameters | None
    device: str
    dtype: str
    out: Destination
    grid: Path | None
    film: Path | None
    overwrite: bool
    quiet: bool


def plan(args: argparse.Namespace) -> Plan:
    """Read and check the flags; a verb may lack some of them. Raises `InputError`."""
    given = getattr(args, "source", None)
    source = None if given is None else read_parameters(given)
    draft = _draft(args, source)
    grid = None if args.grid is None else checked_file("grid", args.grid, SHEET_FORMATS, args.overwrite)
    movie = getattr(args, "film", None)
    film = None if movie is None else checked_file("film", movie, FILM_FORMATS, args.overwrite)
    out = destination(args.out, args.overwrite)
    _check_different(draft, out, grid, film)
    if film is not None:
        check_count(max(len(draft.prompts), 1) * draft.num)
    if args.device.partition(":")[0] not in DEVICES:
        raise InputError(f"device: got {shorten(args.device)}, expected one of {', '.join(DEVICES)}.")
    if args.dtype not in DTYPE_NAMES:
        raise unknown("dtype", args.dtype[:40], DTYPE_NAMES)
    return Plan(
        draft=draft,
        model=None if args.model is None else str(checked_path("model", args.model)),
        card=args.card,
        weights=args.weights,
        vocabulary=None if args.vocabulary is None else checked_path("vocabulary", args.vocabulary),
        loras=tuple(lora_from_text(text) for text in args.lora),
        verify=args.verify,
        source=source,
        device=args.device,
        dtype=args.dtype,
        out=out,
        grid=grid,
        film=film,
        overwrite=args.overwrite,
        quiet=args.quiet,
    )


def task_plan(args: argparse.Namespace, task: str, given: str) -> Plan:
    """The plan of a task whose input is the file `given`; without --out, files are named after both."""
    checked = plan(args)
    return replace(checked, out=replace(checked.out, label=f"{Path(given).stem} {task}"))


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

    def text(name: str) -> Any:
        return getattr(args, name, None)

    def number(name: str) -> Any:
        return number_from_text(text(name)) if text(name) is not None else getattr(source, name, None)

    guidance: Any = getattr(source, "guidance", None) if args.guidance is None else guidance_from_text(args.guidance)
    height, width = (None, None) if source is None else (source.height, source.width)
    if text("size") is not None:
        height, width = size_from_text(text("size"))
    prompts = tuple(text("prompts") or ())
    if not prompts and source is not None:
        prompts = (source.prompt,)
    return Draft(
        prompts=prompts,
        negative=args.negative if args.negative is not None else getattr(source, "negative", None),
        num=number("num"),
        seed=number("seed"),
        steps=number("steps"),
        guidance=guidance,
        sampler=args.sampler if args.sampler is not None else getattr(source, "sampler", None),
        height=height,
        width=width,
        batch_size=number("batch_size"),
        background=text("background") if text("background") is not None else getattr(source, "background", WHITE),
        temperature=number("temperature"),
        top_k=number("top_k"),
        top_p=number("top_p"),
    )
