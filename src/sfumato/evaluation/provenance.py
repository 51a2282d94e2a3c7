"""Which code made a number: versions, commit, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def git_commit(path: Path | None = None) -> str | None:
    """The commit of the checkout that holds this code, with '+' when files differ from it; outside of a checkout what the
    environment says in `SFUMATO_COMMIT`, as for a copy in a container, or None."""
    here = Path(__file__).resolve() if path is None else path

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("SFUMATO_COMMIT") or None


def provenance(device: torch.device | str) -> dict[str, Any]:
    """Versions, commit, device and time of a measurement."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "sfumato": _version("sfumato"),
        "commit": git_commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
