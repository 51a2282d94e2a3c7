"""Which tokens of a context belong to which word of a prompt.

A context is: a mark of the beginning, the text's tokens, a mark of the end, padding. A word is a run of letters and digits of
any script, with apostrophes and hyphens inside; a token is its word's if its last character is, a lone space that of the word
after it; others (commas, emoji) stand for themselves. What is no token of the text is three groups more, since attention that
goes there is attention too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.compose import TEXT, Composite
from sfumato.conditioners.tokens import Tokenized
from sfumato.errors import InputError

BEGIN, END, PADDING, OTHER = "(begin)", "(end)", "(padding)", "(other inputs)"
_WORD = re.compile(r"\w+(?:['’\-]\w+)*")


@runtime_checkable
class Worded(Protocol):
    """A conditioner whose context is the tokens of a text."""

    def tokenized(self, text: str) -> Tokenized: ...


@dataclass(frozen=True)
class Group:
    """Tokens of the context that are counted together. `is_word`: of the prompt, with letters or digits."""

    name: str
    tokens: tuple[int, ...]
    is_word: bool = False


def groups(conditioner: Conditioner[Any, Any], prompt: str, length: int) -> list[Group]:
    """The groups of a context of `length` tokens, words first and in order; every token is in exactly one.

    Raises `InputError` for a conditioner that reads no text by tokens, and for a prompt without words.
    """
    part, first = _text_of(conditioner)
    text = part.tokenized(prompt)
    found = _words(text, first + 1)
    if not any(group.is_word for group in found):
        raise InputError(f"prompt: got {prompt[:40]!r}, which has no words to attend to; write some.")
    end = first + 1 + len(text.spans)
    found += [Group(BEGIN, (first,)), Group(END, (end,)), Group(PADDING, tuple(range(end + 1, first + text.length)))]
    found.append(Group(OTHER, (*range(first), *range(first + text.length, length))))
    return [group for group in found if group.tokens]


def _text_of(conditioner: Conditioner[Any, Any]) -> tuple[Worded, int]:
    """The conditioner that reads the text, and where its tokens begin in the context."""
    part: object = conditioner
    if isinstance(conditioner, Composite) and TEXT in conditioner.parts:
        if next(iter(conditioner.parts)) != TEXT:
            raise InputError("this model reads other inputs before the text, so its words have no known place.")
        part = conditioner.parts[TEXT]
    if not isinstance(part, Worded):
        raise InputError(
            f"this model is told no words ({type(conditioner).__name__}); cross-attention maps are for models that read a text."
        )
    return part, 0


def _words(text: Tokenized, first: int) -> list[Group]:
    places = {index: match for match in _WORD.finditer(text.text) for index in range(*match.span())}
    tokens: dict[int, list[int]] = {}  # where a word or a lone token begins -> its tokens
    names: dict[int, tuple[str, bool]] = {}
    for index, (start, end) in enumerate(text.spans):
        blank = not text.text[start:end].strip()
        match = places.get(end if blank else max(end - 1, start))
        begin = start if match is None else match.start()
        names[begin] = (text.text[start:end].strip() or " ", False) if match is None else (match[0], True)
        tokens.setdefault(begin, []).append(first + index)
    return [Group(names[begin][0], tuple(tokens[begin]), names[begin][1]) for begin in sorted(tokens)]
