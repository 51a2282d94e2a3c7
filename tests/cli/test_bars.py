"""How far a measurement is: bars on a terminal, lines elsewhere, nothing where quiet."""

from __future__ import annotations

import io
import sys
import time

import pytest

from sfumato.cli.bars import part_bars


def test_a_line_now_and_then_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 5.0, 21.0, 21.0, 30.0, 41.0, 41.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with part_bars(quiet=False) as progress:
        assert progress is not None
        for done in (50, 100, 150, 200):
            progress("samples", done, 500)
    assert capsys.readouterr().err == "samples 100/500\nsamples 200/500\n"


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with part_bars(quiet=True) as progress:
        assert progress is None
    assert capsys.readouterr().err == ""


def test_a_bar_for_each_part_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with part_bars(quiet=False) as progress:
        assert progress is not None
        progress("samples", 3, 7)
        progress("features", 1, 2)
    assert "samples" in screen.getvalue()
    assert "3/7" in screen.getvalue()
    assert "features" in screen.getvalue()
