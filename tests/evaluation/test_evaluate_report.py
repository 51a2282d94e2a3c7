"""The report's two faces, and where it says it comes from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from sfumato.evaluation.provenance import git_commit, provenance
from sfumato.evaluation.report import Report, Row, number, write_report
from sfumato.metrics.bootstrap import Interval

REPORT = Report(
    rows=[
        Row.of(Interval(31.234, 30.9, 31.6), "reconstruction/psnr", "reconstruction PSNR", 870, "higher", unit="dB"),
        Row.of(Interval(0.512, 0.48, 0.54), "retrieval", "retrieval@1", 870, "higher", floor=0.006, floor_is="chance"),
        Row("fd_ratio", "FD-MobileNetV2 / floor", 2.5, 870, "lower", floor=1.0),
    ],
    manifest={"model": {"name": "toy"}, "interval_level": 0.95},
    groups={"noto": 0.5, "twemoji": 0.52},
    notes=["A note."],
)


def test_markdown() -> None:
    assert REPORT.to_markdown().splitlines() == [
        "| measure | value | 95% interval | real beside it | pictures |",
        "|---|---|---|---|---|",
        "| reconstruction PSNR ↑ | 31.23 dB | 30.9 to 31.6 |  | 870 |",
        "| retrieval@1 ↑ | 0.512 | 0.48 to 0.54 | 0.006 (chance) | 870 |",
        "| FD-MobileNetV2 / floor ↓ | 2.5 |  | 1 | 870 |",
        "",
        "| group | retrieval@1 |",
        "|---|---|",
        "| noto | 0.500 |",
        "| twemoji | 0.520 |",
        "",
        "- A note.",
    ]


def test_numbers_are_readable() -> None:
    assert [number(v) for v in (0.00012345, 12.3456, 12345.6)] == ["0.0001234", "12.35", "12346"]


@pytest.mark.parametrize("name", ["report", "report.json", "deep/er/report.md"])
def test_written_files(tmp_path: Path, name: str) -> None:
    data, table = write_report(REPORT, tmp_path / name)
    assert data.name == "report.json"
    assert table.name == "report.md"
    assert table.read_text("utf-8") == REPORT.to_markdown()
    read = json.loads(data.read_text("utf-8"))
    assert read["results"]["retrieval"]["value"] == 0.512
    assert read["retrieval_by_group"] == {"noto": 0.5, "twemoji": 0.52}
    assert read["manifest"]["model"] == {"name": "toy"}


def test_rows_by_key() -> None:
    assert REPORT["retrieval"].low == 0.48
    assert "retrieval" in REPORT
    assert "fid" not in REPORT
    with pytest.raises(KeyError):
        REPORT["fid"]


def test_commit_of_a_checkout_and_of_none(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text("x = 1\n")
    assert git_commit(file) is None

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    assert git_commit(file) is None  # inside a repository, but not of it
    git("add", "code.py")
    git("commit", "-m", "one")
    assert git_commit(file) == git("rev-parse", "HEAD")
    file.write_text("x = 2\n")
    assert git_commit(file) == git("rev-parse", "HEAD") + "+"


def test_commit_told_by_the_environment_outside_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_COMMIT", "a1b2")
    assert git_commit(tmp_path / "code.py") == "a1b2"


def test_provenance_names_versions() -> None:
    found = provenance("cpu")
    assert found["device"].startswith("cpu")
    assert {"sfumato", "commit", "torch", "python", "threads", "time"} <= set(found)
