"""Captions of emoji scenes, made from where things are.

With d = the centre of the other's box minus that of one's (x to the right, y down), S the side of the picture: one is `left of`
the other where d_x >= 1.5 |d_y| and d_x >= S/8, `above` it where d_y >= 1.5 |d_x| and d_y >= S/8 (`right of` and `below`: the
same seen from the other). Where neither holds, no relation is said. Every caption of a scene is true of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.data.emoji_text import with_article

LEFT, RIGHT, ABOVE, BELOW = RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {LEFT: RIGHT, RIGHT: LEFT, ABOVE: BELOW, BELOW: ABOVE}
_LONG = {LEFT: "to the left of", RIGHT: "to the right of", ABOVE: "above", BELOW: "below"}
Box = tuple[int, int, int, int]  # x, y, w, h in pixels, as COCO writes it


@dataclass(frozen=True)
class Relation:
    """`subject` and `object` are indices into the scene's things; `relation` is one of `RELATIONS`."""

    subject: int
    relation: str
    object: int

    def turned(self) -> Relation:
        """The same, told of the other thing."""
        return Relation(self.object, OPPOSITE[self.relation], self.subject)


@dataclass(frozen=True)
class Captions:
    """`texts` has no repeats, the first is the caption; `said` is what the first says."""

    texts: tuple[str, ...]
    said: tuple[Relation, ...] = ()


def relation(first: Box, second: Box, size: int) -> str | None:
    """How `first` lies to `second` by the rule above; None where it is not clear."""
    dx, dy = (second[i] + second[i + 2] / 2 - first[i] - first[i + 2] / 2 for i in (0, 1))
    if max(abs(dx), abs(dy)) < size / 8:
        return None
    if abs(dx) >= 1.5 * abs(dy):
        return LEFT if dx > 0 else RIGHT
    if abs(dy) >= 1.5 * abs(dx):
        return ABOVE if dy > 0 else BELOW
    return None


def relations(boxes: Sequence[Box], size: int) -> tuple[Relation, ...]:
    """The clear relation of each pair of things, told of the one that comes first."""
    found = []
    for i, first in enumerate(boxes):
        for j in range(i + 1, len(boxes)):
            how = relation(first, boxes[j], size)
            if how is not None:
                found.append(Relation(i, how, j))
    return tuple(found)


def captions(rng: random.Random, nouns: Sequence[str], clear: Sequence[Relation], place: str) -> Captions:
    """Captions of things called `nouns` that lie on `place` ("a blue background"), `clear` their relations."""
    names = [with_article(noun) for noun in nouns]
    order = list(range(len(names)))
    rng.shuffle(order)
    listed = _listed([names[i] for i in order])
    said = _choose(rng, len(names), clear)
    if not said:
        return Captions((listed, f"{listed} on {place}"))
    texts = [_sentence(said, names)]
    if len(names) == 2:
        (told,) = said
        for each in (told, told.turned()):
            texts += [f"{names[each.subject]} {wording[each.relation]} {names[each.object]}" for wording in (_SHORT, _LONG)]
    texts += [f"{texts[0]}, on {place}", listed]
    return Captions(tuple(dict.fromkeys(texts)), said)


_SHORT = {name: name for name in RELATIONS}


def _choose(rng: random.Random, count: int, clear: Sequence[Relation]) -> tuple[Relation, ...]:
    """What one thing is to all the others, for some thing of which that is clear; nothing where there is none."""
    both = [*clear, *(each.turned() for each in clear)]
    told = [tuple(each for each in both if each.subject == subject) for subject in range(count)]
    full = [each for each in told if each and len(each) == count - 1]
    return full[int(rng.random() * len(full))] if full else ()


def _sentence(said: Sequence[Relation], names: Sequence[str]) -> str:
    """`a zebra left of an apple and a car and above a dragon`."""
    parts = []
    for how in RELATIONS:
        others = [names[each.object] for each in said if each.relation == how]
        if others:
            parts.append(f"{how} {_listed(others)}")
    return f"{names[said[0].subject]} {_listed(parts, strong=len(said) > len(parts))}"


def _listed(parts: Sequence[str], strong: bool = False) -> str:
    """`a`, `a and b`, `a, b and c`; `strong` sets the last apart by a comma, where the parts are lists themselves."""
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])}{', and ' if strong else ' and '}{parts[-1]}"
