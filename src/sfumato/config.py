"""Typed configs: frozen dataclasses <-> plain dictionaries.

A config is a tree of frozen dataclasses with plain values at the leaves. A union of dataclasses is written with a
`kind` key, the class's own `kind`. Unknown fields and wrong types are errors that name the field and the nearest one.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from sfumato.errors import InputError, unknown

T = TypeVar("T")
LONGEST = 80  # characters of a wrong value that a message repeats


def to_dict(config: Any) -> Any:
    """A config as plain dictionaries, lists, numbers and strings, ready for JSON."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kind = getattr(config, "kind", None)
        head = {"kind": kind} if isinstance(kind, str) else {}
        return head | {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, enum.Enum):
        return config.value
    if isinstance(config, tuple | list):
        return [to_dict(item) for item in config]
    return config


def from_dict(kind: type[T], data: Any, path: str = "") -> T:
    """The inverse of `to_dict`. Raises `InputError` naming the field when `data` does not fit `kind`."""
    return typing.cast(T, _parse(kind, data, path))


def override(data: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """A copy of `data` with `a.b=value` assignments applied; values are read as JSON where they parse, else as text."""
    import copy
    import json

    result = copy.deepcopy(data)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise InputError(f"--set {assignment!r}: expected FIELD=VALUE, such as prior.train.steps=2000.")
        node: Any = result
        *parents, last = path.split(".")
        for name in parents:
            if not isinstance(node, dict) or name not in node:
                raise unknown("field", path, _paths(data))
            node = node[name]
        if not isinstance(node, dict) or last not in node:
            raise unknown("field", path, _paths(data))
        try:
            node[last] = json.loads(text)
        except (ValueError, RecursionError):  # not JSON; a number of too many digits; too deep
            node[last] = text
    return result


def _paths(data: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    if not isinstance(data, Mapping):
        return found
    for key, value in data.items():
        found += _paths(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [prefix + key]
    return found


def _parse(kind: Any, data: Any, path: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _parse_union(args, data, path)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise _wrong(path, data, "a list")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_parse(args[0], item, f"{path}[{i}]") for i, item in enumerate(data))
        if len(data) != len(args):
            raise _wrong(path, data, f"a list of {len(args)}")
        return tuple(_parse(a, item, f"{path}[{i}]") for i, (a, item) in enumerate(zip(args, data, strict=True)))
    if origin is typing.Literal:
        if data not in args:
            raise unknown(path or "value", str(data), [str(a) for a in args])
        return data
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        if data not in [member.value for member in kind]:
            raise unknown(path or kind.__name__, str(data), [str(member.value) for member in kind])
        return kind(data)
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, data, path)
    return _parse_plain(kind, data, path)


def _parse_union(options: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and type(None) in options:
        return None
    rest = [o for o in options if o is not type(None)]
    kinds = {o.kind: o for o in rest if dataclasses.is_dataclass(o) and hasattr(o, "kind")}
    if kinds and isinstance(data, Mapping):
        name = data.get("kind")
        if name is None and len(kinds) == 1:
            name = next(iter(kinds))
        if not isinstance(name, str) or name not in kinds:
            raise unknown(f"{path}.kind".lstrip("."), str(name), [str(k) for k in kinds])
        return _parse(kinds[name], data, path)
    failure: InputError | None = None
    for option in rest:
        try:
            return _parse(option, data, path)
        except InputError as error:
            failure = error
    raise failure or _wrong(path, data, "a value")


def _parse_dataclass(kind: Any, data: Any, path: str) -> Any:
    if not isinstance(data, Mapping):
        raise _wrong(path, data, "a table of fields")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    values = {}
    for key, value in data.items():
        where = f"{path}.{key}".lstrip(".")
        if key == "kind" and "kind" not in names:
            if value != getattr(kind, "kind", value):
                raise _wrong(where, value, repr(getattr(kind, "kind", "")))
            continue
        if key not in names:
            raise unknown("field", where, [f"{path}.{n}".lstrip(".") for n in names])
        values[key] = _parse(hints[key], value, where)
    missing = [f.name for f in dataclasses.fields(kind) if f.name not in values and _is_required(f)]
    if missing:
        raise InputError(f"{path or 'config'}: the field {missing[0]} is missing; give it.")
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}" if path else str(error)) from None


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _parse_plain(kind: Any, data: Any, path: str) -> Any:
    if kind is Any:
        return data
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        if not math.isfinite(data):
            raise _wrong(path, data, "a finite number")
        return float(data)
    if kind is int and isinstance(data, float) and data.is_integer():
        return int(data)
    if isinstance(data, bool) and kind is not bool:
        raise _wrong(path, data, _NAMES.get(kind, str(kind)))
    if isinstance(data, kind):
        return data
    raise _wrong(path, data, _NAMES.get(kind, str(kind)))


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _wrong(path: str, data: Any, expected: str) -> InputError:
    shown = repr(data)
    shown = shown if len(shown) <= LONGEST else shown[:LONGEST] + "..."
    return InputError(f"{path or 'config'}: got {shown}, expected {expected}.")
