"""`sfumato explain ANALYSIS MODEL`: analyses that say why a model does what it does, one figure each.

They are in `sfumato.cli.analyses`, one file each.
"""

from __future__ import annotations

import argparse

from sfumato.cli.analyses import attention, denoise, forward, histogram, interpolate, loss, rate_distortion, traverse

HELP = "Analyses of a model, one figure each: rate and distortion, noise, steps, losses, latents, attention."
ANALYSES = {one.NAME: one for one in (rate_distortion, forward, denoise, loss, interpolate, traverse, histogram, attention)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The analyses and their options."""
    analyses = parser.add_subparsers(dest="analysis", required=True, metavar="ANALYSIS")
    for name, one in ANALYSES.items():
        one.add_arguments(analyses.add_parser(name, help=one.HELP))


def run(args: argparse.Namespace) -> int:
    """The analysis that was asked for."""
    return ANALYSES[args.analysis].run(args)
