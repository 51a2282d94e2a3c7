"""What a person sees while training: a bar on a terminal, lines elsewhere; the same numbers as JSON lines and TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SMOOTHING = 0.98
MEASURED = ("held_out",)
"""Numbers that are no batch's: shown as they are."""
EVERY = 20.0
"""Seconds between the lines of `lines`."""


def lines() -> Callable[[str, int, int], None]:
    """Takes what is counted, how many are done, of how many: a line on stderr every 20 s, so that short work says nothing."""
    said = time.monotonic()

    def progress(what: str, done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            print(f"{what} {done}/{total}", file=sys.stderr, flush=True)

    return progress


class Reporter:
    """Collects the numbers of one stage. `quiet` shows nothing; files are written all the same."""

    def __init__(self, directory: Path, stage: str, tensorboard: Path | None = None, quiet: bool = False):
        self.directory, self.stage, self.quiet = directory, stage, quiet
        self.console = Console(stderr=True, quiet=quiet)
        self._live = self.console.is_terminal and not quiet
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._average: dict[str, float] = {}
        self._seen = 0
        self._clock: tuple[float, int] | None = None
        self._writer = _tensorboard(tensorboard / stage) if tensorboard is not None else None
        directory.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        """One line for the user, on standard error."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line about something that was survived."""
        self.say(f"warning: {text}")

    def step(self, stage: str, step: int, total: int, images: int, values: Mapping[str, float], log: bool) -> None:
        """Report step `step` of `total`, of `images` pictures."""
        self._seen += 1
        keep = min(SMOOTHING, 1 - 1 / self._seen)  # a plain mean of the first steps, so that a short run is not all start
        for key, value in values.items():
            share = 0.0 if key in MEASURED else keep
            self._average[key] = share * self._average.get(key, value) + (1 - share) * value
        if self._clock is None:
            self._clock = (time.monotonic(), step)
        if self._live:
            self._show_bar(stage, step, total, images)
        if log:
            self._log(stage, step, total, images, values)

    def _rate(self, step: int, images: int) -> float:
        assert self._clock is not None
        seconds = time.monotonic() - self._clock[0]
        return (step - self._clock[1]) * images / seconds if seconds > 0 else 0.0

    def _headline(self) -> str:
        shown = [k for k in self._average if "/" not in k][:4]
        return "  ".join(f"{k} {self._average[k]:.4g}" for k in shown)

    def _show_bar(self, stage: str, step: int, total: int, images: int) -> None:
        if self._progress is None:
            columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
            self._progress = Progress(*columns, TimeRemainingColumn(), console=self.console)
            self._bar = self._progress.add_task(stage, total=total, completed=step, note="")
            self._progress.start()
        assert self._bar is not None
        note = f"{self._rate(step, images):.0f} images/s  {self._headline()}"
        self._progress.update(self._bar, completed=step, note=note)

    def _log(self, stage: str, step: int, total: int, images: int, values: Mapping[str, float]) -> None:
        rate = self._rate(step, images)
        line: dict[str, Any] = {"stage": stage, "step": step, "images_per_second": round(rate, 1), **values}
        with open(self.directory / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._writer is not None:
            for key, value in values.items():
                self._writer.add_scalar(key, value, step)
            self._writer.add_scalar("images_per_second", rate, step)
        if not self._live and not self.quiet:
            left = (total - step) * images / rate if rate > 0 else float("nan")
            print(
                f"{stage} {step}/{total}  {rate:.0f} images/s  {self._headline()}  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def image(self, name: str, pixels: Any, step: int) -> None:
        """A uint8 (H, W, 3) array for TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """End the bar and flush the logs."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _tensorboard(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an optional extra: pip install sfumato[train]
        return None
    try:
        return SummaryWriter(str(directory))
    except UnicodeEncodeError:  # TensorBoard knows no file names but in UTF-8
        return None
