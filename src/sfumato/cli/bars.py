"""Whether and how a run shows how far it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sfumato.generation.engine import Progress


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


@contextmanager
def part_bars(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """Takes what is counted, how many are done, of how many: a bar for each on stderr, or a line now and then where it is no
    terminal; None, which takes nothing, where `quiet`."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bars() as progress:
            yield progress
    else:
        from sfumato.training.progress import lines

        yield lines()


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
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
