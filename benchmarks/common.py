"""What the benchmarks share: the machine in a line, tables, fresh processes. No PyTorch: processes are timed from here."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine() -> str:
    """Processor, cores that this process may use, Python, PyTorch, and what else keeps the machine busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "as many")
    return (
        f"{_processor()}, {cores} cores, threads {threads}, {platform.system()}, Python {platform.python_version()}, "
        f"torch {version('torch')}, load average {load():.2f}"
    )


def load() -> float:
    """Processes that wanted to run during the last minute; NaN where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write(path: Path | None, data: dict[str, Any]) -> None:
    """`data` as JSON, where a path was given."""
    if path is not None:
        path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def until_line(command: Sequence[str], line: str) -> float:
    """Seconds from the start of a fresh Python with these arguments until it prints `line`; its end is not timed."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None, "a pipe was asked for"
        seen = next((time.perf_counter() for found in process.stdout if found.strip() == line), None)
        process.stdout.read()
    if seen is None or process.returncode:
        raise SystemExit(f"{' '.join(command)!r} ended with code {process.returncode} before it said {line!r}.")
    return seen - start


def until_end(command: Sequence[str]) -> float:
    """Seconds from the start of a fresh Python with these arguments to its end."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)!r} ended with code {done.returncode}.")
    return seconds


def repeated(measure: Callable[[], float], repeats: int) -> list[float]:
    """`repeats` measurements after one that does not count (it fills the system's file cache)."""
    measure()
    return [measure() for _ in range(repeats)]
