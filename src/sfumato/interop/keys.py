"""Key maps: the names of our weights <-> the names that another library gives the same weights, one to one.

A map is a function of a config, holds every weight of the model exactly once, and moves tensors without touching their
bits: a name changes; where the other side writes a 1 x 1 convolution (O, I, 1, 1) as a matrix (O, I), the shape; and where it
keeps queries, keys and values apart, one tensor of ours is three of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sfumato.errors import InputError

MOST_SHOWN = 10


@dataclass(frozen=True)
class Joint:
    """Our one map to queries, keys and values, as a 1-d convolution (3C, C, 1) with bias (3C,); theirs are three matrices.

    theirs: names of the three. Our rows are ordered head, (q, k, v), d, or with `qkv_first` (q, k, v), head, d.
    """

    theirs: tuple[str, str, str]
    heads: int
    qkv_first: bool = False

    def split(self, ours: Tensor) -> tuple[Tensor, ...]:
        """(3C, C, 1) or (3C,) -> three of (C, C) or (C,)."""
        rows = ours.flatten(1) if ours.ndim == 3 else ours
        shape, dim = ((3, self.heads, -1), 0) if self.qkv_first else ((self.heads, 3, -1), 1)
        return tuple(part.flatten(0, 1) for part in rows.unflatten(0, shape).unbind(dim))

    def join(self, parts: Iterable[Tensor]) -> Tensor:
        """The inverse of `split`."""
        by_head = [part.unflatten(0, (self.heads, -1)) for part in parts]
        joined = torch.stack(by_head, 0 if self.qkv_first else 1).flatten(0, 2)
        return joined[..., None] if joined.ndim == 2 else joined


@dataclass(frozen=True)
class KeyMap:
    """pairs: our name -> theirs. matrices: those of our names whose 1 x 1 convolution is a matrix there, with the number of
    its dimensions of one. joints: our name -> three of theirs.

    Raises `InputError` when two names of ours meet in one of theirs.
    """

    pairs: Mapping[str, str]
    matrices: Mapping[str, int] = field(default_factory=dict)
    joints: Mapping[str, Joint] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken: dict[str, str] = {}
        for ours, theirs in self.each():
            if theirs in taken:
                raise InputError(f"{taken[theirs]} and {ours} would both be called {theirs}; this model has no such form.")
            taken[theirs] = ours

    def each(self) -> Iterator[tuple[str, str]]:
        """(ours, theirs), for a joint map three times."""
        yield from self.pairs.items()
        for ours, joint in self.joints.items():
            for theirs in joint.theirs:
                yield ours, theirs

    def ours(self) -> list[str]:
        """All names of ours."""
        return [*self.pairs, *self.joints]

    def theirs(self) -> list[str]:
        """All names of theirs."""
        return [theirs for _, theirs in self.each()]

    def prefixed(self, ours: str, theirs: str) -> KeyMap:
        """The same inside bigger models: with a prefix before each name."""
        joints = {
            ours + name: replace(joint, theirs=(theirs + joint.theirs[0], theirs + joint.theirs[1], theirs + joint.theirs[2]))
            for name, joint in self.joints.items()
        }
        pairs = {ours + a: theirs + b for a, b in self.pairs.items()}
        return KeyMap(pairs, {ours + name: dims for name, dims in self.matrices.items()}, joints)

    def __or__(self, other: KeyMap) -> KeyMap:
        """Both maps together; they have no name in common."""
        return KeyMap({**self.pairs, **other.pairs}, {**self.matrices, **other.matrices}, {**self.joints, **other.joints})

    def to_ours(self, tensors: Mapping[str, Tensor], what: str = "the file") -> dict[str, Tensor]:
        """Their tensors under our names and in our shapes; views, but for joint maps, which are copies.

        Raises `InputError` when the names are not exactly those of the map, listing the first ten.
        """
        check_names(tensors, self.theirs(), what)
        found = {ours: _with_ones(tensors[theirs], self.matrices.get(ours, 0)) for ours, theirs in self.pairs.items()}
        return found | {ours: joint.join(tensors[name] for name in joint.theirs) for ours, joint in self.joints.items()}

    def to_theirs(self, tensors: Mapping[str, Tensor], what: str = "the model") -> dict[str, Tensor]:
        """Our tensors under their names and in their shapes; views, but for joint maps. Raises `InputError` as `to_ours`."""
        check_names(tensors, self.ours(), what)
        found = {
            theirs: tensors[ours].flatten(1) if ours in self.matrices else tensors[ours] for ours, theirs in self.pairs.items()
        }
        for ours, joint in self.joints.items():
            found |= zip(joint.theirs, joint.split(tensors[ours]), strict=True)
        return found


def _with_ones(value: Tensor, dims: int) -> Tensor:
    """A matrix with `dims` dimensions of one after it; anything else as it is, for its shape to be refused."""
    return value[(...,) + (None,) * dims] if value.ndim == 2 else value


def check_names(given: Iterable[str], wanted: Iterable[str], what: str) -> None:
    """Raises `InputError`, with the counts and the first ten, when `given` lacks a wanted name or has another."""
    have, want = set(given), set(wanted)
    faults = [
        f"{len(names)} {kind} ({', '.join(sorted(names)[:MOST_SHOWN])}{', ...' if len(names) > MOST_SHOWN else ''})"
        for kind, names in (("missing", want - have), ("unexpected", have - want))
        if names
    ]
    if faults:
        raise InputError(f"{what} does not hold this model's weights: {'; '.join(faults)}; is it of another architecture?")
