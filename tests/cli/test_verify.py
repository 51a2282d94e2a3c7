"""`--verify` of the three commands that open a checkpoint: hashes are taken again, and other bytes are said plainly."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from sfumato.cli.main import main
from sfumato.interop import choose, hashes

sys.path.insert(0, str(Path(__file__).parents[1] / "interop"))
from published import CARDS, made, state_of, write

SD1 = CARDS["sd1"][0]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choose, "find_card", lambda name: SD1)
    return write(state_of(made(SD1), SD1), tmp_path / "mine.safetensors")


def damage(path: Path) -> None:
    """Another last byte at the same size and time."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def commands(path: Path, out: Path) -> dict[str, list[str]]:
    known = ["--card", "small"]
    return {
        "inspect": ["inspect", str(path)],
        "convert": ["convert", str(path), str(out / "native"), "--to", "native", *known],
        "generate": [
            "generate", "a cat", "--model", str(path), *known, "--steps", "1", "--device", "cpu", "--out", str(out / "a.png"),
        ],
    }  # fmt: skip


@pytest.mark.parametrize("verb", ["inspect", "convert", "generate"])
def test_other_bytes_are_found(verb: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*commands(checkpoint, tmp_path)[verb], "--verify"]) == 0  # first sight
    damage(checkpoint)
    (tmp_path / "out").mkdir()
    argv = commands(checkpoint, tmp_path / "out")[verb]
    capsys.readouterr()
    assert main([*argv, "--verify"]) == 2
    error = capsys.readouterr().err
    assert f"{checkpoint} has other bytes than when it was first seen" in error
    assert error.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []
    assert main(argv) == 0  # as far as size and time tell, it is the file of before


def test_a_file_that_is_whole_is_read_again(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    seen: list[Path] = []
    real = hashes.sha256
    monkeypatch.setattr(hashes, "sha256", lambda path: (seen.append(path), real(path))[1])
    for number in (1, 2):
        assert main(["inspect", str(checkpoint), "--json", "--verify"]) == 0
        assert json.loads(capsys.readouterr().out)["sha256"] == {str(checkpoint): digest}
        assert len(seen) == number
    assert main(["inspect", str(checkpoint), "--verify"]) == 0
    assert f"sha256       {digest} mine.safetensors" in capsys.readouterr().out
    assert main(["inspect", str(checkpoint), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] is None
    assert len(seen) == 3


def test_a_folder_is_verified_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_inspection import folder

    from sfumato.interop.inspection import inspect

    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    found = inspect(folder(tmp_path, "epsilon"), verify=True)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert found.sha256 == {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert len(files) == 2
