"""A report made again: does every number agree?

Numbers agree when they are equal to floating tolerance: networks on another device or with other threads differ in the last
bits, pixels by up to 2 of 255, so that a value may move by a thousandth of itself or of its interval, whichever is more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from sfumato.errors import InputError
from sfumato.evaluation.report import Report, number
from sfumato.io.files import read_table

TOLERANCE = 1e-3
MEASURED = ("value", "low", "high", "floor")
FACTS = (
    ("model", "weights_sha256_10"),
    ("model", "pixels_sha256"),
    ("extractor", "sha256"),
    ("extractor", "resize"),
    ("lpips", "heads_sha256"),
    ("lpips", "vgg16_sha256"),
    ("fidelity", "inception", "sha256"),
    ("fidelity", "vgg", "sha256"),
    ("data", "held", "pixels_sha256"),
    ("data", "extra", "pixels_sha256"),
    ("data", "rest", "pixels_sha256"),
    ("fit", "pixels_sha256"),
    ("counts", "generated"),
)
"""What has to be the same before numbers can be."""
TOLD = (("made_by", "commit"), ("made_by", "torch"), ("made_by", "device"))
"""What may differ, and is said when it does."""


@dataclass(frozen=True)
class Line:
    """One comparison, in words."""

    text: str
    agrees: bool


def read_report(path: Path) -> dict[str, Any]:
    """A report's JSON with its manifest. Raises `InputError` for another file, or one that does not say what was asked."""
    data = read_table(path)
    manifest = data.get("manifest")
    if not isinstance(manifest, dict) or not isinstance(data.get("results"), dict):
        raise InputError(f"{path} is no report of `sfumato evaluate --out`; give one.")
    if not isinstance(manifest.get("asked"), dict):
        raise InputError(f"{path} does not say what was asked (an earlier release wrote it); evaluate anew with --out.")
    for key, row in data["results"].items():
        if not isinstance(row, dict) or not _is_number(row.get("value")):
            raise InputError(f"{path}: the result {str(key)[:40]!r} has no value; the file is damaged.")
    return data


def compare(before: Mapping[str, Any], after: Report) -> list[Line]:
    """A report's JSON against the same made again: facts, then every row of either."""
    now = after.to_json()
    lines = [line for path in FACTS if (line := _fact(path, before["manifest"], now["manifest"], True)) is not None]
    lines += [line for path in TOLD if (line := _fact(path, before["manifest"], now["manifest"], False)) is not None]
    then, rows = before["results"], now["results"]
    for key in [*then, *(key for key in rows if key not in then)]:
        if key not in rows or key not in then:
            lines.append(Line(f"{key}: {'not measured now' if key in then else 'not in the report'}", False))
        else:
            lines.append(_row(key, then[key], rows[key]))
    return lines


def agree(lines: Sequence[Line]) -> bool:
    """Whether all do."""
    return all(line.agrees for line in lines)


def _fact(path: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any], decides: bool) -> Line | None:
    then, now = _at(before, path), _at(after, path)
    if then == now:
        return Line(f"{' '.join(path)}: the same", True) if decides and then is not None else None
    shown = " -> ".join(str(v)[:16] for v in (then, now))
    return Line(f"{' '.join(path)}: {'DIFFERS' if decides else 'another'}, {shown}", not decides)


def _at(table: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = table
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _row(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Line:
    """Value, interval, floor and count of one row."""
    ends = [end for end in (before.get("low"), before.get("high")) if _is_number(end)]
    width = max(ends, default=0.0) - min(ends, default=0.0)
    worst = 0.0
    for name in MEASURED:
        then, now = before.get(name), after.get(name)
        if _is_number(then) and _is_number(now):
            scale = max(abs(then), abs(now), width, 1e-12)
            worst = max(worst, abs(then - now) / scale)
        elif then != now:
            worst = math.inf
    counted = before.get("count") == after.get("count")
    good = counted and worst <= TOLERANCE
    values = f"{number(before['value'])} -> {number(after['value'])}"
    if worst == 0 and counted:
        return Line(f"{key}: {number(after['value'])}, equal", True)
    if not counted:
        return Line(f"{key}: {values}, DIFFERS, of {before.get('count')} and {after.get('count')} pictures", False)
    return Line(f"{key}: {values}, {'agrees' if good else 'DIFFERS'} (off by {worst:.1e})", good)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
