"""One finished run of ten steps a stage, shared by all tests of a process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_runs import go

from tiny_runs import small_config, write_folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run to its end, for all tests; who changes it works on a copy."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert go(small_config(), data, out) == out / "model"
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))
