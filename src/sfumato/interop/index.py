"""Tensors of a file without reading them: where each lies, and its bytes on demand.

    element i_1 ... i_n of a tensor = bytes at offset + itemsize * sum_k i_k stride_k of its file

An index is a mapping from names to entries. An entry knows type and shape, checks at construction that it stays inside its
file, and reads: in the file's own type as a view of the mapped file, without a copy; in another type in pieces, so that
beside the result there is never more than a piece.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sfumato.errors import InputError, MachineError
from sfumato.interop.globals import ITEMSIZE
from sfumato.interop.rebuild import extent

DTYPES = {name: getattr(torch, name) for name in ITEMSIZE}
PIECE = 4 * 2**20


class SourceFile:
    """A file that tensors lie in. It must stay as it is while they are in use: an index knows it by size, time and place."""

    def __init__(self, path: Path):
        self.path = path
        self._state = self._stat(os.stat(path))
        self.size = self._state[0]
        self._map: mmap.mmap | None = None

    @staticmethod
    def _stat(found: os.stat_result) -> tuple[int, int, int]:
        return found.st_size, found.st_mtime_ns, found.st_ino

    def _same(self, descriptor: int) -> None:
        if self._stat(os.fstat(descriptor)) != self._state:
            raise InputError(f"{self.path} was changed while it was read; start again.")

    def map(self) -> mmap.mmap:
        """The file in memory, copied on write: what is done to a tensor never reaches the file."""
        if self._map is None:
            with open(self.path, "rb") as file:
                self._same(file.fileno())
                try:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                except OSError as error:
                    raise MachineError(f"cannot map {self.path} into memory ({error.strerror}). Free memory.") from None
        return self._map

    def place_of(self, value: Tensor) -> int | None:
        """Byte of the file at which a view of its map begins; None for a tensor of its own memory."""
        if self._map is None or not value.numel():
            return None
        place = value.data_ptr() - torch.frombuffer(self._map, dtype=torch.uint8).data_ptr()
        return place if 0 <= place < self.size else None

    def read_into(self, buffer: Tensor, offset: int) -> None:
        """Fill a one-dimensional uint8 tensor from byte `offset` on."""
        view = memoryview(buffer.numpy())  # type: ignore[arg-type]  # an array is a buffer
        with open(self.path, "rb", buffering=0) as file:
            self._same(file.fileno())
            file.seek(offset)
            while view:
                done = file.readinto(view)
                if not done:
                    raise InputError(f"{self.path} was changed while it was read; start again.")
                view = view[done:]


_thread = threading.local()


def _piece() -> Tensor:
    """`PIECE` bytes to read into, one piece a thread and kept: fresh pages cost more than what is read into them.

    Not from the heap, where the pieces of one load would leave holes between its results.
    """
    if not hasattr(_thread, "piece"):
        _thread.piece = torch.frombuffer(mmap.mmap(-1, PIECE), dtype=torch.uint8)
    piece: Tensor = _thread.piece
    return piece


class Loadable(Protocol):
    """A tensor that is not read yet."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of its elements as they are stored."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor on the CPU; numbers with a point as `dtype` where that is given, whole numbers as they are."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a file. `stride` in elements, `offset` in bytes from the start of the file. Raises `InputError` outside."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    file: SourceFile
    offset: int

    def __post_init__(self) -> None:
        numbers = (*self.shape, *self.stride, self.offset)
        if len(self.shape) != len(self.stride) or min(numbers) < 0 or self.offset + self.span > self.file.size:
            raise InputError(f"{self.file.path} says of a tensor that it lies outside the file; get the file again.")

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that its elements take, each counted once."""
        return self.numel * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Bytes of the file from its first element to its last."""
        return extent(self.shape, self.stride) * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements lie in order without gaps."""
        own = zip(self.shape, self.stride, contiguous_stride(self.shape), strict=True)
        return not self.numel or all(n == 1 or s == t for n, s, t in own)

    def reshape(self, *shape: int) -> TensorEntry:
        """The same elements in another shape; only of a contiguous entry, and of as many elements."""
        assert self.is_contiguous, "a view of other strides has no such shape"
        assert prod(shape) == self.numel, f"{self.shape} has other elements than {shape}"
        return replace(self, shape=shape, stride=contiguous_stride(shape))

    def narrow(self, dim: int, start: int, length: int) -> TensorEntry:
        """`length` slices from `start` on along `dim`."""
        assert 0 <= start <= start + length <= self.shape[dim], f"{start} + {length} is not in {self.shape[dim]}"
        shape = (*self.shape[:dim], length, *self.shape[dim + 1 :])
        return replace(self, shape=shape, offset=self.offset + start * self.stride[dim] * self.dtype.itemsize)

    def permute(self, *dims: int) -> TensorEntry:
        """Dimensions in another order."""
        assert sorted(dims) == list(range(len(self.shape))), f"{dims} is no order of {len(self.shape)} dimensions"
        return replace(self, shape=tuple(self.shape[d] for d in dims), stride=tuple(self.stride[d] for d in dims))

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor on the CPU, strided as in the file; as `dtype`, if given and it is no whole number, contiguous."""
        if dtype is None or dtype == self.dtype or not (self.dtype.is_floating_point or self.dtype.is_complex):
            return self._view()
        out = torch.empty(self.shape, dtype=dtype)
        if not self.is_contiguous:
            return out.copy_(self._view())
        flat, piece = out.view(-1), PIECE // self.dtype.itemsize
        buffer = _piece()
        for start in range(0, self.numel, piece):
            part = flat[start : start + piece]
            raw = buffer[: len(part) * self.dtype.itemsize]
            self.file.read_into(raw, self.offset + start * self.dtype.itemsize)
            part.copy_(raw.view(self.dtype))
        return out

    def _view(self) -> Tensor:
        if not self.numel:
            return torch.empty(self.shape, dtype=self.dtype)
        if self.offset % self.dtype.itemsize:  # processors want elements at multiples of their size
            raw = torch.empty(self.span, dtype=torch.uint8)
            self.file.read_into(raw, self.offset)
        else:
            raw = torch.frombuffer(self.file.map(), dtype=torch.uint8, count=self.span, offset=self.offset)
        return raw.view(self.dtype).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Joined:
    """Tensors of one type, one after the other along `dim`."""

    parts: tuple[Loadable, ...]
    dim: int = 0

    def __post_init__(self) -> None:
        rest = {(*p.shape[: self.dim], *p.shape[self.dim + 1 :]) for p in self.parts}
        assert len(rest) == 1 == len({p.dtype for p in self.parts}), "parts differ in more than one dimension"

    @property
    def dtype(self) -> torch.dtype:
        """The parts' type."""
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The parts' shape, with `dim` added up."""
        first = self.parts[0].shape
        return (*first[: self.dim], sum(p.shape[self.dim] for p in self.parts), *first[self.dim + 1 :])

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """A new tensor."""
        return torch.cat([part.read(dtype) for part in self.parts], self.dim)


@dataclass(frozen=True)
class Held:
    """A tensor that is in memory already: a view of the mapped file in another form, or a value that was computed."""

    value: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Its own type."""
        return self.value.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.value.shape)

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor itself where the type is its own."""
        return self.value if dtype is None or not self.value.is_floating_point() else self.value.to(dtype)


class TensorIndex(Mapping[str, TensorEntry]):
    """Entries by name, in the file's order."""

    def __init__(self, entries: Mapping[str, TensorEntry]):
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> TensorEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"TensorIndex({len(self)} tensors, {self.nbytes} bytes)"

    @property
    def numel(self) -> int:
        """Elements of all tensors."""
        return sum(entry.numel for entry in self._entries.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, those of a shared storage once for each."""
        return sum(entry.nbytes for entry in self._entries.values())

    @property
    def dtypes(self) -> dict[torch.dtype, int]:
        """Elements of each type."""
        found: dict[torch.dtype, int] = {}
        for entry in self._entries.values():
            found[entry.dtype] = found.get(entry.dtype, 0) + entry.numel
        return found

    def under(self, prefix: str) -> TensorIndex:
        """What is named `prefix` and more, by the rest of its name."""
        start = len(prefix)
        return TensorIndex({n[start:]: e for n, e in self._entries.items() if n.startswith(prefix) and n != prefix})

    def prefixed(self, prefix: str) -> TensorIndex:
        """The same entries, with `prefix` before their names."""
        return TensorIndex({prefix + name: entry for name, entry in self._entries.items()})

    def renamed(self, names: Mapping[str, str]) -> TensorIndex:
        """Entries by new names: `names` maps new to old. Raises `KeyError` for an old name that is not there."""
        return TensorIndex({new: self._entries[old] for new, old in names.items()})

    def read(self, names: Iterable[str] | None = None, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Tensors by name, all by default; numbers with a point as `dtype`, if given. Raises `InputError` for unknown names."""
        wanted = list(self._entries if names is None else names)
        missing = [name for name in wanted if name not in self._entries]
        if missing:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            raise InputError(f"no tensor {missing[0]!r}{more} in the file.")
        return {name: self._entries[name].read(dtype) for name in wanted}


def loadables(index: TensorIndex, tensors: Mapping[str, Tensor]) -> dict[str, Loadable]:
    """Tensors, of which those that are views of the mapped files of `index` become entries again.

    Reading an entry in another type goes by pieces; converting the view would make all its pages resident beside the result.
    """
    files = {entry.file for entry in index.values()}
    return {name: _loadable(value, files) for name, value in tensors.items()}


def _loadable(value: Tensor, files: Iterable[SourceFile]) -> Loadable:
    for file in files:
        place = file.place_of(value)
        if place is not None:
            return TensorEntry(value.dtype, tuple(value.shape), value.stride(), file, place)
    return Held(value)


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of elements in order: the last dimension fastest."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))
