"""Whether and how a run shows how far it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

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
