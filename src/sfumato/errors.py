"""What can go wrong that is not our fault, said in one line.

`InputError` is for what a user can get wrong (exit code 2), `MachineError` for what the machine refuses
(exit code 3: disk full, not writable, out of memory). The message says what was given, what was expected
and what to do; the command line prints it as it is and never shows a traceback for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_SHOWN = 12


class SfumatoError(Exception):
    """Base of all errors that the command line turns into one line."""

    exit_code = 2


class InputError(SfumatoError, ValueError):
    """The user's input is wrong: a value, a file, a field."""

    exit_code = 2


class MachineError(SfumatoError, RuntimeError):
    """The machine refuses: disk full, no permission, out of memory."""

    exit_code = 3


def unknown(what: str, given: str, options: Iterable[str], otherwise: str = "") -> InputError:
    """An `InputError` for an unknown name, with the nearest known one.

    Example: `unknown("sampler", "dimm", ["ddim", "euler"])` reads
    "unknown sampler 'dimm': did you mean 'ddim'? Known: ddim, euler." Of many options the nearest are shown.
    `otherwise` says what else would do, after the names.
    """
    known = sorted(options)
    near = difflib.get_close_matches(given, known, n=MOST_SHOWN, cutoff=0.5)
    hint = f": did you mean '{near[0]}'?" if near else "."
    also = f", {otherwise}" if otherwise else ""
    if len(known) <= MOST_SHOWN:
        return InputError(f"unknown {what} {given!r}{hint} Known: {', '.join(known)}{also}.")
    shown = near if len(near) > 1 else known[:MOST_SHOWN]
    return InputError(f"unknown {what} {given!r}{hint} Among the {len(known)} known: {', '.join(shown)}{also}.")
