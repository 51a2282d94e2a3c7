"""SIGTERM while pictures are made: one line, 143, the finished pictures whole and nothing half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tiny_models import text_config, write_model


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to catch")
def test_termination_leaves_whole_pictures_only(tmp_path: Path) -> None:
    model, out = write_model(tmp_path / "model", text_config()), tmp_path / "out"
    command = [sys.executable, "-m", "sfumato", "generate", "a red dragon", "--model", str(model), "--num", "5000"]
    command += ["--steps", "30", "--out", f"{out}/", "--seed", "0", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # the first picture is there
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors == "sfumato: terminated.\n"
    files = list(out.iterdir())
    assert 1 <= len(files) < 5000
    assert {path.suffix for path in files} == {".png"}
    for path in files:
        Image.open(path).load()
