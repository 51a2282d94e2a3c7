"""What an evaluation was asked for, in plain values: kept in its manifest, filled by frozen protocols, asked again.

The paper's protocol (Rombach et al. 2021, arXiv 2112.10752, appendix E.3 and table 1) has 50,000 samples against training
pictures and 200 steps of DDIM; eta is 1 as for the released models of FFHQ and LSUN-Bedrooms, and on ImageNet there are 250
steps (table 10). CelebA-HQ (500 steps) and LSUN-Churches (400 in the released table, eta 0) had settings of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sfumato.config import from_dict
from sfumato.errors import InputError, unknown
from sfumato.generation.limits import LIMITS, real, whole

SPLITS = ("test", "validation")
MOST = 100_000
"""Pictures that one evaluation generates, at most."""


@dataclass(frozen=True)
class Asked:
    """None: left to the model, the protocol or the default. no_fd: no Frechet distance; fidelity: standard scores;
    bits: pictures to measure bits on.

    Raises `InputError` on construction for values out of bounds.
    """

    protocol: str | None = None
    split: str | None = None
    num: int | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    eta: float | None = None
    seed: int | None = None
    batch_size: int | None = None
    reconstruction_only: bool = False
    no_fd: bool = False
    fidelity: tuple[str, ...] = ()
    bits: int | None = None
    bits_steps: int | None = None
    bits_gaussian: bool = False

    def __post_init__(self) -> None:
        checks: dict[str, Callable[[object], object]] = {
            "num": lambda value: whole("num", value, 1, MOST),
            "steps": LIMITS.steps,
            "guidance": LIMITS.guidance,
            "sampler": LIMITS.sampler,
            "eta": lambda value: real("eta", value, 0.0, 1.0),
            "seed": LIMITS.seed,
            "batch_size": LIMITS.batch_size,
            "bits": lambda value: whole("bits", value, 1, MOST),
            "bits_steps": lambda value: whole("bits_steps", value, 2, LIMITS.max_steps),
        }
        for name, check in checks.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check(getattr(self, name)))  # frozen; this is its construction
        if self.split is not None and self.split not in SPLITS:
            raise unknown("split", self.split[:40], SPLITS)
        if self.bits_steps is not None and self.bits is None:
            raise InputError("bits_steps is for bits; give --bits too.")
        if self.bits_gaussian and self.bits is None:
            raise InputError("bits_gaussian is for bits; give --bits too.")

    def to_json(self) -> dict[str, Any]:
        """Plain values, without what was not asked."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items() if v not in (None, False, ())}


@dataclass(frozen=True)
class Preset:
    """A protocol that does not move. None: free. repeat: captions are drawn again until there are `num` pictures."""

    about: str
    num: int
    sampler: str | None = None
    steps: int | None = None
    eta: float | None = None
    repeat: bool = False
    num_resamples: int = 1000


PRESETS: dict[str, Preset] = {
    "paper": Preset("50,000 samples, 200 steps of DDIM, eta 1", 50_000, "ddim", 200, 1.0, True),
    "paper-imagenet": Preset("50,000 samples, 250 steps of DDIM, eta 1", 50_000, "ddim", 250, 1.0, True),
    "quick": Preset("256 samples by the model's own sampler, 200 resamples", 256, repeat=True, num_resamples=200),
}


def preset_of(asked: Asked) -> Preset | None:
    """The protocol that was named. Raises `InputError` for an unknown one."""
    if asked.protocol is None:
        return None
    if asked.protocol not in PRESETS:
        raise unknown("protocol", asked.protocol[:40], PRESETS)
    return PRESETS[asked.protocol]


def filled(asked: Asked) -> Asked:
    """With the protocol's values. Raises `InputError` for a flag that contradicts it, or an eta that no sampler has."""
    preset = preset_of(asked)
    if preset is not None:
        if asked.reconstruction_only:
            raise InputError(
                f"--reconstruction-only contradicts --protocol {asked.protocol}, which says how samples are drawn."
            )
        for name in ("num", "sampler", "steps", "eta"):
            fixed, given = getattr(preset, name), getattr(asked, name)
            if fixed is not None and given not in (None, fixed):
                raise InputError(
                    f"--{name} {given} contradicts --protocol {asked.protocol}, whose {name} is {fixed}; leave one of them out."
                )
            if fixed is not None:
                asked = replace(asked, **{name: fixed})
    if asked.eta is not None:
        if asked.sampler not in (None, "ddim"):
            raise InputError(
                f"--eta {asked.eta:g} is for the sampler ddim, and not for {asked.sampler}; leave one of them out."
            )
        asked = replace(asked, sampler="ddim")
    return asked


def merged(asked: Asked, recorded: Mapping[str, Any]) -> Asked:
    """What a report's manifest says was asked, for another run. Raises `InputError` for a flag that contradicts it."""
    again = from_dict(Asked, dict(recorded))
    for name, given in asked.to_json().items():
        if given != again.to_json().get(name):
            raise InputError(
                f"--{name.replace('_', '-')} contradicts --reproduce: the report was made with "
                f"{again.to_json().get(name, 'the default')}; leave the flag out."
            )
    return again
