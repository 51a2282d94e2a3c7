"""A polite stop: SIGINT, SIGTERM and SIGUSR1 let the step finish and the state be saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]


class Stopped(Exception):
    """A polite stop: everything is saved, call again to go on."""


class StopFlag:
    """True once a signal came, which `signalled` says, or the time is up.

    A second signal ends the process at once with 128 + its number.
    """

    def __init__(self, minutes: float | None = None):
        self.reason = ""
        self.signalled = False
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.reason:
            os._exit(128 + number)
        self.reason, self.signalled = signal.Signals(number).name, True

    def __bool__(self) -> bool:
        if not self.reason and self.deadline is not None and time.monotonic() >= self.deadline:
            self.reason = "the time given by --stop-after"
        return bool(self.reason)
