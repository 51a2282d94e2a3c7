"""A reader of pickles that runs nothing: opcodes become plain values, names of `globals` become words, calls become records.

Python's own reader looks a name up, calls what it found and hands back the result. This one knows no lookup and no call.
GLOBAL leaves a `Word`; REDUCE of a word makes the tensor, table or nothing that the word stands for; a name outside the
tables ends the reading. So the worst that a pickle can do here is to ask for more memory or time than `Limits` allow.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Final

from sfumato.interop import globals as names
from sfumato.interop.rebuild import Nothing, Refused, Storage, Word, count, rebuild, shown


@dataclass(frozen=True)
class Limits:
    """What one pickle may take. A published checkpoint takes a tenth of it, optimizer included."""

    operations: int = 3_000_000
    marks: int = 1_000
    protocol: int = 5


_MARK: Final = object()
_KEYS = (str, int, float, bytes, bool, type(None), Word, Nothing)


class Reader:
    """Reads one pickle after another from `file`. `storages` collects every storage that they mention, by its key."""

    def __init__(self, file: IO[bytes], limits: Limits | None = None):
        self.file, self.limits = file, limits or Limits()
        self.storages: dict[str, Storage] = {}
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The next pickle's value; the file then stands behind its STOP. Raises `Refused` with one line."""
        self.stack, self.marks, self.memo = [], [], {}
        try:
            for done, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):
                if done >= self.limits.operations:
                    raise Refused(f"a pickle of more than {self.limits.operations} operations")
                if opcode.name == "STOP":
                    if len(self.stack) != 1 or self.marks:
                        raise Refused("a damaged pickle (STOP with an unfinished value)")
                    return self.stack.pop()
                self._step(opcode.name, argument)
        except Refused:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, AssertionError, OverflowError, EOFError) as error:
            raise Refused(f"a damaged pickle ({shown(f'{type(error).__name__}: {error}')})") from None
        except (RecursionError, MemoryError):
            raise Refused("a pickle that asks for more memory than a checkpoint needs") from None
        raise Refused("a damaged pickle (no STOP)")

    def _step(self, name: str, argument: Any) -> None:
        operation = _OPERATIONS.get(name)
        if operation is not None:
            operation(self, argument)
        elif name in _LITERALS:
            self.stack.append(argument)
        else:
            raise Refused(f"a pickle operation {name}, which torch.save does not write")

    def popmark(self) -> list[Any]:
        """What stands above the last mark; the stack is then what stood below it."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        if len(self.marks) >= self.limits.marks:
            raise Refused(f"a pickle nested deeper than {self.limits.marks}")
        self.marks.append(self.stack)
        self.stack = []

    def word(self, module: Any, name: Any) -> Word:
        """The word of a name; refused when it is in no table."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("a pickle that asks for a name that is no text")
        full = f"{module}.{name}"
        if full not in names.ALLOWED:
            raise Refused(f"asks for {shown(full)}, which is not in the list of what a checkpoint may hold")
        return Word(full)

    def reduce(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Word) or not isinstance(arguments, tuple):
            raise Refused("a pickle that calls something without a name")
        self.stack.append(rebuild(function, arguments))

    def persistent(self, identity: Any) -> None:
        """('storage', class, key, device, elements[, view]): a view is (key, first element, elements) of the whole."""
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
            raise Refused("a reference that is not to a storage, as torch.save writes for whole modules; expected tensors only")
        _, kind, key, _, elements, *view = identity
        dtype = names.STORAGES.get(kind.name) if isinstance(kind, Word) else None
        if dtype is None or not isinstance(key, str):
            raise Refused("a storage of an unknown class")
        whole = Storage(key, dtype, count(elements, "number of elements"))
        if self.storages.setdefault(key, whole) != whole:
            raise Refused(f"a storage {shown(key)} described in two ways")
        if view and view[0] is not None:
            _, first, length = view[0]
            whole = Storage(key, dtype, count(length, "length of a view"), count(first, "start of a view"))
        self.stack.append(whole)


def _put(reader: Reader, index: int) -> None:
    reader.memo[index] = reader.stack[-1]


def _get(reader: Reader, index: int) -> None:
    reader.stack.append(reader.memo[index])


def _memoize(reader: Reader, _: Any) -> None:
    reader.memo[len(reader.memo)] = reader.stack[-1]


def _global(reader: Reader, argument: str) -> None:
    module, _, name = argument.partition(" ")  # pickletools joins the two lines by a space
    reader.stack.append(reader.word(module, name))


def _stack_global(reader: Reader, _: Any) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    reader.stack.append(reader.word(module, name))


def _inst(reader: Reader, argument: str) -> None:
    arguments = tuple(reader.popmark())
    _global(reader, argument)
    reader.reduce(reader.stack.pop(), arguments)


def _obj(reader: Reader, _: Any) -> None:
    function, *arguments = reader.popmark()
    reader.reduce(function, tuple(arguments))


def _reduce(reader: Reader, _: Any) -> None:
    arguments, function = reader.stack.pop(), reader.stack.pop()
    reader.reduce(function, arguments)


def _newobj_ex(reader: Reader, _: Any) -> None:
    _, arguments, function = reader.stack.pop(), reader.stack.pop(), reader.stack.pop()
    reader.reduce(function, arguments)


def _extension(reader: Reader, code: int) -> None:
    raise Refused(f"asks for code {code} of the extension registry, which a checkpoint has no use for")


def _build(reader: Reader, _: Any) -> None:
    """Attributes: thrown away. On a class, a function or a tensor they have no business."""
    reader.stack.pop()
    if not isinstance(reader.stack[-1], dict | Nothing):
        raise Refused("a pickle that sets attributes of something other than an object")


def _append(reader: Reader, items: list[Any]) -> None:
    target = reader.stack[-1]
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Nothing):
        raise Refused("a pickle that appends to something other than a list")


def _set(reader: Reader, items: list[Any]) -> None:
    target = reader.stack[-1]
    if len(items) % 2:
        raise Refused("a damaged pickle (a key without a value)")
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key if isinstance(key, _KEYS) else Nothing()] = value
    elif not isinstance(target, Nothing):
        raise Refused("a pickle that sets items of something other than a table")


def _list(reader: Reader, _: Any) -> None:
    items = reader.popmark()  # first, since it changes the stack that is appended to
    reader.stack.append(items)


def _tuple(reader: Reader, _: Any) -> None:
    items = reader.popmark()
    reader.stack.append(tuple(items))


def _dict(reader: Reader, _: Any) -> None:
    items = reader.popmark()
    reader.stack.append({})
    _set(reader, items)


def _take(reader: Reader, number: int) -> list[Any]:
    if len(reader.stack) < number:
        raise IndexError("stack underflow")
    taken = reader.stack[-number:]
    del reader.stack[-number:]
    return taken


def _pop(reader: Reader, _: Any) -> None:
    if reader.stack:
        reader.stack.pop()
    else:
        reader.popmark()


def _pop_mark(reader: Reader, _: Any) -> None:
    reader.popmark()


def _protocol(reader: Reader, version: int) -> None:
    if version > reader.limits.protocol:
        raise Refused(f"a pickle of protocol {version}; the newest is {reader.limits.protocol}")


def _nothing(reader: Reader, _: Any) -> None:
    return None


def _discard(reader: Reader, _: Any) -> None:
    """A frozen set of what stands above the mark."""
    reader.popmark()
    reader.stack.append(Nothing())


_LITERALS: Final = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT",
    "BINFLOAT",
}  # fmt: skip
_OPERATIONS: Final[dict[str, Callable[[Reader, Any], None]]] = {
    "PROTO": _protocol,
    "FRAME": _nothing,
    "NONE": lambda r, _: r.stack.append(None),
    "NEWTRUE": lambda r, _: r.stack.append(True),
    "NEWFALSE": lambda r, _: r.stack.append(False),
    "EMPTY_LIST": lambda r, _: r.stack.append([]),
    "EMPTY_TUPLE": lambda r, _: r.stack.append(()),
    "EMPTY_DICT": lambda r, _: r.stack.append({}),
    "EMPTY_SET": lambda r, _: r.stack.append(Nothing()),
    "MARK": Reader.mark,
    "LIST": _list,
    "TUPLE": _tuple,
    "TUPLE1": lambda r, _: r.stack.append(tuple(_take(r, 1))),
    "TUPLE2": lambda r, _: r.stack.append(tuple(_take(r, 2))),
    "TUPLE3": lambda r, _: r.stack.append(tuple(_take(r, 3))),
    "DICT": _dict,
    "FROZENSET": _discard,
    "APPEND": lambda r, _: _append(r, _take(r, 1)),
    "APPENDS": lambda r, _: _append(r, r.popmark()),
    "ADDITEMS": lambda r, _: _append(r, r.popmark()),
    "SETITEM": lambda r, _: _set(r, _take(r, 2)),
    "SETITEMS": lambda r, _: _set(r, r.popmark()),
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda r, _: r.stack.append(r.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "MEMOIZE": _memoize,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "INST": _inst,
    "OBJ": _obj,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _newobj_ex,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    "BUILD": _build,
    "PERSID": lambda r, _: r.persistent(None),
    "BINPERSID": lambda r, _: r.persistent(r.stack.pop()),
}
