"""Files that are whole or not there: write beside, fsync, rename. Hashes that tell when one was damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfumato.errors import InputError, MachineError

MANIFEST = "manifest.json"
_LEFTOVER = re.compile(r"\..+\.\d+\.(tmp|old)")
_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE}


@contextmanager
def machine_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a `MachineError` that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in _MACHINE:
            raise MachineError(f"cannot write {path}: {error.strerror}. Free space or choose another place.") from None
        raise


def fsync(path: Path) -> None:
    """Make a file or folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` atomically; on failure the old file is untouched and nothing else is left."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with machine_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync(path.parent)


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON atomically. Lone surrogates (file names that are not UTF-8) are written as JSON's own escapes."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """Read JSON; raises `InputError` naming the file when it is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"no such file: {path}.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; expected a JSON file.") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, numbers of thousands of digits, brackets without end
        raise InputError(f"{path} is not valid JSON ({error}); restore it or make it anew.") from None


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `InputError` as `read_json` does, also for other JSON."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no table of fields; the file is damaged, restore it or make it anew.")
    return data


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def directory_size(directory: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place, with a manifest of hashes, when the block ends well."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with machine_errors(target):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            files = sorted(p for p in temporary.rglob("*") if p.is_file())
            for path in files:
                fsync(path)
            hashes = {str(p.relative_to(temporary)): {"sha256": sha256(p), "bytes": p.stat().st_size} for p in files}
            write_json(temporary / MANIFEST, {"files": hashes})
            _swap(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _swap(temporary: Path, target: Path) -> None:
    """Rename into place; an older folder of that name steps aside first and is deleted last."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    replaces = target.exists()
    if replaces:
        os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        if replaces:
            os.rename(old, target)
        raise
    try:
        fsync(target.parent)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Delete what killed writes left below `directory`. Only for who knows that nobody else writes there."""
    for path in list(directory.rglob(".*")):
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def check_manifest(directory: Path) -> None:
    """Compare every file with the manifest. Raises `InputError` naming the first that is missing or differs."""
    entries = read_json(directory / MANIFEST)
    files = entries.get("files") if isinstance(entries, dict) else None
    if not isinstance(files, dict):
        raise InputError(f"{directory / MANIFEST} has no table of files; the folder is damaged, restore it.")
    for name, entry in files.items():
        path = directory / name
        if not path.is_file():
            raise InputError(f"{path} is missing; the folder is damaged, restore it.")
        if not isinstance(entry, dict) or path.stat().st_size != entry.get("bytes") or sha256(path) != entry.get("sha256"):
            raise InputError(f"{path} does not match its hash in {MANIFEST}; it was changed or damaged, restore it.")
