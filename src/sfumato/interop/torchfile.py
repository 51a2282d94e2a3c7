"""torch.save's files -> index. A child process reads the pickle (`child`); here its answer is checked against the file.

zip       data.pkl names storages; storage `key` is the member data/key
legacy    five pickles in a row, then for every key in the fifth's order: 8 bytes number of elements, the elements
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import InputError, MachineError
from sfumato.interop.archive import members
from sfumato.interop.globals import ITEMSIZE
from sfumato.interop.headers import is_safe_name
from sfumato.interop.index import DTYPES, SourceFile, TensorEntry, TensorIndex
from sfumato.interop.rebuild import extent, shown

MAX_PICKLE, MAX_ANSWER, PATIENCE = 64 * 2**20, 64 * 2**20, 60
Fact = str | int | float | bool


@dataclass(frozen=True)
class TorchFile:
    """`facts`: plain values beside the state dict, `others`: names in it that are no tensors (the first fifty)."""

    index: TensorIndex
    facts: Mapping[str, Fact]
    others: tuple[str, ...]


def read_zip(path: Path) -> TorchFile:
    """Index of a zip. Raises `InputError` with the name of a global that no checkpoint needs, or what is damaged."""
    found = members(path)
    order = found.get("byteorder")
    pickled = found["data.pkl"]
    if pickled.size > MAX_PICKLE:
        raise InputError(f"{path} has a pickle of {pickled.size} bytes; at most {MAX_PICKLE} are read.")
    with open(path, "rb") as file:
        if order is not None:
            file.seek(order.offset)
            if file.read(min(order.size, 16)) != b"little":
                raise InputError(f"{path} was not written on a little-endian machine; save it again on one.")
        file.seek(pickled.offset)
        if pickled.crc and zlib.crc32(file.read(pickled.size)) != pickled.crc:
            raise InputError(f"{path} is damaged (data.pkl does not fit its checksum); get the file again.")
    answer = _ask(path, pickled.offset, pickled.size, legacy=False)
    starts: dict[str, int] = {}
    for key, (dtype, elements) in answer["storages"].items():
        member = found.get(f"data/{key}")
        if member is None or member.size != elements * ITEMSIZE[dtype]:
            has = "no such storage" if member is None else f"{member.size} bytes"
            raise InputError(f"{path}: storage {shown(key)} should be {elements} of {dtype}, found {has}; get the file again.")
        starts[key] = member.offset
    return _checked(path, answer, starts)


def read_legacy(path: Path) -> TorchFile:
    """Index of a file in the old format, or of a pickle that asks for something else; raises as `read_zip` does."""
    size = path.stat().st_size
    answer = _ask(path, 0, min(size, MAX_PICKLE), legacy=True)
    at, starts = answer["ends"][-1], {}
    if len(set(answer["keys"])) != len(answer["keys"]) or not answer["storages"].keys() <= set(answer["keys"]):
        raise InputError(f"{path} does not list the storages that its tensors use; get the file again.")
    with open(path, "rb") as file:
        for key in answer["keys"]:
            dtype, elements = answer["storages"].get(key, (None, None))
            file.seek(at)
            if dtype is None or int.from_bytes(file.read(8), "little") != elements:
                raise InputError(f"{path}: storage {shown(key)} is not as long as its tensors say; get the file again.")
            starts[key] = at + 8
            at += 8 + elements * ITEMSIZE[dtype]
    if at != size:
        cut = "; the download or copy did not finish" if at > size else ""
        raise InputError(f"{path}: storages end at byte {at} and the file at {size}{cut}, get it again.")
    return _checked(path, answer, starts)


def _checked(path: Path, answer: dict[str, Any], starts: Mapping[str, int]) -> TorchFile:
    """Entries, each inside its storage. That storages lie inside the file and apart was seen before."""
    file, entries = SourceFile(path), {}
    for name, key, dtype, offset, shape, stride in answer["tensors"]:
        kind, elements = answer["storages"][key]
        inside = (offset + extent(shape, stride)) * ITEMSIZE[dtype] <= elements * ITEMSIZE[kind]
        if not is_safe_name(name) or not inside:
            raise InputError(f"{path} has a tensor of an unsafe name or place ({shown(name)!r}); get the file again.")
        start = starts[key] + offset * ITEMSIZE[dtype]
        entries[name] = TensorEntry(DTYPES[dtype], tuple(shape), tuple(stride), file, start)
    return TorchFile(TensorIndex(entries), answer["metadata"], tuple(answer["others"]))


_RUN = "import sys; sys.path.append(sys.argv[1]); from sfumato.interop.child import main; main(*map(int, sys.argv[2:]))"
_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")  # what an interpreter may need to start at all


def _ask(path: Path, start: int, length: int, legacy: bool) -> dict[str, Any]:
    """The child's answer, of the form that `child` states."""
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-I", "-S", "-B", "-c", _RUN, root, str(start), str(length), str(int(legacy))]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        with open(path, "rb") as file:
            done = subprocess.run(
                command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE, env=environment,
                cwd=root, check=False,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(f"{path} was not read within {PATIENCE} seconds; no checkpoint takes that long.") from None
    except OSError as error:
        raise MachineError(f"cannot start a process to read {path}: {error.strerror}. Free memory and try again.") from None
    if done.returncode or len(done.stdout) > MAX_ANSWER:
        raise InputError(f"{path} broke the process that read it; it is damaged or made to do so.")
    try:
        answer = json.loads(done.stdout)
        if "refused" in answer:
            raise InputError(f"{path} {shown(str(answer['refused']), 500)}; it was not read.")
        _check_form(answer)
    except (KeyError, TypeError, AttributeError, AssertionError, json.JSONDecodeError):
        raise InputError(f"{path} broke the process that read it; it is damaged or made to do so.") from None
    return answer


def _check_form(answer: dict[str, Any]) -> None:
    """The child has read what a stranger wrote, so that its word is not taken either."""
    storages, metadata = answer["storages"], answer["metadata"]
    assert all(kind in ITEMSIZE and _is_count(elements) for kind, elements in storages.values())
    assert all(isinstance(value, Fact) for value in metadata.values())
    assert all(isinstance(text, str) for text in (*answer["keys"], *answer["others"]))
    assert all(map(_is_count, answer["ends"]))
    names = set()
    for name, key, dtype, offset, shape, stride in answer["tensors"]:
        assert isinstance(name, str)
        assert key in storages
        assert dtype in ITEMSIZE
        assert len(shape) == len(stride) <= 16
        assert all(map(_is_count, (offset, *shape, *stride)))
        names.add(name)
    assert len(names) == len(answer["tensors"])


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62
