"""SHA-256 of files, taken once: remembered in the user's cache by path, size and time, and taken anew when one differs.

What is remembered says that a file is the one seen before, as far as its size and time tell; `verify` reads it again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from sfumato.errors import InputError, SfumatoError
from sfumato.io.files import read_table, sha256, write_json

HASHES, MOST = "hashes.json", 10_000


def user_cache() -> Path:
    """The user's cache folder of this program: $SFUMATO_CACHE, or where the system keeps such."""
    if given := os.environ.get("SFUMATO_CACHE"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sfumato"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "sfumato" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfumato"


def file_hash(path: Path, *, verify: bool = False, cache: Path | None = None) -> str:
    """Hex SHA-256 of a file; from memory when its size and time are those of last time, unless `verify`.

    Raises `InputError` when `verify` finds other bytes under the size and time that were remembered. A cache that cannot be
    read or written only costs the time.
    """
    table = (cache or user_cache()) / HASHES
    found, key = path.stat(), str(path.resolve())
    state = [found.st_size, found.st_mtime_ns]
    known = _known(table)
    entry = known.get(key)
    remembered = str(entry[2]) if isinstance(entry, list) and len(entry) == 3 and entry[:2] == state else None
    if remembered is not None and not verify:
        return remembered
    digest = sha256(path)
    if remembered is not None and digest != remembered:
        raise InputError(f"{path} has other bytes than when it was first seen, at the same size and time; it is damaged.")
    after = path.stat()
    if [after.st_size, after.st_mtime_ns] != state:
        raise InputError(f"{path} was changed while it was read; start again.")
    _remember(table, key, [*state, digest])
    return digest


def verify_files(paths: Iterable[Path], *, cache: Path | None = None) -> dict[str, str]:
    """Hex SHA-256 by path, every file read for it. Raises `InputError` as `file_hash` does."""
    return {str(path): file_hash(path, verify=True, cache=cache) for path in paths}


def _known(table: Path) -> dict[str, object]:
    try:
        return read_table(table)
    except (SfumatoError, OSError):
        return {}


def _remember(table: Path, key: str, entry: list[object]) -> None:
    known = _known(table)  # again: another process may have added to it meanwhile
    known.pop(key, None)
    kept = dict(list(known.items())[-(MOST - 1) :])
    try:
        write_json(table, {**kept, key: entry})
    except (SfumatoError, OSError):
        return
