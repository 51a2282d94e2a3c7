"""A folder of pictures (or a `.tar` shard) -> `Record`s: which files, with which captions, label and split.

Four conventions, the first that fits: `metadata.jsonl` or `metadata.csv` in the folder or below it (Hugging Face
imagefolder: `file_name` relative to the metadata file, `text` or `caption`, here also `texts`, `label`, `split`);
a `.txt` file beside a picture; classes by subfolder; pictures alone. Top folders all named train / validation /
test are splits. Records are sorted by the bytes of their NFC name: the same order on every machine.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from sfumato.data.captions import MAX_BYTES, parse_caption_file
from sfumato.data.decode import MAX_FILE_BYTES, DecodeError
from sfumato.data.metadata import Row, read_metadata
from sfumato.errors import InputError, MachineError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# Pictures that are not read here: listed as unreadable instead of passed over in silence.
FOREIGN_SUFFIXES = frozenset(
    {
        ".svg",
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jp2",
        ".psd",
        ".ico",
        ".tga",
        ".ppm",
        ".pgm",
        ".exr",
        ".hdr",
        ".dng",
        ".cr2",
        ".nef",
    }
)
SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "excluded": "excluded",
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One picture: a file, or the bytes [offset, offset + num_bytes) of a shard.

    name: relative to the folder, with `/`. captions: variants of one meaning, the first the best; may be empty.
    split: train, validation, test, excluded or None. row: every other field of the metadata as it was written.
    """

    path: Path
    name: str
    captions: tuple[str, ...] = ()
    label: str | None = None
    split: str | None = None
    offset: int | None = None
    num_bytes: int | None = None
    row: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def read(self) -> bytes:
        """The file's bytes. Raises `DecodeError`: gone, not a file, not allowed, too large."""
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a FIFO would block
        try:
            handle = os.open(self.path, flags)
        except FileNotFoundError:
            raise DecodeError(self.name, "the file is not there any more") from None
        except PermissionError:
            raise DecodeError(self.name, "not allowed to read it: change its permissions") from None
        except OSError as error:
            raise DecodeError(self.name, f"cannot be opened ({error.strerror})") from None
        with os.fdopen(handle, "rb") as stream:
            info = os.fstat(handle)
            if not stat.S_ISREG(info.st_mode):
                raise DecodeError(self.name, "not a regular file")
            size = info.st_size if self.num_bytes is None else self.num_bytes
            if size > MAX_FILE_BYTES:
                raise DecodeError(self.name, f"larger than {MAX_FILE_BYTES >> 20} MB, refused")
            try:
                stream.seek(self.offset or 0)
                return stream.read(size)
            except OSError as error:
                raise DecodeError(self.name, f"cannot be read ({error.strerror})") from None


@dataclass(frozen=True)
class BadFile:
    """A file that gives no picture, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageFolder:
    """What `scan` found. convention: metadata, text, classes, images or shard; bad: files it could not use."""

    root: Path
    convention: str
    records: tuple[Record, ...]
    bad: tuple[BadFile, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices (sorted)."""
        return tuple(sorted({record.label for record in self.records if record.label is not None}))


def scan(path: str | os.PathLike[str]) -> ImageFolder:
    """Read the names and captions of a folder or a `.tar` shard; no picture is opened.

    Hidden files, FIFOs, devices and links that lead out of the folder are skipped; linked folders are not entered.
    Raises `InputError` when there is no such folder or its metadata is wrong, `MachineError` when it may not be read.
    """
    root = Path(path)
    if root.is_file():
        from sfumato.data.shards import scan_shard

        return scan_shard(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a folder of pictures or a .tar shard.")
    files = dict(sorted(walk_files(root), key=lambda item: sort_key(item[0])))
    metadata = [name for name in files if PurePosixPath(name).name in ("metadata.jsonl", "metadata.csv")]
    if metadata:
        return _from_metadata(root, files, metadata)
    return _from_names(root, files)


def sort_key(name: str) -> tuple[bytes, bytes]:
    """Order that depends on neither the locale nor the file system's Unicode form."""
    raw = name.encode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape"), raw


def normalize_split(value: object, where: str) -> str | None:
    """`val` -> `validation` and so on; None for nothing. Raises `InputError` for another word."""
    if value is None or value == "":
        return None
    known = SPLIT_NAMES.get(value.strip().lower()) if isinstance(value, str) else None
    if known is None:
        raise InputError(f"{where}: split {value!r}; expected train, validation, test or excluded.")
    return known


def walk_files(root: Path) -> Iterator[tuple[str, Path]]:
    """(relative name, path) of the regular files under `root`, without hidden ones and links that lead out of it."""
    real = root.resolve()

    def refuse(error: OSError) -> None:
        if error.filename is not None and Path(error.filename) == root:
            raise MachineError(f"{root}: not allowed to list it; change its permissions.") from None

    for folder, names, files in os.walk(root, onerror=refuse):
        names[:] = [name for name in names if not name.startswith(".") and name != "__MACOSX"]
        for name in files:
            path = Path(folder) / name
            if name.startswith(".") or not _is_inside(path, real):
                continue
            yield path.relative_to(root).as_posix(), path


def _is_inside(path: Path, real_root: Path) -> bool:
    """A regular file, or a link to one that stays under the root."""
    try:
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            target = path.resolve(strict=True)
            return target.is_relative_to(real_root) and stat.S_ISREG(target.lstat().st_mode)
        return stat.S_ISREG(info.st_mode)
    except (OSError, RuntimeError):  # a loop of links, a file gone meanwhile
        return False


def _from_metadata(root: Path, files: Mapping[str, Path], metadata: list[str]) -> ImageFolder:
    records: dict[str, Record] = {}
    bad: list[BadFile] = []
    for table in metadata:
        parent = PurePosixPath(table).parent
        for row in read_metadata(files[table], table):
            name = _inside_name(parent, row, table)
            where = f"{table} line {row.line}"
            if name not in files:
                bad.append(BadFile(name, f"named in {where} but not there (or a link out of the folder)"))
            elif name in records:
                raise InputError(
                    f"{where}: {name} has a row already; keep one row a picture, more captions as a list in `texts`."
                )
            else:
                split = normalize_split(row.split, where)
                records[name] = Record(files[name], name, row.captions, row.label, split, row=row.rest)
    listed = tuple(sorted(records.values(), key=lambda record: sort_key(record.name)))
    return ImageFolder(root, "metadata", listed, tuple(bad))


def _inside_name(parent: PurePosixPath, row: Row, table: str) -> str:
    given = row.file_name.replace("\\", "/")
    parts = PurePosixPath(given).parts
    if given.startswith("/") or ".." in parts or not parts or "\0" in given:
        raise InputError(
            f"{table} line {row.line}: file_name {row.file_name!r}; expected a path below the folder, without '..'."
        )
    return (parent / given).as_posix()


def _from_names(root: Path, files: Mapping[str, Path]) -> ImageFolder:
    records, bad, with_text = [], [], False
    for name, path in files.items():
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in FOREIGN_SUFFIXES:
            bad.append(BadFile(name, f"{suffix[1:].upper()} is not read here: convert it to PNG, JPEG or WebP"))
        if suffix not in SUFFIXES:
            continue
        text = files.get(str(PurePosixPath(name).with_suffix(".txt"))) or files.get(f"{name}.txt")
        with_text |= text is not None
        records.append(Record(path, name, _read_caption(text) if text else ()))
    records = _splits_from_top(records)
    if with_text:
        return ImageFolder(root, "text", tuple(records), tuple(bad))
    labels = [_class_of(record) for record in records]
    if records and all(label is not None for label in labels):
        named = [replace(r, label=label, captions=(_spoken(label or ""),)) for r, label in zip(records, labels, strict=True)]
        return ImageFolder(root, "classes", tuple(named), tuple(bad))
    return ImageFolder(root, "images", tuple(records), tuple(bad))


def _read_caption(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as stream:
            return parse_caption_file(stream.read(MAX_BYTES))
    except OSError as error:
        raise MachineError(
            f"{path}: cannot read the caption ({error.strerror}); change its permissions or delete it."
        ) from None


def _splits_from_top(records: list[Record]) -> list[Record]:
    tops = {record.name.partition("/")[0].lower() for record in records}
    if not records or not all("/" in record.name for record in records) or not tops <= SPLIT_NAMES.keys():
        return records
    return [replace(record, split=SPLIT_NAMES[record.name.partition("/")[0].lower()]) for record in records]


def _class_of(record: Record) -> str | None:
    """The first folder of the name, after the split's."""
    parts = record.name.split("/")[1 if record.split else 0 :]
    return parts[0] if len(parts) > 1 else None


def _spoken(label: str) -> str:
    return " ".join(label.replace("_", " ").replace("-", " ").split())
