"""User inputs -> Conditioning: the contract of a conditioner.

    inputs (I, one a picture)  --prepare, on the CPU-->  prepared (P)  --forward, on the device-->  Conditioning

I is what a user gives: text for most, a tensor or a small dataclass of tensors for pictures and maps. P is a tensor, or
`Parts` where one tensor cannot hold it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from sfumato.conditioning import Conditioning, Twins
from sfumato.errors import InputError


@dataclass(frozen=True)
class Parts:
    """Named prepared values (B, ...) of one batch; a value may have parts of its own."""

    values: Mapping[str, Prepared]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def __getitem__(self, index: slice | Tensor) -> Parts:
        """Select pictures along the batch."""
        return Parts({name: value[index] for name, value in self.values.items()})

    def to(self, device: torch.device | str) -> Parts:
        """Move every value to `device`."""
        return Parts({name: value.to(device) for name, value in self.values.items()})

    def tensor(self, name: str) -> Tensor:
        """The value `name`, which is a tensor."""
        value = self.values[name]
        assert isinstance(value, Tensor), name
        return value


Prepared = Tensor | Parts

Scales = float | Mapping[str, float]
"""A guidance scale, or one for each of some parts by their names; 1 is off."""

I = TypeVar("I")  # noqa: E741
P = TypeVar("P", bound=Prepared)


class Conditioner(nn.Module, ABC, Generic[I, P]):
    """tau of the paper. Inputs become tensors once (`prepare`, on the CPU), the tensors a Conditioning (`forward`)."""

    needs: ClassVar[str] = ""
    """What an input is where a prompt is not enough, such as "a mask"."""

    def from_prompt(self, prompt: str, size: tuple[int, int]) -> I:
        """The input that a prompt alone gives, for a picture of (height, width). Raises `InputError` where it needs more."""
        if self.needs:
            raise InputError(f"this model needs {self.needs}, which no prompt gives; in Python: generate(..., inputs=...).")
        return cast(I, prompt)

    def with_inputs(self, prompt: str, size: tuple[int, int], inputs: Any) -> I:
        """The input of a prompt and of what is given beside it: `inputs` itself, where one thing is all that is asked for."""
        return self.from_prompt(prompt, size) if inputs is None else cast(I, inputs)

    @abstractmethod
    def prepare(self, inputs: Sequence[I]) -> P:
        """What the user gave, one a picture, as tensors (B, ...) on the CPU. Raises `InputError` for a wrong input."""

    def null(self, count: int) -> P:
        """The prepared null input, `count` times: the empty prompt, the null class. Raises `InputError` where none exists."""
        raise InputError(f"{type(self).__name__} has no null input; set guidance to 1, or leave this input out of guidance.")

    def nulled(self, prepared: P) -> P:
        """The null twin of these inputs, on their device. What guidance must keep (a mask, a small picture) comes back as
        it is."""
        return cast(P, self.null(len(prepared)).to(device_of(prepared)))

    @abstractmethod
    def forward(self, prepared: P) -> Conditioning:
        """Prepared inputs (B, ...) on the module's device -> Conditioning. Trained jointly with the prior, or frozen."""

    def count_truncated(self, inputs: Sequence[I]) -> int:
        """How many of the inputs `prepare` cuts short; only text is ever cut."""
        return 0

    def drop(self, prepared: P, probability: float, rng: torch.Generator | None) -> P:
        """Replace each input by its null twin with `probability`: for guidance (Ho & Salimans 2022, arXiv 2207.12598)."""
        if probability <= 0:
            return prepared
        chance = torch.rand(len(prepared), generator=rng, device=device_of(prepared))
        return cast(P, choose(chance < probability, self.nulled(prepared), prepared))

    def twins(self, prepared: P, guidance: Scales, negative: P | None = None) -> Twins:
        """Conditions and weights for guidance: w * cond + (1 - w) * null. `guidance` 1 means off, `negative` replaces null.

        guidance: a number; one for each named part is for models of several (`Composite`), and raises `InputError` here.
        """
        if not isinstance(guidance, int | float):
            raise InputError("guidance by part is for models that are told several things; give this one a single number.")
        cond = self(prepared)
        if guidance == 1.0:
            return [(cond, 1.0)]
        null = self.nulled(prepared) if negative is None else negative
        return [(cond, guidance), (self(null.to(device_of(prepared))), 1.0 - guidance)]


def device_of(prepared: Prepared) -> torch.device:
    """Where prepared inputs are."""
    while isinstance(prepared, Parts):
        prepared = next(iter(prepared.values.values()))
    return prepared.device


def choose(first: Tensor, one: Prepared, other: Prepared) -> Prepared:
    """Rows of `one` where `first` (B,) is true, of `other` elsewhere; both have the same parts."""
    if isinstance(one, Parts) and isinstance(other, Parts):
        return Parts({name: choose(first, one.values[name], value) for name, value in other.values.items()})
    assert isinstance(one, Tensor), "the null twin has other parts than the input"
    assert isinstance(other, Tensor)
    return torch.where(first.view(-1, *[1] * (other.ndim - 1)), one.to(other), other)
