"""The directory of a zip archive as torch.save writes it: members side by side, uncompressed, under one folder.

Read from the end: the end record (with its zip64 twin) says where the central directory lies; each entry there says where a
member's local header lies, and the bytes follow that. Nothing is unpacked: a member is a span of the file. Refused is what
torch.save never does: compression, encryption, two members of one name, members that overlap, names that climb.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sfumato.errors import InputError

MAX_DIRECTORY, MAX_MEMBERS = 64 * 2**20, 200_000
_END, _END64, _LOCATOR = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_ENTRY, _LOCAL = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000


@dataclass(frozen=True)
class Member:
    """`size` bytes of the archive from `offset`. `crc`: the CRC-32 that was written, 0 when it was left out."""

    name: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class _Entry:
    name: bytes
    header: int
    size: int
    crc: int
    plain: bool


def members(path: Path) -> dict[str, Member]:
    """Members by name, without the folder that they share. Raises `InputError` for an archive that torch.save did not write."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            start, length, number = _end(file, size, path)
            file.seek(start)
            entries = list(_entries(file.read(length), number, path))
            found = [_member(file, entry, start, path) for entry in entries]
    except (struct.error, UnicodeDecodeError):
        raise InputError(f"{path} is a damaged zip archive; get the file again.") from None
    end = 0
    for member in sorted(found, key=lambda m: m.offset):
        if member.offset < end:
            raise InputError(f"{path} has members that overlap ({member.name!r}); it was not written by torch.save.")
        end = member.offset + member.size
    by_name = _without_root(found, path)
    if not all(entry.plain for entry in entries):
        raise InputError(f"{path} has compressed or encrypted members, which torch.save never writes; save it again.")
    return by_name


def _end(file: BinaryIO, size: int, path: Path) -> tuple[int, int, int]:
    """(start, length, entries) of the central directory."""
    tail = min(size, _END.size + 2**16)
    file.seek(size - tail)
    data = file.read(tail)
    at = data.rfind(b"PK\5\6")
    if at < 0:
        raise InputError(f"{path} is a zip archive without its end; the download or copy did not finish, get it again.")
    _, _, _, _, number, length, start, comment = _END.unpack_from(data, at)
    if at + _END.size + comment != len(data):
        raise InputError(f"{path} is a zip archive with other data behind it; torch.save writes none.")
    end = size - tail + at
    file.seek(max(end - _LOCATOR.size, 0))
    signature, _, where, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if signature == b"PK\6\7":  # zip64, which torch.save always writes
        file.seek(min(where, end))
        signature, *_, number, length, start = _END64.unpack(file.read(_END64.size))
        if signature != b"PK\6\6":
            raise InputError(f"{path} is a damaged zip archive; get the file again.")
        end = where
    if number > MAX_MEMBERS or length > MAX_DIRECTORY or start + length != end:
        raise InputError(f"{path} is a damaged zip archive, or one with other data around it; get the file again.")
    return start, length, number


def _entries(data: bytes, number: int, path: Path) -> Iterable[_Entry]:
    at = 0
    for _ in range(number):
        fields = _ENTRY.unpack_from(data, at)
        signature, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment, _, _, _, header = fields
        at += _ENTRY.size
        name, extra = data[at : at + name_length], data[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment
        if signature != b"PK\1\2" or at > len(data):
            raise InputError(f"{path} is a damaged zip archive; get the file again.")
        size, packed, header = _wide(extra, size, packed, header)
        plain = not method and not flags & _ENCRYPTED and size == packed
        yield _Entry(name, header, packed, crc, plain)
    if at != len(data):
        raise InputError(f"{path} is a damaged zip archive; get the file again.")


def _wide(extra: bytes, *fields: int) -> list[int]:
    """Fields of 32 bits, each that is all ones replaced by the next number of the zip64 record."""
    wide: list[int] = []
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide = list(struct.unpack_from(f"<{min(length, 24) // 8}Q", extra, 4))
        extra = extra[4 + length :]
    return [wide.pop(0) if field == 0xFFFFFFFF and wide else field for field in fields]


def _member(file: BinaryIO, entry: _Entry, end: int, path: Path) -> Member:
    file.seek(entry.header)
    signature, *_, name_length, extra_length = _LOCAL.unpack(file.read(_LOCAL.size))
    offset = entry.header + _LOCAL.size + name_length + extra_length
    if signature != b"PK\3\4" or file.read(name_length) != entry.name or offset + entry.size > end:
        raise InputError(f"{path} is a zip archive whose directory does not fit its members; get the file again.")
    return Member(entry.name.decode(), offset, entry.size, entry.crc)


def _without_root(found: list[Member], path: Path) -> dict[str, Member]:
    by_name: dict[str, Member] = {}
    folded: set[str] = set()
    roots = {member.name.partition("/")[0] for member in found}
    for member in found:
        parts = member.name.split("/")
        if not all(parts) or {".", ".."} & {*parts} or "\\" in member.name or not member.name.isprintable():
            raise InputError(f"{path} has a member of the unsafe name {member.name[:100]!r}; torch.save never writes such.")
        if member.name.casefold() in folded:  # readers differ in which of the two they take
            raise InputError(f"{path} has two members of the name {member.name[:100]!r}; it was not written by torch.save.")
        folded.add(member.name.casefold())
        by_name["/".join(parts[1:])] = member
    if len(roots) != 1 or "data.pkl" not in by_name or "constants.pkl" in by_name:
        what = "a TorchScript program" if "constants.pkl" in by_name else "a zip archive of something else"
        raise InputError(f"{path} is {what}; expected a checkpoint (torch.save of a state dict).")
    return by_name
