"""What a run's folder says of its training: seconds, steps, operations by its budget's clock, and its losses' curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sfumato.errors import InputError
from sfumato.io.files import read_table
from sfumato.studies.results import Curve, Trained
from sfumato.training.config import RunConfig
from sfumato.training.loop import CLOCK
from sfumato.training.operations import as_typed

STAGES = ("first_stage", "prior")
MOST_POINTS = 120


def stages(folder: Path, config: RunConfig) -> dict[str, Trained]:
    """Each stage that was trained."""
    found = {}
    for name, train in zip(STAGES, (config.first_stage.train, config.prior.train), strict=True):
        path = folder / name / CLOCK
        if path.is_file():
            clock, done = read_table(path), folder / name / "done.json"
            steps = read_table(done)["results"].get("steps", 0) if done.is_file() else clock["steps"]
            seconds = float(clock["seconds"])
            rate = clock["steps"] * train.batch_size / seconds if seconds > 0 else 0.0
            found[name] = Trained(int(steps), seconds, rate, float(clock.get("flops", 0.0)))
    return found


def check_budget(folder: Path, config: RunConfig) -> None:
    """Raises `InputError` where a stage was trained within a budget that `config` does not give it: it cannot be taken back.

    That is one of more seconds or operations, or of the other of them.
    """
    for name, train in zip(STAGES, (config.first_stage.train, config.prior.train), strict=True):
        path = folder / name / CLOCK
        clock = read_table(path) if path.is_file() else {}
        seconds, flops = float(clock.get("budget", 0.0)), float(clock.get("flops_budget", 0.0))
        if seconds > train.seconds or flops > train.flops:
            raise InputError(
                f"{folder}: its {name} was trained for {_told(seconds, flops)}, and {_told(train.seconds, train.flops)} are "
                "asked for, which cannot be taken back; give another --out, or delete that folder."
            )


def _told(seconds: float, flops: float) -> str:
    parts = [f"{seconds:g} s"] if seconds > 0 or flops <= 0 else []
    return " or ".join([*parts, *([f"{as_typed(flops)} operations"] if flops > 0 else [])])


def curves(folder: Path) -> tuple[Curve, ...]:
    """The losses that were logged, thinned."""
    found = []
    for stage in STAGES:
        rows = list(_rows(folder / stage / "log.jsonl"))
        for name in _names(rows):
            points = [(int(row["step"]), float(row[name])) for row in rows if name in row and math.isfinite(row[name])]
            thin = points[:: max(1, math.ceil(len(points) / MOST_POINTS))]
            found.append(Curve(stage, name, tuple(thin)))
    return tuple(found)


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """The loss where it is called so, and that of held-out pictures; else the totals of all optimizers."""
    known = {name for row in rows for name in row}
    return (
        [name for name in ("loss", "held_out") if name in known]
        if "loss" in known
        else sorted(name for name in known if name.endswith("/total"))
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # a line cut short by a kill
            continue
        if isinstance(row, dict) and "step" in row:
            yield row
