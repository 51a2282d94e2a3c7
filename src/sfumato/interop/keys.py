"""Key maps: the names of our weights <-> the names that another library gives the same weights, one to one.

A map is a function of a config, holds every weight of the model exactly once, and moves tensors without touching their
bits: a name changes, and where the other side writes a 1 x 1 convolution (O, I, 1, 1) as a matrix (O, I), the shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sfumato.errors import InputError

MOST_SHOWN = 10


@dataclass(frozen=True)
class KeyMap:
    """pairs: our name -> theirs. matrices: those of our names whose 1 x 1 convolution is a matrix there.

    Raises `InputError` when two names of ours meet in one of theirs.
    """

    pairs: Mapping[str, str]
    matrices: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len(set(self.pairs.values())) != len(self.pairs):
            taken: dict[str, str] = {}
            for ours, theirs in self.pairs.items():
                if theirs in taken:
                    raise InputError(f"{taken[theirs]} and {ours} would both be called {theirs}; this model has no such form.")
                taken[theirs] = ours

    def inverse(self) -> dict[str, str]:
        """Their name -> ours."""
        return {theirs: ours for ours, theirs in self.pairs.items()}

    def prefixed(self, ours: str, theirs: str) -> KeyMap:
        """The same inside bigger models: with a prefix before each name."""
        pairs = {ours + a: theirs + b for a, b in self.pairs.items()}
        return KeyMap(pairs, frozenset(ours + name for name in self.matrices))

    def __or__(self, other: KeyMap) -> KeyMap:
        """Both maps together; they have no name in common."""
        return KeyMap({**self.pairs, **other.pairs}, self.matrices | other.matrices)

    def to_ours(self, tensors: Mapping[str, Tensor], what: str = "the file") -> dict[str, Tensor]:
        """Their tensors under our names and in our shapes; views, not copies.

        Raises `InputError` when the names are not exactly those of the map, listing the first ten.
        """
        check_names(tensors, self.pairs.values(), what)
        found = {ours: tensors[theirs] for ours, theirs in self.pairs.items()}
        return {k: v[..., None, None] if k in self.matrices and v.ndim == 2 else v for k, v in found.items()}

    def to_theirs(self, tensors: Mapping[str, Tensor], what: str = "the model") -> dict[str, Tensor]:
        """Our tensors under their names and in their shapes; views, not copies. Raises `InputError` as `to_ours` does."""
        check_names(tensors, self.pairs, what)
        return {
            theirs: tensors[ours].flatten(1) if ours in self.matrices and tensors[ours].ndim == 4 else tensors[ours]
            for ours, theirs in self.pairs.items()
        }


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
