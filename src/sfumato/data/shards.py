"""Tar shards in the WebDataset manner: `NAME.webp` beside `NAME.json`, one file for a whole data set.

A shard is read where it lies: the headers are walked once, pictures are read by offset when they are needed, and
nothing is ever unpacked. So member names are labels, never paths: `..`, absolute names and links cannot reach
anything (links and special members are skipped). Only plain `.tar` is read: it cannot blow up, as a compressed
one can, and pictures are compressed already.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from sfumato.alpha import straight
from sfumato.data.captions import parse_caption_file
from sfumato.data.decode import Target, decode
from sfumato.data.folder import SUFFIXES, BadFile, ImageFolder, Record, normalize_split, scan, sort_key
from sfumato.data.metadata import parse_object, parse_row
from sfumato.errors import InputError, MachineError, unknown

MAX_SIDE_BYTES = 1 << 20  # of the .json or .txt beside a picture
MAX_MEMBERS = 20_000_000


def scan_shard(path: Path) -> ImageFolder:
    """Records of a `.tar` file, sorted by name. Raises `InputError` when it is none, or cut."""
    sides: dict[str, dict[str, bytes]] = {}
    pictures: dict[str, tuple[str, int, int]] = {}
    bad: list[BadFile] = []
    for member, stream in _members(path):
        stem, suffix = _parts(member.name)
        if suffix in SUFFIXES:
            if stem in pictures:
                bad.append(BadFile(member.name, f"a second picture of the name {stem}"))
            else:
                pictures[stem] = (member.name, member.offset_data, member.size)
        elif suffix in (".json", ".txt", ".cls"):
            sides.setdefault(stem, {})[suffix] = stream.read(MAX_SIDE_BYTES)
    records = []
    for stem, (name, offset, size) in pictures.items():
        records.append(_record(path, name, offset, size, sides.get(stem, {})))
    records.sort(key=lambda record: sort_key(record.name))
    return ImageFolder(path, "shard", tuple(records), tuple(bad))


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, Any]]:
    """Regular members with a stream each. A cut or damaged archive is an `InputError`, not a shorter data set."""
    try:
        with path.open("rb") as file:
            size, head = os.fstat(file.fileno()).st_size, file.read(6)
        if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd", b"PK")):
            raise InputError(
                f"{path}: a compressed archive; a shard is a plain .tar: unpack it, give the folder, or pack it again."
            )
        with tarfile.open(path, "r:") as archive:
            count = 0
            while (member := archive.next()) is not None:
                count += 1
                if count > MAX_MEMBERS or member.offset_data + member.size > size:
                    raise InputError(f"{path}: the archive is cut at member {count} ({member.name!r}); copy it again.")
                stream = archive.extractfile(member) if member.isreg() and not member.issparse() else None
                if stream is not None:
                    yield member, stream
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
    except (tarfile.TarError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not a tar archive, or cut ({str(error)[:80]}); give a folder of pictures or a .tar shard."
        ) from None
    except OSError as error:
        raise MachineError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _parts(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the last component; the suffix is what the last dot begins."""
    path = PurePosixPath(name)
    stem = path.name.split(".", 1)[0]
    return (path.parent / stem).as_posix() if stem else "", path.suffix.lower()


def _record(path: Path, name: str, offset: int, size: int, sides: dict[str, bytes]) -> Record:
    where = f"{path.name}:{name}"
    captions: tuple[str, ...] = ()
    label: str | None = None
    split: str | None = None
    rest: dict[str, Any] = {}
    if ".json" in sides:
        try:
            text = sides[".json"].decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{where}: its .json is not UTF-8; write it again.") from None
        row = parse_row(parse_object(text, where), 1, where, file_name=name)
        captions, label, split, rest = row.captions, row.label, normalize_split(row.split, where), dict(row.rest)
    if not captions and ".txt" in sides:
        captions = parse_caption_file(sides[".txt"])
    if label is None and ".cls" in sides:
        label = sides[".cls"].decode("utf-8", "replace").strip() or None
    return Record(path, name, captions, label, split, offset, size, rest)


def pack(
    directory: str | os.PathLike[str],
    file: str | os.PathLike[str],
    size: int | None = None,
    quality: int | None = None,
    format: str = "webp",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the pictures of a folder to one `.tar` of picture and JSON members; returns its size in bytes.

    size: side to resize to, None keeps each picture's. format: `webp`, or `bmp` (raw pixels: larger, but a compressor
    run over the whole archive finds what pictures share). quality: 1 to 100 for lossy WebP, None lossless: pixels are
    equal on every background (colours where alpha is 0 are not kept). The same folder gives the same bytes (with the same
    WebP encoder): members are sorted and carry no time or owner. Raises as `scan` and `decode` do, `MachineError` when it
    cannot be written.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise InputError(f"WebP quality {quality}; expected 1 to 100, or none for lossless.")
    if format not in ("webp", "bmp"):
        raise unknown("picture format", format, ("webp", "bmp"))
    folder = scan(directory)
    if not folder.records:
        raise InputError(f"{folder.root}: 0 pictures to pack.")
    target = Path(file)
    if target.is_dir() or not target.name:
        raise InputError(f"{target}: a folder; give the name of the .tar file to write.")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool,
            tarfile.open(temporary, "w:", format=tarfile.PAX_FORMAT) as archive,
        ):
            encoded = pool.map(lambda record: _encode(record, size, format, quality), folder.records)
            for done, (record, data) in enumerate(zip(folder.records, encoded, strict=True), start=1):
                stem = _stem(record.name)
                _add(archive, f"{stem}.{format}", data)
                side = _side(record, with_captions=folder.convention != "classes")
                _add(archive, f"{stem}.json", json.dumps(side, ensure_ascii=False, separators=(",", ":")).encode())
                if progress is not None:
                    progress(done, len(folder.records))
        os.replace(temporary, target)
    except OSError as error:
        raise MachineError(f"cannot write {target}: {error.strerror}; free space or choose another place.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target.stat().st_size


def _stem(name: str) -> str:
    """A key without dots in its last component, as WebDataset cuts names at the first."""
    path = PurePosixPath(name)
    return (path.parent / path.stem.replace(".", "_")).as_posix()


def _side(record: Record, with_captions: bool) -> dict[str, Any]:
    """What stands beside a picture. The caption of a class folder is but its name: the shard keeps the label alone."""
    side = dict(record.row)
    if with_captions and not {"text", "texts", "caption", "captions"} & side.keys() and record.captions:
        side["texts"] = list(record.captions)
    if record.label is not None:
        side["label"] = record.label
    if record.split is not None:
        side["split"] = record.split
    return side


def _encode(record: Record, size: int | None, format: str, quality: int | None) -> bytes:
    pixels = decode(record.read(), record.name, Target(size, channels=4))  # (4, H, W)
    pixels = pixels[:3] if pixels[3].min() == 255 else straight(pixels)
    image = Image.fromarray(pixels.transpose(1, 2, 0))
    stream = io.BytesIO()
    if format == "bmp" and image.mode == "RGBA":
        return _bmp_with_alpha(image)
    if format == "bmp":
        image.save(stream, "BMP")
    elif quality is None:
        image.save(stream, "WEBP", lossless=True, exact=True, quality=100, method=6)
    else:
        image.save(stream, "WEBP", quality=quality, method=6, use_sharp_yuv=True)
    return stream.getvalue()


def _bmp_with_alpha(image: Image.Image) -> bytes:
    """A BMP of 32 bits with a BITMAPV4HEADER, whose masks name alpha: Pillow reads such files, and writes none."""
    (width, height), rows = image.size, image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    masks = (0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000)  # red, green, blue, alpha
    info = struct.pack("<IiiHHIIiiII4I4s48x", 108, width, height, 1, 32, 3, len(rows), 2835, 2835, 0, 0, *masks, b"BGRs")
    return struct.pack("<2sIII", b"BM", 14 + len(info) + len(rows), 0, 14 + len(info)) + info + rows


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
