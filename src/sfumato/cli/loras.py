"""`--lora FILE[:SCALE[:TEXT]]`, of every command that takes LoRAs."""

from __future__ import annotations

from pathlib import Path

from sfumato.errors import InputError
from sfumato.generation.output import checked_path

Scale = float | tuple[float, float]


def lora_from_text(text: str) -> tuple[Path, Scale]:
    """`FILE`, `FILE:SCALE`, or `FILE:SCALE:TEXT` with another scale for text encoders; a colon that no number follows belongs
    to the name."""
    file = text
    scales: list[float] = []
    while len(scales) < 2 and (parted := _last(file)) is not None:
        file, scale = parted
        scales.insert(0, scale)
    if not scales:
        return checked_path("lora", file), 1.0
    return checked_path("lora", file), scales[0] if len(scales) == 1 else (scales[0], scales[1])


def _last(text: str) -> tuple[str, float] | None:
    """What stands before the last colon, where a number follows that and a path can be so named."""
    file, _, scale = text.rpartition(":")
    try:
        checked_path("lora", file)
        return file, float(scale)
    except (ValueError, InputError):
        return None
