"""A disk that fails, or a process that dies, at the k-th operation of `sfumato.io.files`."""

from __future__ import annotations

import builtins
import errno
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from sfumato.io import files


class Disk:
    """Counts opens, writes, fsyncs and renames of `sfumato.io.files`; the one numbered `at` (from 1) meets `fault`.

    A write that meets a fault has half of its bytes on the disk already.
    """

    def __init__(self, at: int, fault: Callable[[], None]):
        self.at, self.fault, self.count = at, fault, 0

    def touch(self) -> bool:
        """Count one operation; True when it is the one."""
        self.count += 1
        return self.count == self.at

    def install(self, patch: pytest.MonkeyPatch) -> Disk:
        """Come between `sfumato.io.files` and the system until `patch` is undone."""
        for name in ("fsync", "replace", "rename"):
            patch.setattr(os, name, self._wrap(getattr(os, name)))
        patch.setattr(files, "open", self._open, raising=False)
        return self

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.touch():
                self.fault()
            return function(*args, **kwargs)

        return call

    def _open(self, path: Any, mode: str = "r", **kwargs: Any) -> Any:
        if "w" not in mode:
            return builtins.open(path, mode, **kwargs)
        if self.touch():
            self.fault()
        return _File(builtins.open(path, mode, **kwargs), self)  # closed by whoever opened it


class _File:
    def __init__(self, file: Any, disk: Disk):
        self.file, self.disk = file, disk

    def write(self, data: bytes) -> int:
        if self.disk.touch():
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            self.disk.fault()
        return self.file.write(data)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def refuse(number: int = errno.ENOSPC) -> Callable[[], None]:
    """A fault: the system answers with this error."""

    def fault() -> None:
        raise OSError(number, os.strerror(number))

    return fault


def die() -> None:
    """A fault: SIGKILL, now."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
