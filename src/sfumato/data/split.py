"""Which records train and which are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.data.folder import Record, sort_key
from sfumato.errors import InputError


@dataclass(frozen=True)
class Split:
    """Three disjoint parts, each in the order of the records it was made from."""

    train: tuple[Record, ...]
    validation: tuple[Record, ...]
    test: tuple[Record, ...]


def split(records: Sequence[Record], fraction: float = 0.05, limit: int = 500, seed: int = 0) -> Split:
    """Parts by the records' own `split` where any has one, else by the SHA-256 of each name.

    A record without a split among others that have one trains; `excluded` ones are in no part. When no record is
    marked validation, round(fraction * n) of the n training records, at least 1 and at most `limit`, become it: those
    with the smallest SHA-256 of "seed/name", so that adding pictures moves few. A test part exists only where marked.
    Raises `InputError` when fewer than two records can train, or `fraction` is not in (0, 0.5].
    """
    if not 0 < fraction <= 0.5:
        raise InputError(f"held-out fraction {fraction}; expected above 0 and at most 0.5.")
    parts: dict[str, list[Record]] = {"train": [], "validation": [], "test": [], "excluded": []}
    for record in records:
        parts[record.split or "train"].append(record)
    train, validation = parts["train"], parts["validation"]
    if len(train) < (1 if validation else 2):
        raise InputError(
            f"{len(train)} of {len(records)} pictures are for training; at least 2 are needed, one of them held out."
        )
    if not validation:
        count = min(limit, max(1, round(fraction * len(train))))
        chosen = set(sorted((record.name for record in train), key=lambda name: _draw(seed, name))[:count])
        validation = [record for record in train if record.name in chosen]
        train = [record for record in train if record.name not in chosen]
    return Split(tuple(train), tuple(validation), tuple(parts["test"]))


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/".encode() + sort_key(name)[0]).digest()
