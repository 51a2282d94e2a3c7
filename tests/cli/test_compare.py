"""`sfumato compare` at its door: what is wrong is said in a line before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from made_results import made
from sfumato.cli.main import main
from sfumato.studies import compare
from sfumato.studies.page import PAGE
from sfumato.training.signals import Stopped
from tiny_runs import write_folder


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--data none given"),
        (["--data", "nowhere"], "--data nowhere: no such folder"),
        (["--data", ".", "--budget", "0"], "budget: got '0', expected minutes"),
        (["--data", ".", "--budget", "soon"], "budget: got 'soon'"),
        (["--data", ".", "--sample-minutes", "-1"], "sample-minutes: got '-1'"),
        (["--data", ".", "--samples", "10", "--families", "tiny"], "samples is 10: expected 97 or more"),
        (["--data", ".", "--families", "gna"], "unknown family 'gna'"),
        (["--data", ".", "--families", "tiny", "--size", "0"], "size: got 0"),
        (["--data", ".", "--families", "tiny", "--device", "tpu"], "device: got 'tpu'"),
        (["--page-only"], "it holds no results"),
    ],
)
def test_wrong_flags(
    flags: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *flags]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_page_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("gan", "ldm"):
        (tmp_path / name).mkdir()
        made(name).write(tmp_path / name)
    assert main(["compare", "--out", str(tmp_path), "--page-only"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / PAGE)
    assert "LDM (KL)" in (tmp_path / PAGE).read_text()
    assert (tmp_path / "compare.png").is_file()


@pytest.mark.parametrize("earlier", [False, True])
def test_a_stop_is_no_failure(
    earlier: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The family in work has no result, and the page shows those there are."""

    def stopped(*_: object, **__: object) -> Path:
        raise Stopped("stopped by SIGTERM at step 3 of prior; the same command goes on.")

    monkeypatch.setattr(compare, "train", stopped)
    data, out = write_folder(tmp_path / "data", 120), tmp_path / "out"
    if earlier:
        (out / "gan").mkdir(parents=True)
        made("gan").write(out / "gan")
    assert (
        main(["compare", "--data", str(data), "--out", str(out), "--families", "tiny", "--samples", "97", "--device", "cpu"])
        == 0
    )
    said = capsys.readouterr()
    assert "stopped by SIGTERM at step 3" in said.err
    assert said.out.strip() == (str(out / PAGE) if earlier else "")
    assert not (out / "tiny" / "result.json").exists()
