"""A picture inside of a page, so that one file is all of it."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image


def embedded(image: Image.Image, words: str, quality: int | None = None) -> str:
    """An `img` element that holds the picture as WebP and says `words`; quality: 1 to 100, or None for no loss."""
    file = io.BytesIO()
    if quality is None:
        image.save(file, "WEBP", lossless=True, method=6)
    else:
        image.save(file, "WEBP", quality=quality, method=6)
    return f'<img alt="{escape(words)}" src="data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}">'


def embedded_file(path: Path, words: str) -> str:
    """The same of a picture's file, without loss; empty where there is none."""
    if not path.is_file():
        return ""
    with Image.open(path) as image:
        return embedded(image, words)
