"""What a model is measured on: pictures as bytes with what was said of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from sfumato.errors import InputError


@dataclass(frozen=True)
class EvaluationData:
    """N real pictures. pixels: (N, C, H, W) uint8 on the CPU; captions, groups (a style, a class), names: N texts each.

    Raises `InputError` on construction when the counts differ or there is no picture.
    """

    pixels: Tensor
    captions: Sequence[str] = field(repr=False)
    groups: Sequence[str] = field(repr=False)
    names: Sequence[str] = field(repr=False)

    def __post_init__(self) -> None:
        counts = {len(self.pixels), len(self.captions), len(self.groups), len(self.names)}
        if len(counts) != 1 or counts == {0}:
            raise InputError(f"evaluation data needs at least one picture with a caption, group and name each, not {counts}.")
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise InputError(f"evaluation pictures are (N, C, H, W) uint8, not {tuple(self.pixels.shape)} {self.pixels.dtype}.")

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, indices: Sequence[int]) -> EvaluationData:
        """The pictures at `indices`, in that order."""
        return EvaluationData(
            self.pixels[torch.tensor(indices, dtype=torch.long)],
            [self.captions[i] for i in indices],
            [self.groups[i] for i in indices],
            [self.names[i] for i in indices],
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the pixels, their shape and order; captions and names don't change features."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        for picture in self.pixels:
            digest.update(picture.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def tells_apart(self) -> bool:
        """Whether captions say which picture of a group is meant: most (caption, group) pairs are unique."""
        return len(set(zip(self.captions, self.groups, strict=True))) > 0.5 * len(self)


def choose(count: int, wanted: int, seed: int) -> list[int]:
    """`wanted` of `count` indices by chance, in rising order; all of them when there are no more."""
    rng = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(count, generator=rng)[:wanted].tolist())


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `count`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
