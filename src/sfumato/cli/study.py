"""`sfumato study mixture --out DIR`: runs of runs, which compare models with each other."""

from __future__ import annotations

import argparse

from sfumato.cli import study_mixture

HELP = "Runs of runs: every family on the eight-mode mixture."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The studies and their options."""
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    study_mixture.add_arguments(studies.add_parser("mixture", help=study_mixture.HELP))


def run(args: argparse.Namespace) -> int:
    """The study that was asked for."""
    return study_mixture.run(args)
