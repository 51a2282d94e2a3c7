"""Tables of captions: `metadata.jsonl` and `metadata.csv` of the Hugging Face imagefolder convention.

Columns: `file_name`; `text` or `caption` (one caption); optional `texts` or `captions` (a list: variants of the same
meaning); optional `label` and `split`; whatever else stands in a row is kept as it is.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.data.captions import decode_text, variants
from sfumato.errors import InputError, MachineError

MAX_TABLE_BYTES = 4 << 30
_OWN = ("file_name", "file", "image", "split")


@dataclass(frozen=True)
class Row:
    """One row; `line` counts from 1."""

    line: int
    file_name: str
    captions: tuple[str, ...]
    label: str | None
    split: object
    rest: Mapping[str, Any]


def read_metadata(path: Path, name: str) -> Iterator[Row]:
    """Rows of a `.jsonl` or `.csv` table. Raises `InputError` with the line that is wrong."""
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise InputError(f"{name}: larger than {MAX_TABLE_BYTES >> 30} GB; split the data set into shards.")
        text = decode_text(path.read_bytes())
    except OSError as error:
        raise MachineError(f"{path}: cannot read it ({error.strerror}); change its permissions.") from None
    rows = _csv_rows(text, name) if path.suffix == ".csv" else _json_rows(text, name)
    for line, row in rows:
        yield parse_row(row, line, name)


def parse_row(row: Mapping[str, Any], line: int, name: str, file_name: str | None = None) -> Row:
    """A `Row` of one table row; `file_name` is given where the name comes from elsewhere (shards)."""
    file = file_name if file_name is not None else row.get("file_name", row.get("file", row.get("image")))
    if not isinstance(file, str) or not file:
        raise InputError(f"{name} line {line}: no file_name; every row needs one.")
    many = row.get("texts", row.get("captions"))
    texts = [row.get("text", row.get("caption")), *(many if isinstance(many, list) else [many])]
    label = row.get("label")
    return Row(
        line=line,
        file_name=file,
        captions=variants(texts),
        label=str(label) if isinstance(label, str | int) and label != "" else None,
        split=row.get("split"),
        rest={key: value for key, value in row.items() if key not in _OWN},
    )


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object. Raises `InputError` for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{where}: not JSON ({str(error)[:80]}); expected one object, like {{"file_name": ...}}.') from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(value).__name__}.")
    return value


def _json_rows(text: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, parse_object(content, f"{name} line {line}")


def _csv_rows(text: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text.replace("\0", ""), newline=""), restkey="", strict=True)
    try:
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if key and value is not None}
    except csv.Error as error:
        raise InputError(f"{name} line {reader.line_num}: not CSV ({error}).") from None
