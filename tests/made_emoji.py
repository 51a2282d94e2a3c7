"""A set of emoji that are made up: one colour and one shape each, in five styles."""

from __future__ import annotations

import colorsys
import json
from pathlib import Path

from PIL import Image, ImageDraw

from sfumato.data.emoji import hash_split

STYLES = ("noto", "twemoji", "openmoji", "fluent-3d", "fluent-flat")
LABELS = (
    "zebra",
    "red apple",
    "green apple",
    "dragon",
    "dog face",
    "duck",
    "umbrella",
    "jeans",
    "castle",
    "open book",
    "shark",
)


def colour(number: int) -> tuple[int, ...]:
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(number * 0.618 % 1, 0.9, 0.8))


def write_emoji(folder: Path, size: int = 64, opaque: bool = False) -> Path:
    """A set such as `sfumato data emoji` writes: emoji in five styles, one toned, one excluded, a pair, a stranger."""
    rows = []
    for number, label in enumerate((*LABELS, "mermaid: dark skin tone", "fork and knife", "lion", "dog and a cat")):
        for style in STYLES:
            code = f"{0x1F400 + 7 * number:X}" + ("+1F600" if label == "dog and a cat" else "")
            part = "excluded" if label == "lion" else "train" if "+" in code else hash_split(code, style)
            image = Image.new("RGBA", (size, size), (255, 255, 255, 255 if opaque else 0))
            draw = ImageDraw.Draw(image)
            box = (size // 8, size // 6 + number, size - size // 7, size - size // 5)
            (draw.ellipse if number % 2 else draw.rectangle)(box, fill=(*colour(number), 255))
            path = folder / "images" / style / f"{code}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            tone = [5] if "skin tone" in label else []
            row = {"file_name": f"images/{style}/{code}.png", "text": label, "hexcode": code, "style": style}
            rows.append(row | {"label": label, "tone": tone, "split": part})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder
