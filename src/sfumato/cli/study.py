"""`sfumato study STUDY`: runs of runs, which compare models with each other."""

from __future__ import annotations

import argparse

from sfumato.cli import study_compression

HELP = "Runs of runs: how much the first stage should compress."
STUDIES = {"compression": study_compression}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The studies and their options."""
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    for name, one in STUDIES.items():
        one.add_arguments(studies.add_parser(name, help=one.HELP))


def run(args: argparse.Namespace) -> int:
    """The study that was asked for."""
    return STUDIES[args.study].run(args)
