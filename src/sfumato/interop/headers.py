"""The header of a safetensors file, read strictly.

    8 bytes n | n bytes of JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {text: text}} | data

Tensors fill the data without gap or overlap. The reference implementation checks that too; this one also refuses what it
lets pass: a key twice (readers differ in which they take), names with control characters or that climb like paths, more
tensors than anyone has, a header of more than 25 MB.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from sfumato.errors import InputError
from sfumato.interop.globals import ITEMSIZE

MAX_HEADER, MAX_TENSORS, MAX_MARKS, MAX_DIMENSIONS = 25 * 10**6, 100_000, 4_000_000, 16
DTYPES: Final = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16",
    "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip


@dataclass(frozen=True)
class Span:
    """A tensor as the header tells of it; `offset` in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """Tensors by name and the file's own notes."""

    tensors: Mapping[str, Span]
    metadata: Mapping[str, str]


class _Bad(ValueError):
    pass


def is_safe_name(name: str) -> bool:
    """Whether a tensor's name is printable text of at most 500 characters that is no path out of anywhere."""
    return 0 < len(name) <= 500 and name.isprintable() and "\\" not in name and name[0] != "/" and ".." not in name.split("/")


def read_header(path: Path) -> Header:
    """Raises `InputError` with what is wrong for a file that is cut off, damaged or made to confuse."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise InputError(f"{path} has a header of {length} bytes; safetensors headers of at most {MAX_HEADER} are read.")
        text = file.read(length)
    if len(text) < length:
        raise InputError(f"{path} ends inside its header; the download or copy did not finish, get it again.")
    try:
        return _parse(text, 8 + length, size)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a sound safetensors file: {str(error)[:200]}; get it again.") from None


def _parse(text: bytes, start: int, size: int) -> Header:
    if sum(map(text.count, (b"{", b"[", b":", b","))) > MAX_MARKS:
        raise _Bad("its header is larger than any model's")
    data = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_no_number)
    if not isinstance(data, dict) or text[:1] != b"{":
        raise _Bad("its header is no table")
    notes = data.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise _Bad("its __metadata__ is not text by name")
    if len(data) > MAX_TENSORS:
        raise _Bad(f"it holds more than {MAX_TENSORS} tensors")
    spans = {name: _span(name, entry, start) for name, entry in data.items()}
    end = start
    for name, span in sorted(spans.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if span.offset != end:
            raise _Bad(f"{'a gap before' if span.offset > end else 'an overlap at'} {name!r}")
        end = span.offset + span.nbytes
    if end != size:
        cut = "; the download or copy did not finish" if end > size else ""
        raise _Bad(f"its tensors end at byte {end} and the file at {size}{cut}")
    return Header(spans, notes)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Bad(f"the key {twice[:100]!r} stands twice in its header")
    return table


def _no_number(text: str) -> None:
    raise _Bad(f"{text[:20]} in its header is no whole number")


def _span(name: str, entry: Any, start: int) -> Span:
    if not is_safe_name(name):
        raise _Bad(f"the tensor name {name[:100]!r} is unsafe")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _Bad(f"the entry of {name!r} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _Bad(f"{name!r} has the unknown type {str(dtype)[:20]!r}")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise _Bad(f"{name!r} has a shape that is no list of at most {MAX_DIMENSIONS} whole numbers")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _Bad(f"{name!r} has data_offsets that are no two whole numbers")
    begin, end = offsets
    nbytes = prod(shape) * ITEMSIZE[DTYPES[dtype]]
    if end - begin != nbytes:
        raise _Bad(f"{name!r} of type {dtype} and shape {shape} takes {nbytes} bytes, and its data_offsets say {end - begin}")
    return Span(DTYPES[dtype], tuple(shape), start + begin, nbytes)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**60 for value in values)
