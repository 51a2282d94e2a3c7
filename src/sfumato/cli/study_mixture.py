"""`sfumato study mixture --out DIR [--page FILE]`: every family on eight Gaussians of the plane, trained in seconds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, number_from_text, real
from sfumato.generation.output import checked_file, checked_path

if TYPE_CHECKING:
    from sfumato.studies.mixture.outcome import Outcome, Study

HELP = "every family on the eight-mode mixture, and the taxonomy page"
LONGEST = 3600.0  # seconds of one family


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add = parser.add_argument
    add("--out", metavar="DIR", help="a new folder for mixture.json and a picture of each family's points")
    add("--results", metavar="DIR", help="read an earlier --out instead of training")
    add("--page", metavar="FILE", help="write the taxonomy page, an .html file, from the results")
    add("--compare", metavar="OUT", help="with --page: show samples and numbers of a `sfumato compare` beside the formulas")
    add("--families", metavar="NAMES", default="", help="some of them, as gan,flow (default: all)")
    add("--seed", metavar="S", default="0", help="of weights, batches and samples (default: 0)")
    add("--seconds", metavar="T", help="train each family for T seconds of processor time (default: for its number of steps)")
    add("--overwrite", action="store_true", help="replace files that exist")


def run(args: argparse.Namespace) -> int:
    """Check everything first, then train or read, print and write."""
    if (args.out is None) == (args.results is None):
        raise InputError("study mixture: give --out DIR to train, or --results DIR to read an earlier one, and not both.")
    if args.results is not None and args.page is None:
        raise InputError("study mixture: --results only makes a page; give --page FILE too.")
    if args.compare is not None and args.page is None:
        raise InputError("study mixture: --compare is for the page; give --page FILE too.")
    seed = LIMITS.seed(number_from_text(args.seed))
    seconds = None if args.seconds is None else real("seconds", number_from_text(args.seconds), 0.0, LONGEST)
    page = None if args.page is None else checked_file("page", args.page, {".html": "HTML"}, args.overwrite)
    directory = checked_path("results" if args.out is None else "out", args.results or args.out)
    if args.out is not None and directory.exists() and not args.overwrite:
        raise InputError(f"out: {directory} exists; give another folder, or --overwrite to replace its files.")
    pictures = None
    if args.compare is not None:
        from sfumato.studies.taxonomy.pictures import read_pictures

        pictures = read_pictures(checked_path("compare", args.compare))
    found = _read(directory) if args.out is None else _train(directory, seed, seconds, args.families)
    if page is not None:
        from sfumato.io.files import write_bytes
        from sfumato.studies.taxonomy.page import page as text

        write_bytes(page, text(found, pictures).encode())
        print(page)
    return 0


def _read(directory: Path) -> Study:
    from sfumato.studies.mixture.outcome import load

    return load(directory)


def _train(directory: Path, seed: int, seconds: float | None, names: str) -> Study:
    from sfumato.io.files import write_bytes
    from sfumato.studies.mixture.density import Mixture
    from sfumato.studies.mixture.outcome import save
    from sfumato.studies.mixture.run import families, study
    from sfumato.studies.mixture.scatter import scatter, standalone

    chosen = [name.strip() for name in names.split(",") if name.strip()]
    families(chosen)
    mixture = Mixture()
    print(f"entropy of the data {mixture.entropy:.4f} nats: no model's log p(x) is above {-mixture.entropy:.4f} on average")
    print(HEADER, flush=True)
    found = study(mixture, seed, seconds, chosen, lambda outcome: print(row(outcome), flush=True))
    print(save(found, directory))
    for one in found.outcomes:
        if one.points:
            picture = standalone(scatter(one.points, mixture, one.title))
            write_bytes(directory / f"{one.name}.svg", picture.encode())
    return found


HEADER = "family           modes   near      log p(x), nats above data  steps  train s  1000 s"


def row(outcome: Outcome) -> str:
    """One line of the table. `above data`: KL(data || model), or the bound on it."""
    if outcome.modes is None:
        return f"{outcome.title:16}  {outcome.failed}, after {outcome.steps} steps; its curve is in mixture.json"
    score, sign = outcome.score, ">= " if outcome.evidence == "bound" else ""
    said = "implicit" if score is None else f"{sign}{score.log_prob:.3f} +- {score.log_prob_error:.3f}"
    above = "" if score is None else f"{score.excess:.3f}"
    return (
        f"{outcome.title:16}{outcome.modes.found:6}{outcome.modes.near:7.3f}  {said:>18}{above:>11}{outcome.steps:7}"
        f"{outcome.train_seconds:9.1f}{outcome.sample_seconds:8.3f}"
    )
