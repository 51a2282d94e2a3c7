"""What the words of a checkpoint's pickle stand for: storages, tensors as views of them, tables, and things of no interest.

element i_1 ... i_n of a tensor = element offset + sum_k i_k stride_k of its storage
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from sfumato.interop import globals as names

MAX_DIMENSIONS, MAX_ELEMENTS = 16, 2**48


class Refused(Exception):
    """Why a pickle is not read: "a ..." that it holds, or what it does, for a sentence that begins with the file's name."""

    def __str__(self) -> str:
        why = super().__str__()
        return f"holds {why}" if why.startswith("a ") else why


class Nothing:
    """An object that is read past."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Word:
    """A global's full name."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """`elements` of `dtype` under `key`, from element `first` of the whole."""

    key: str
    dtype: str
    elements: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of storage `key` as elements of `dtype`; `offset` and `stride` in elements."""

    key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def shown(text: str, most: int = 120) -> str:
    """A foreign text for a message: at most `most` of its characters, printable, on one line."""
    text = text[:most]
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def count(value: Any, what: str) -> int:
    """A whole number from 0 to `MAX_ELEMENTS`."""
    if type(value) is not int or not 0 <= value <= MAX_ELEMENTS:
        raise Refused(f"a {what} that is no whole number from 0 to 2^48")
    return value


def _counts(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS:
        raise Refused(f"a {what} that is no list of at most {MAX_DIMENSIONS} numbers")
    return tuple(count(value, what) for value in values)


def extent(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Elements of the storage from a view's first to its last, 0 for an empty view."""
    return 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))


def rebuild(word: Word, arguments: tuple[Any, ...]) -> Any:
    """What calling `word` would have made, without calling anything."""
    name = word.name
    if name in names.REBUILDS:
        return _tensor(name, arguments)
    if name in names.TABLES:
        return _table(name, arguments)
    if name == names.SIZE:
        return _counts(arguments[0] if arguments else (), "size")
    if name in names.HARMLESS:
        return Nothing()
    raise Refused(f"a pickle that calls {name}")


def _table(name: str, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if name == "collections.defaultdict":
        arguments = arguments[1:]  # the first makes default values
    if not arguments:
        return {}
    (items,) = arguments
    pairs = list(items.items()) if isinstance(items, dict) else items
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise Refused("a table that is not made of pairs")
    return {key if isinstance(key, str | int) else Nothing(): value for key, value in pairs}


def _tensor(name: str, arguments: tuple[Any, ...]) -> Tensor:
    if name in (names.REBUILD_PARAMETER, names.REBUILD_PARAMETER_STATE):  # (data, requires_grad, hooks[, state])
        if not arguments or not isinstance(arguments[0], Tensor):
            raise Refused("a parameter without a tensor")
        return arguments[0]
    if name == names.REBUILD_FROM_TYPE:  # (function, class, arguments, state)
        function, kind, inner, _ = arguments
        if not isinstance(function, Word) or not isinstance(kind, Word) or kind.name not in names.TENSORS:
            raise Refused("a tensor of an unknown class")
        if function.name not in names.REBUILDS - {names.REBUILD_FROM_TYPE} or not isinstance(inner, tuple):
            raise Refused(f"a tensor that is made by {function.name}")
        return _tensor(function.name, inner)
    return _view(name, arguments)


def _view(name: str, arguments: tuple[Any, ...]) -> Tensor:
    """(storage, offset, size, stride[, requires_grad, hooks[, type][, flags]])"""
    storage, offset, size, stride, *rest = arguments
    if not isinstance(storage, Storage):
        raise Refused("a tensor without a storage")
    dtype, scale = storage.dtype, 1
    if name == names.REBUILD_V3:
        kind = rest[2]
        if not isinstance(kind, Word) or kind.name not in names.DTYPES:
            raise Refused("a tensor of an unknown type")
        dtype = names.DTYPES[kind.name]
        scale = names.ITEMSIZE[dtype]
        if storage.dtype != "uint8" or storage.first:
            raise Refused("a tensor whose storage is of another type")
    flags = rest[3:] if name == names.REBUILD_V3 else rest[2:]
    if any(flags):
        raise Refused("a tensor that is conjugated or negated when read")
    shape, strides = _counts(size, "size"), _counts(stride, "stride")
    offset = count(offset, "offset")
    if len(shape) != len(strides) or prod(shape) > MAX_ELEMENTS:
        raise Refused("a tensor whose size and stride do not fit each other")
    if (offset + extent(shape, strides)) * scale > storage.elements:
        raise Refused(f"a tensor that reaches beyond storage {shown(storage.key)}")
    return Tensor(storage.key, dtype, storage.first + offset, shape, strides)
