"""What is in a folder of pictures before anything is trained on it: counts, sizes, duplicates, unreadable files.

Every picture is decoded whole, since a truncated file shows only then. Unreadable ones are left out and listed in
`bad_files.jsonl`; more of them than `max_bad` of the folder, and more than five (or than half of a tiny folder),
stop the audit: then something else is wrong than a few broken files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sfumato.data.decode import MAX_PIXELS, DecodeError, Target, decode
from sfumato.data.folder import BadFile, ImageFolder, Record, scan
from sfumato.errors import InputError, MachineError

NEAR_EMPTY = 3  # characters; a shorter caption says nothing
ALWAYS_ALLOWED = 5


@dataclass(frozen=True)
class AuditReport:
    """What `audit` found.

    records: the readable ones, in order. sizes: ((width, height), count), most frequent first. duplicates: groups of
    names with equal pixels. no_caption, near_empty_captions, no_class, splits, classes: counts over `records`.
    """

    root: Path
    convention: str
    records: tuple[Record, ...]
    bad: tuple[BadFile, ...]
    sizes: tuple[tuple[tuple[int, int], int], ...]
    smallest_side: int
    median_side: float
    duplicates: tuple[tuple[str, ...], ...]
    no_caption: int
    near_empty_captions: int
    splits: dict[str, int]
    classes: tuple[str, ...]
    num_bytes: int

    def lines(self) -> list[str]:
        """The report for people."""
        extra = sum(len(group) - 1 for group in self.duplicates)
        common = ", ".join(f"{w}x{h} ({n})" for (w, h), n in self.sizes[:3])
        lines = [
            f"{len(self.records):,} pictures, {self.num_bytes / 1e6:,.1f} MB in {self.root} ({_CONVENTIONS[self.convention]})",
            f"sizes: {len(self.sizes)} different, most often {common}; shorter side {self.smallest_side} at least, "
            f"{self.median_side:g} in the middle",
        ]
        if self.convention in ("metadata", "text", "shard"):
            lines.append(
                f"captions: {self.no_caption:,} pictures without, {self.near_empty_captions:,} under {NEAR_EMPTY} characters"
            )
        if self.classes:
            lines.append(f"classes: {len(self.classes):,}")
        if self.splits:
            lines.append("splits: " + ", ".join(f"{name} {count:,}" for name, count in self.splits.items()))
        lines.append(f"duplicates: {extra:,} pictures repeat the pixels of another")
        lines.append(f"unreadable: {len(self.bad):,}")
        return lines


_CONVENTIONS = {
    "metadata": "captions from metadata",
    "text": "captions from .txt files",
    "classes": "classes by subfolder",
    "images": "no captions or classes",
    "shard": "a tar shard",
}


@dataclass(frozen=True)
class _Looked:
    size: tuple[int, int] = (0, 0)
    digest: str = ""
    num_bytes: int = 0
    reason: str | None = None


def audit(
    directory: str | os.PathLike[str] | ImageFolder,
    bad_files: str | os.PathLike[str] | None = None,
    max_bad: float = 0.01,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Look at every picture of a folder, shard or scanned folder.

    bad_files: where the unreadable are written as JSON lines (name, reason); removed when there are none.
    max_bad: the share of unreadable files that stops it, 0 to 1. Raises `InputError` for no or one readable picture
    or too many unreadable ones (the list is written all the same), `MachineError` when the list cannot be written.
    """
    if not 0 <= max_bad <= 1:
        raise InputError(f"max_bad {max_bad}; expected a share between 0 and 1, like 0.01.")
    folder = directory if isinstance(directory, ImageFolder) else scan(directory)
    looked = _look_at_all(folder, max_pixels, workers, progress)
    pairs = list(zip(folder.records, looked, strict=True))
    bad = [*folder.bad, *(BadFile(record.name, seen.reason) for record, seen in pairs if seen.reason is not None)]
    if bad_files is not None:
        _write_bad(Path(bad_files), bad)
    good = [(record, seen) for record, seen in pairs if seen.reason is None]
    _complain(folder, len(good), bad, max_bad, bad_files)
    return _report(folder, good, bad)


def _look_at_all(
    folder: ImageFolder, max_pixels: int, workers: int | None, progress: Callable[[int, int], None] | None
) -> list[_Looked]:
    looked = []
    with warnings.catch_warnings(), ThreadPoolExecutor(max(1, workers if workers is not None else os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd tags: what matters is whether pixels come out
        for seen in pool.map(lambda record: _look(record, max_pixels), folder.records):
            looked.append(seen)
            if progress is not None:
                progress(len(looked), len(folder.records))
    return looked


def _look(record: Record, max_pixels: int) -> _Looked:
    try:
        data = record.read()
        pixels = decode(data, record.name, Target(channels=4), max_pixels)  # (4, H, W)
    except DecodeError as error:
        return _Looked(reason=error.reason)
    _, height, width = pixels.shape
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    return _Looked((width, height), digest, len(data))


def _write_bad(path: Path, bad: list[BadFile]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if not bad:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            stream.writelines(json.dumps({"file": item.name, "reason": item.reason}) + "\n" for item in bad)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise MachineError(f"cannot write {path}: {error.strerror}; free space or choose another place.") from None


def _complain(
    folder: ImageFolder, num_good: int, bad: list[BadFile], max_bad: float, bad_files: str | os.PathLike[str] | None
) -> None:
    total = num_good + len(bad)
    if total == 0:
        raise InputError(f"{folder.root}: 0 pictures found; give a folder with .png, .jpg, .webp, .bmp, .gif or .tiff files.")
    first = f"; the first: {bad[0].name}: {bad[0].reason}" if bad else ""
    if num_good < 2:
        raise InputError(
            f"{folder.root}: {num_good} readable picture{'s' * (num_good == 0)} of {total}; at least 2 are needed{first}."
        )
    allowed = max(max_bad * total, min(ALWAYS_ALLOWED, total / 2))
    if len(bad) > allowed:
        listed = f" (all in {bad_files})" if bad_files is not None else ""
        raise InputError(
            f"{folder.root}: {len(bad)} of {total} files are unreadable{listed}, more than {max_bad:.1%}{first}. "
            "Repair or remove them, or allow a larger share."
        )


def _report(folder: ImageFolder, good: list[tuple[Record, _Looked]], bad: list[BadFile]) -> AuditReport:
    same: dict[str, list[str]] = defaultdict(list)
    for record, seen in good:
        same[seen.digest].append(record.name)
    records = tuple(record for record, _ in good)
    shorter = [min(seen.size) for _, seen in good]
    splits = Counter(record.split for record in records if record.split is not None)
    return AuditReport(
        root=folder.root,
        convention=folder.convention,
        records=records,
        bad=tuple(bad),
        sizes=tuple(sorted(Counter(seen.size for _, seen in good).items(), key=lambda item: (-item[1], item[0]))),
        smallest_side=min(shorter),
        median_side=statistics.median(shorter),
        duplicates=tuple(tuple(names) for names in same.values() if len(names) > 1),
        no_caption=sum(not record.captions for record in records),
        near_empty_captions=sum(bool(r.captions) and len(r.captions[0]) < NEAR_EMPTY for r in records),
        splits=dict(sorted(splits.items())),
        classes=tuple(sorted({record.label for record in records if record.label is not None})),
        num_bytes=sum(seen.num_bytes for _, seen in good),
    )
