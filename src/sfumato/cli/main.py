"""`sfumato VERB ...`: finds the verb's module, reads its arguments, and turns what goes wrong into one line.

Exit codes: 0 done, 2 the user's input, 3 the machine (disk full, not writable, out of memory), 130 interrupted,
1 a mistake of ours. Only the chosen verb's module is imported, so that `sfumato --help` needs no PyTorch.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, cast

from sfumato.errors import InputError, SfumatoError, unknown

# verb -> module, one line of help
VERBS: dict[str, tuple[str, str]] = {
    "generate": ("sfumato.cli.generate", "make pictures from a prompt"),
    "edit": ("sfumato.cli.edit", "change a picture after a prompt"),
    "inpaint": ("sfumato.cli.inpaint", "make a part of a picture anew"),
    "upscale": ("sfumato.cli.upscale", "make a picture larger"),
    "paint": ("sfumato.cli.paint", "make a picture of a map of classes"),
    "compose": ("sfumato.cli.compose", "make a picture of labelled boxes"),
    "train": ("sfumato.cli.train", "train a latent diffusion model on a folder of pictures"),
    "data": ("sfumato.cli.data", "build a data set"),
    "evaluate": ("sfumato.cli.evaluate", "measure a model on held-out pictures"),
    "compare": ("sfumato.cli.compare", "train every family for the same time, and judge them on one page"),
    "study": ("sfumato.cli.study", "train many models and compare them: how much the first stage should compress"),
    "explain": ("sfumato.cli.explain", "say why a model does what it does, in figures"),
    "convert": ("sfumato.cli.convert", "write a model again in another form or precision"),
    "inspect": ("sfumato.cli.inspect", "say what a checkpoint, a LoRA or a model directory is"),
    "info": ("sfumato.cli.info", "list the models that ship, or describe one"),
}

_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE}

# PyTorch's own error and the RuntimeErrors of its CPU and MPS allocators, told without importing it
_OUT_OF_MEMORY = re.compile(r"^OutOfMemoryError|^RuntimeError .*(out of memory|can't allocate memory)", re.DOTALL)
LONGEST = 2000  # characters of a message


class Verb(Protocol):
    """What the module of a verb offers. `run` returns the exit code."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `InputError`s, in one line, with the nearest option."""

    def __init__(self, **kwargs: Any):
        super().__init__(**{"allow_abbrev": False} | kwargs)  # also in nested verbs, whose parsers argparse makes itself

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{' '.join(message.split())}; see `{self.prog} --help`.")

    def options(self) -> list[str]:
        """All option names of the parser."""
        return [name for action in self._actions for name in action.option_strings]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code and never raises for what users and machines do."""
    _open_closed_streams()
    try:
        _clean_up_on_termination()
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse after --help
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return _say("stopped.", 130)
    except Terminated:
        return _say("terminated.", 143)
    except BrokenPipeError:  # the reader of a pipe left, as `| head` does; a second flush at exit must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("SFUMATO_DEBUG"):
            raise
        return _explain(error)


class Terminated(BaseException):
    """SIGTERM came: what is half-written is removed on the way out. Training has its own, gentler answer."""


def _clean_up_on_termination() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> NoReturn:
    raise Terminated


def _open_closed_streams() -> None:
    """Streams closed by the caller (`>&-`) are None in Python, and print then goes elsewhere: let them lead nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # lives as long as the process


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] in ("--version", "-V"):
        import sfumato

        print(f"sfumato {sfumato.__version__}")
        return 0
    name, *rest = argv
    if name not in VERBS:
        raise unknown("verb", name[:40], VERBS)
    verb = cast(Verb, importlib.import_module(VERBS[name][0]))
    parser = Parser(prog=f"sfumato {name}", description=verb.HELP)
    verb.add_arguments(parser)
    return verb.run(parse(parser, rest))


def parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """Parse `argv`, options and positional arguments in any order. Raises `InputError` for what is left over."""
    try:
        # argparse cannot mix orders after a bare "--" (Python 3.11), nor where a parser has verbs of its own (TypeError)
        args, extra = (parser.parse_known_args if "--" in argv else parser.parse_known_intermixed_args)(argv)
    except TypeError:
        args, extra = parser.parse_known_args(argv)
    if extra:
        first = extra[0].partition("=")[0]
        near = difflib.get_close_matches(first, parser.options(), n=1, cutoff=0.5) if first.startswith("-") else []
        hint = f"did you mean {near[0]}?" if near else f"see `{parser.prog} --help`."
        raise InputError(f"unknown argument {extra[0][:40]!r}: {hint}")
    return args


def usage() -> str:
    """The text of `sfumato --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:{width}}  {line}" for name, (_, line) in VERBS.items())
    return (
        "usage: sfumato VERB ... | --version | --help\n\nLatent diffusion: train both stages on your own pictures, "
        f"generate from a prompt.\n\n{verbs}\n\n`sfumato VERB --help` lists a verb's options."
    )


def _explain(error: Exception) -> int:
    if isinstance(error, SfumatoError):
        return _say(str(error), error.exit_code)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(f"{type(error).__name__} {error}"):
        return _say("out of memory; try a smaller batch or size, or another device.", 3)
    if isinstance(error, OSError) and error.errno in _MACHINE:
        where = f" {error.filename!r}" if error.filename else ""
        return _say(f"the system refused{where}: {error.strerror}; free space or choose another place.", 3)
    hint = "This is a mistake in sfumato; set SFUMATO_DEBUG=1 for the details and please report them."
    return _say(f"{type(error).__name__}: {error}. {hint}", 1)


def _say(message: str, code: int) -> int:
    """One line on stderr; control characters that a message may have picked up are shown escaped."""
    line = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(message[:LONGEST].split()))
    with contextlib.suppress(OSError, ValueError):  # perhaps nobody listens
        print(f"sfumato: {line}", file=sys.stderr)
    return code
