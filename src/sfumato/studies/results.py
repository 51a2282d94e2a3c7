"""What is kept of a family: OUT/FAMILY/result.json, with samples.png and neighbours.png beside it.

These three files are all that the page needs, so that families trained on several machines are brought together by copying
their folders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.errors import InputError
from sfumato.io.files import read_table, write_json
from sfumato.metrics.bootstrap import Interval
from sfumato.training.operations import as_typed

FORMAT = 1
RESULT, SAMPLES, NEIGHBOURS = "result.json", "samples.png", "neighbours.png"
DONE, DIVERGED, FAILED = "done", "diverged", "failed"


@dataclass(frozen=True)
class Score:
    """A number with its interval, and the same number for real pictures in the samples' place (`real`)."""

    value: float
    low: float | None = None
    high: float | None = None
    real: float | None = None

    @staticmethod
    def of(interval: Interval, real: float | None = None) -> Score:
        """From an interval."""
        return Score(interval.value, interval.low, interval.high, real)

    def below(self, other: Score) -> bool:
        """Whether it is smaller beyond both intervals."""
        return (self.value if self.high is None else self.high) < (other.value if other.low is None else other.low)


@dataclass(frozen=True)
class Curve:
    """A logged number of a training stage over its steps."""

    stage: str
    name: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Trained:
    """A stage's training by the clock of its budget. rate: pictures a second. flops: operations, 0 where none were counted."""

    steps: int
    seconds: float
    rate: float
    flops: float = 0.0


@dataclass(frozen=True)
class Result:
    """Everything that the page says of a family.

    key: of what was asked for; another key is another result. status: done, diverged, or failed, which is tried again.
    reason: why. minutes: the budget, or 0 where it was of floating-point operations, flops. bits_kind: "exact", "bound", or why
    there are no bits per dimension.
    """

    family: str
    title: str
    formula: str
    source: str
    latent: bool
    likelihood: bool
    recipe: str
    key: str
    status: str
    minutes: float
    device: str
    reason: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Trained] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    num_samples: int = 0
    seconds_per_sample: float | None = None
    batch_size: int = 0
    sampler: str = ""
    scores: Mapping[str, Score] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    bits_kind: str = ""
    curves: Sequence[Curve] = ()
    made_by: Mapping[str, Any] = field(default_factory=dict)
    flops: float = 0.0

    @property
    def budget(self) -> str:
        """In words."""
        return f"{as_typed(self.flops)} operations" if self.flops > 0 else f"{self.minutes:g} minutes"

    @property
    def training(self) -> tuple[float, float]:
        """Operations and seconds of all stages; 0 of what was not counted."""
        return sum(s.flops for s in self.stages.values()), sum(s.seconds for s in self.stages.values())

    @property
    def done(self) -> bool:
        """Whether there are samples and scores."""
        return self.status == DONE

    @property
    def num_parameters(self) -> int:
        """Of all parts that make a picture or were needed to learn to."""
        return sum(self.parameters.values())

    def write(self, folder: Path) -> None:
        """As FOLDER/result.json."""
        write_json(folder / RESULT, {"format": FORMAT} | dataclasses.asdict(self))


def read_result(folder: Path) -> Result | None:
    """What is kept in a family's folder, None where nothing is. Raises `InputError` for a file that is not one of ours."""
    path = folder / RESULT
    if not path.is_file():
        return None
    data = read_table(path)
    if data.pop("format", None) != FORMAT:
        raise InputError(f"{path}: it is not a result of this release (format {FORMAT}); make the family again.")
    try:
        data["stages"] = {name: Trained(**one) for name, one in data["stages"].items()}
        data["scores"] = {name: Score(**one) for name, one in data["scores"].items()}
        data["curves"] = tuple(
            Curve(one["stage"], one["name"], tuple((int(s), float(v)) for s, v in one["points"])) for one in data["curves"]
        )
        return Result(**data)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: it is no whole result ({str(error)[:100]}); delete it and make the family again.") from None


def read_results(out: Path, order: Sequence[str]) -> list[Result]:
    """All results below `out`: the families of `order` first, then others by name."""
    folders = sorted(path.parent for path in out.glob(f"*/{RESULT}")) if out.is_dir() else []
    found = [result for folder in folders if (result := read_result(folder)) is not None]
    known = {name: index for index, name in enumerate(order)}
    return sorted(found, key=lambda result: (known.get(result.family, len(known)), result.family))
