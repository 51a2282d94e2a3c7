"""The process that reads pickles: standard input is the file, standard output the index as JSON, and nothing else is allowed.

Started by `torchfile` as `python -I -S`, without PyTorch or anything else that is installed. Before it reads it gives away
what it will not need: memory over a gigabyte, half a minute of processor, new files; and whatever Python would tell an
auditor about (an import, an opened file, a started process, a socket) ends it.

    {"ends": [...], "keys": [...], "storages": {key: [type, elements]}, "tensors": [[name, key, type, offset, shape, stride]],
     "others": [...], "metadata": {...}}        or        {"refused": "why"}
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from typing import Any, BinaryIO, Final, NoReturn

from sfumato.interop.pickles import Reader
from sfumato.interop.rebuild import Refused, Tensor, shown

MEMORY, SECONDS = 2**30, 30
MAX_TENSORS, MAX_NAME, MAX_OTHERS = 100_000, 500, 50
MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
HARMLESS_EVENTS: Final = {"mmap.__new__", "object.__getattr__", "sys._getframe", "gc.get_objects"}


def limit() -> None:
    """Give away what reading does not need. Where the system knows no limits, those of the reader stand alone."""
    try:
        import resource
    except ImportError:
        return
    for name, value in (("AS", MEMORY), ("CPU", SECONDS), ("FSIZE", 0), ("CORE", 0), ("NPROC", 0), ("NOFILE", 16)):
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            try:
                resource.setrlimit(kind, (value, value))
            except (OSError, ValueError):  # a lower limit stands already, or the system has none of this kind
                continue


def close_doors() -> None:
    """From here on an import, a file, a process or a socket ends this process at once."""
    sys.addaudithook(_audit)


def _audit(event: str, _: tuple[Any, ...]) -> None:
    if event not in HARMLESS_EVENTS:
        os.write(1, json.dumps({"refused": f"tried {shown(event)} while it was read"}).encode())
        os._exit(0)


def read(file: BinaryIO, legacy: bool) -> dict[str, Any]:
    """The index of one pickle (a zip's data.pkl, up to the end of `file`) or of the legacy format's five in a row."""
    reader = Reader(file)
    if not legacy:
        value = reader.read()
        if file.read(1):
            raise Refused("holds something behind the end of its pickle")
        return {**index(value), "ends": [file.tell()], "keys": [], "storages": _storages(reader)}
    values, ends = [], []
    for place in range(5):
        values.append(reader.read())
        ends.append(file.tell())
        _check_stream(place, values)
    return {**index(values[3]), "ends": ends, "keys": values[4], "storages": _storages(reader)}


def _check_stream(place: int, values: list[Any]) -> None:
    """What the legacy format's streams must be: magic number, version, facts of the machine, the object, storage keys."""
    value = values[place]
    if place == 0 and (type(value) is not int or value != MAGIC):
        raise Refused("is a pickle that torch.save did not write; expected a checkpoint of tensors")
    if place == 1 and value != LEGACY_VERSION:
        raise Refused(f"is of another version of torch.save's old format than {LEGACY_VERSION}")
    if place == 2 and not (isinstance(value, dict) and value.get("little_endian") is True):
        raise Refused("was not written on a little-endian machine")
    if place == 4 and not (isinstance(value, list) and all(isinstance(key, str) for key in value)):
        raise Refused("lacks the list of its storages")


def _storages(reader: Reader) -> dict[str, list[Any]]:
    return {key: [storage.dtype, storage.elements] for key, storage in reader.storages.items()}


def index(value: Any) -> dict[str, Any]:
    """Tensors of the state dict, bare or under "state_dict", and the plain facts that stand beside it.

    Two tensors without names (mean and deviation of unCLIP's embeddings) are called "0" and "1".
    """
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(item, Tensor) for item in value):
        value = {str(place): item for place, item in enumerate(value)}
    if not isinstance(value, dict):
        raise Refused("holds no state dict (name -> tensor) but something else")
    wrapped = value.get("state_dict")
    state = wrapped if isinstance(wrapped, dict) else value
    tensors: list[list[Any]] = []
    others: list[str] = []
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
                raise Refused(f"has a tensor whose name is no text of 1 to {MAX_NAME} characters")
            tensors.append([name, tensor.key, tensor.dtype, tensor.offset, tensor.shape, tensor.stride])
        elif state is wrapped and len(others) < MAX_OTHERS:
            others.append(shown(name) if isinstance(name, str) else type(name).__name__)
    if not tensors:
        keys = ", ".join(shown(k) for k in list(state)[:10] if isinstance(k, str)) or "nothing"
        raise Refused(f"holds no state dict (name -> tensor); found at its top: {keys}")
    if len(tensors) > MAX_TENSORS:
        raise Refused(f"holds more than {MAX_TENSORS} tensors")
    facts = {k: v for k, v in value.items() if isinstance(k, str) and len(k) <= MAX_NAME and _is_fact(v)}
    return {"tensors": tensors, "others": others, "metadata": facts}


def _is_fact(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_NAME
    return isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63)


def answer(data: dict[str, Any]) -> NoReturn:
    """Write JSON and end, without the interpreter's own last rites."""
    view = memoryview(json.dumps(data).encode())
    while view:
        view = view[os.write(1, view) :]
    os._exit(0)


def main(start: int, length: int, legacy: bool) -> None:
    """Read `length` bytes of standard input from `start`; for the legacy format they may reach beyond the pickles."""
    limit()
    begin = start - start % mmap.ALLOCATIONGRANULARITY
    file = mmap.mmap(0, start + length - begin, access=mmap.ACCESS_READ, offset=begin)
    file.seek(start - begin)
    b"x".decode("raw-unicode-escape"), "x".encode("unicode_escape")  # codecs are modules, imported at their first use
    close_doors()
    try:
        found = read(file, legacy)  # type: ignore[arg-type]  # a map reads, tells and finds lines as a file does
        found["ends"] = [begin + end for end in found["ends"]]
    except Refused as refusal:
        found = {"refused": str(refusal)}
    except MemoryError:
        found = {"refused": "asks for more memory than a checkpoint needs"}
    except Exception as error:  # whatever a stranger's bytes have led to
        found = {"refused": f"is damaged ({type(error).__name__})"}
    answer(found)
