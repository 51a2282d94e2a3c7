"""What a study of the mixture found, as plain values that are kept in one JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sfumato.errors import InputError
from sfumato.io.files import read_table, write_json
from sfumato.studies.mixture.density import Mixture
from sfumato.studies.mixture.modes import Modes

RESULTS = "mixture.json"


@dataclass(frozen=True)
class Score:
    """Of held-out points, in nats a point, with standard errors.

    log_prob: the mean of log p(x) or of its bound. excess: the mean of log p_data(x) less that, of the same points: an estimate
    of KL(data || model), or of an upper bound on it.
    """

    log_prob: float
    log_prob_error: float
    excess: float
    excess_error: float


@dataclass(frozen=True)
class Outcome:
    """One family. evidence: exact, bound or none. Seconds are of processor time; sampling is for 1,000 points.

    curve: (step, loss), as far as it was finite. points: some of its samples (N, 2). failed: why there is nothing more, for a
    training that broke down.
    """

    name: str
    title: str
    evidence: str
    num_parameters: int
    steps: int
    train_seconds: float
    curve: tuple[tuple[int, float], ...]
    sample_seconds: float | None = None
    modes: Modes | None = None
    score: Score | None = None
    points: tuple[tuple[float, float], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class Study:
    """All families. seconds: the budget of each, None for its own number of steps. held_out, judged: how many points."""

    mixture: Mixture
    seed: int
    seconds: float | None
    held_out: int
    judged: int
    outcomes: tuple[Outcome, ...]
    version: str

    def outcome(self, name: str) -> Outcome | None:
        """The family of that name, None where it was not in the study."""
        return next((one for one in self.outcomes if one.name == name), None)


def save(study: Study, directory: Path) -> Path:
    """Write it into `directory`; returns the file."""
    path = directory / RESULTS
    write_json(path, asdict(study))
    return path


def load(directory: Path) -> Study:
    """Read what `save` wrote. Raises `InputError` where there is none or it is damaged."""
    path = directory / RESULTS
    table = read_table(path)
    try:
        outcomes = tuple(_outcome(entry) for entry in table.pop("outcomes"))
        return Study(mixture=Mixture(**table.pop("mixture")), outcomes=outcomes, **table)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a study of the mixture ({error}); run `sfumato study mixture` again.") from None


def _outcome(entry: dict[str, Any]) -> Outcome:
    modes, score = entry.pop("modes"), entry.pop("score")
    if modes is not None:
        modes = Modes(**{**modes, "shares": tuple(modes["shares"])})
    points = tuple((float(x), float(y)) for x, y in entry.pop("points"))
    curve = tuple((int(step), float(loss)) for step, loss in entry.pop("curve"))
    return Outcome(modes=modes, score=None if score is None else Score(**score), points=points, curve=curve, **entry)
