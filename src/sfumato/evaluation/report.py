"""What an evaluation says: rows with intervals and floors, and a manifest that lets anyone repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sfumato.io.files import write_bytes, write_json
from sfumato.metrics.bootstrap import Interval

FORMAT = 1


@dataclass(frozen=True)
class Row:
    """One number. key: its name in JSON; label: its name for people; count: pictures behind it.

    floor: the same number for real pictures against real pictures (or a blind guess); better: "higher" or "lower".
    """

    key: str
    label: str
    value: float
    count: int
    better: str
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    floor_is: str = "real"
    unit: str = ""

    @staticmethod
    def of(interval: Interval, key: str, label: str, count: int, better: str, **rest: Any) -> Row:
        """A row from a value with its interval."""
        return Row(key, label, interval.value, count, better, low=interval.low, high=interval.high, **rest)


@dataclass(frozen=True)
class Report:
    """Rows, groups (retrieval@1 of each style), notes in words and the manifest."""

    rows: Sequence[Row]
    manifest: Mapping[str, Any]
    groups: Mapping[str, float]
    notes: Sequence[str]

    def __getitem__(self, key: str) -> Row:
        """The row of that key. Raises `KeyError`."""
        for row in self.rows:
            if row.key == key:
                return row
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return any(row.key == key for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, ready for JSON."""
        return {
            "format": FORMAT,
            "results": {row.key: {k: v for k, v in asdict(row).items() if k != "key"} for row in self.rows},
            "retrieval_by_group": dict(self.groups),
            "notes": list(self.notes),
            "manifest": dict(self.manifest),
        }

    def to_markdown(self) -> str:
        """A table for people, with the notes below."""
        level = self.manifest.get("interval_level", 0.95)
        lines = [f"| measure | value | {level:.0%} interval | real beside it | pictures |", "|---|---|---|---|---|"]
        for row in self.rows:
            arrow = "↑" if row.better == "higher" else "↓"
            value = f"{number(row.value)}{' ' + row.unit if row.unit else ''}"
            interval = "" if row.low is None or row.high is None else f"{number(row.low)} to {number(row.high)}"
            floor = "" if row.floor is None else f"{number(row.floor)}{'' if row.floor_is == 'real' else f' ({row.floor_is})'}"
            lines.append(f"| {row.label} {arrow} | {value} | {interval} | {floor} | {row.count} |")
        if self.groups:
            lines += ["", "| group | retrieval@1 |", "|---|---|"]
            lines += [f"| {name or '(none)'} | {value:.3f} |" for name, value in self.groups.items()]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]) + "\n"


def number(value: float) -> str:
    """Four digits, without an exponent where people don't expect one."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def write_report(report: Report, path: Path) -> list[Path]:
    """Write PATH.json and PATH.md beside it (PATH with or without .json); returns both paths. Raises `MachineError`."""
    base = path.with_suffix("") if path.suffix in (".json", ".md") else path
    tables, data = base.with_name(base.name + ".md"), base.with_name(base.name + ".json")
    write_json(data, report.to_json())
    write_bytes(tables, report.to_markdown().encode())
    return [data, tables]
