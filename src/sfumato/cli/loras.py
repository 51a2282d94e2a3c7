"""`--lora FILE[:SCALE]`, of every command that takes LoRAs."""

from __future__ import annotations

from pathlib import Path

from sfumato.errors import InputError
from sfumato.generation.output import checked_path


def lora_from_text(text: str) -> tuple[Path, float]:
    """`FILE` or `FILE:SCALE`; a colon that no number follows belongs to the name."""
    file, colon, scale = text.rpartition(":")
    try:
        return checked_path("lora", file), float(scale) if colon else 1.0
    except (ValueError, InputError):
        return checked_path("lora", text), 1.0
