"""Caption text out of bytes of any origin: whatever a person's tools wrote becomes clean lines or nothing.

Rules, in order: a byte order mark decides (UTF-8, UTF-16); else UTF-16 when every other byte is mostly NUL; else
UTF-8; else Windows-1252, which every byte string is. Then Unicode NFC, control characters (NUL, bells, direction
overrides) and lone surrogates become spaces, runs of white space one space, and a caption ends after
`MAX_CHARACTERS` at a word. The zero-width joiner stays: emoji and several scripts are written with it.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable

MAX_BYTES = 1 << 16  # of a caption file; the rest is not read
MAX_CHARACTERS = 2000
MAX_VARIANTS = 64
_KEEP = {"\u200c", "\u200d", "\ufe0f"}


def decode_text(data: bytes) -> str:
    """`data` as text by the rules above; never raises."""
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    head = data[:1024]
    if len(head) >= 4:
        even, odd = head[0::2], head[1::2]
        if odd.count(0) > 0.6 * len(odd) and even.count(0) < 0.1 * len(even):
            return data.decode("utf-16-le", errors="replace")
        if even.count(0) > 0.6 * len(even) and odd.count(0) < 0.1 * len(odd):
            return data.decode("utf-16-be", errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(data) - error.start < 4 and error.reason.startswith("unexpected end"):  # cut in the middle of a character
            return data[: error.start].decode("utf-8")
        return data.decode("cp1252", errors="replace")


def clean(text: str) -> str:
    """One caption: NFC, one line, no control characters, at most `MAX_CHARACTERS`; may be empty."""
    text = text[: 8 * MAX_CHARACTERS]  # bounds the work below, long before the cut at a word
    kept = "".join(c if c in _KEEP or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") else " " for c in text)
    line = " ".join(unicodedata.normalize("NFC", kept).split())
    if len(line) <= MAX_CHARACTERS:
        return line
    cut = line[: MAX_CHARACTERS + 1]
    return cut.rsplit(" ", 1)[0] if " " in cut else line[:MAX_CHARACTERS]


def variants(texts: Iterable[object]) -> tuple[str, ...]:
    """Clean captions without empties and repeats, at most `MAX_VARIANTS`, first ones first; what isn't text is skipped."""
    lines = dict.fromkeys(clean(text) for text in texts if isinstance(text, str))
    lines.pop("", None)
    return tuple(lines)[:MAX_VARIANTS]


def parse_caption_file(data: bytes) -> tuple[str, ...]:
    """The caption variants of a `.txt` file: each line that is not empty is one."""
    return variants(re.split(r"[\r\n]+", decode_text(data[:MAX_BYTES])))
