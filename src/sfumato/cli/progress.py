"""The progress bar of `sfumato generate`: pictures, steps, time left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from sfumato.generation.engine import Progress as Step


class StepBar:
    """A bar over all steps of all pictures, on stderr, gone when it ends."""

    def __init__(self, num_pictures: int):
        self.num_pictures = num_pictures
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        # stdout carries the paths, perhaps into a pipe: rich must not move them to its own console
        self.progress = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        self.task = self.progress.add_task("starting", total=None)

    def __enter__(self) -> StepBar:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def step(self, progress: Step) -> None:
        """Advance by one step of the pictures in work."""
        self.progress.start()
        last = progress.pictures[-1].index + 1
        text = f"picture {last}/{self.num_pictures}, step {progress.step}/{progress.num_steps}"
        total = self.num_pictures * progress.num_steps
        self.progress.update(self.task, description=text, total=total, advance=len(progress.pictures))

    def clear(self) -> None:
        """Take the bar off the terminal, so that a line can be printed there; the next step brings it back."""
        self.progress.stop()
