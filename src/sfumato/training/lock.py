"""One run at a time in a folder."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sfumato.errors import InputError
from sfumato.io.files import read_json, remove_leftovers, write_json


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One run at a time in a folder; a lock whose process died is free. A new folder goes again when its input is refused."""
    fresh = not os.path.exists(out)
    if os.path.exists(out) and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder.")
    if os.path.isdir(out) and any(out.iterdir()) and not (out / "run.lock").exists() and not (out / "config.json").exists():
        raise InputError(f"--out {out} holds other files and no run; give a new or empty folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError):
        raise InputError(f"--out {out} lies below a file; give a folder.") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"--out {str(out)[:100]}... is too long a name; give a shorter one.") from None
        raise
    lock = FileLock(out / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = read_json(out / "run.json") if (out / "run.json").is_file() else {}
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        raise InputError(f"{out} is in use by {who}; wait for it, stop it, or give another --out.") from None
    try:
        remove_leftovers(out)
        write_json(out / "run.json", {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    except InputError:
        kept = (out / "config.json", out / "audit" / "bad_files.jsonl")  # a run that began; the list that a message names
        if fresh and not any(path.exists() for path in kept):
            shutil.rmtree(out, ignore_errors=True)
        raise
    finally:
        lock.release()
