"""What is kept of each factor, in OUT/f4/result.json, and what follows from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sfumato.config import from_dict, to_dict
from sfumato.errors import InputError
from sfumato.io.files import read_table, write_json
from sfumato.recipes.compression import FACTORS, check

FEWEST = 97
"""Pictures for the covariance of 96 features."""


@dataclass(frozen=True)
class Settings:
    """What all factors of a study share: `minutes` for each stage, pictures of `size` pixels, `samples` a distance.

    num_steps: of DDIM, for the speeds. shares: of a stage's time, at which the prior is looked at, by `curve_steps` of DDIM.
    resize: side in pixels at which pictures are scored.
    """

    minutes: float = 3.0
    size: int = 128
    samples: int = 1000
    num_steps: tuple[int, ...] = (10, 20, 50, 100, 200)
    shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    curve_steps: int = 50
    seed: int = 0
    resize: int = 128

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= 10_000:
            raise InputError(f"minutes per stage: got {self.minutes:g}, expected above 0, such as 3.")
        if self.samples < FEWEST:
            raise InputError(
                f"samples: got {self.samples}, expected {FEWEST} or more: the covariance of 96 features needs them."
            )
        if not self.num_steps or min(self.num_steps) < 1 or max(self.num_steps) > 1000:
            raise InputError(f"steps: got {list(self.num_steps)}, expected numbers from 1 to 1000.")
        check(1, self.size)

    @property
    def seconds(self) -> float:
        """For each stage."""
        return 60 * self.minutes

    def budgets(self, factor: int) -> list[float]:
        """Seconds of prior training after which f is looked at; pixels have no first stage, so its time is the prior's too."""
        budgets = [share * self.seconds for share in self.shares]
        return [*budgets, 2 * self.seconds] if factor == 1 else budgets


@dataclass(frozen=True)
class Distance:
    """FD-MobileNetV2 with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Moment:
    """The prior after `seconds` of training: its steps and the distance of its samples, by `curve_steps` of DDIM."""

    seconds: float
    steps: int
    distance: Distance


@dataclass(frozen=True)
class Speed:
    """The finished model at `num_steps` steps of DDIM."""

    num_steps: int
    pictures_per_second: float
    distance: Distance


@dataclass(frozen=True)
class FirstStageResult:
    """Held-out pictures through the first stage: PSNR in dB, SSIM, and the distance of the reconstructions."""

    seconds: float
    steps: int
    psnr: float
    ssim: float
    distance: Distance | None


@dataclass(frozen=True)
class Result:
    """Everything of one factor. floor: the distance of as many other real pictures.

    num_pictures: that trained it; data: the fingerprint of those, "" where it was not kept. failed: why it has no more, in a
    sentence. made_by: versions and commit.
    """

    factor: int
    settings: Settings
    device: str = ""
    num_pictures: int = 0
    data: str = ""
    latent: tuple[int, ...] = ()
    first_stage_parameters: int = 0
    prior_parameters: int = 0
    first_stage: FirstStageResult | None = None
    floor: float | None = None
    curve: tuple[Moment, ...] = ()
    speeds: tuple[Speed, ...] = ()
    failed: str = ""
    made_by: str = ""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        moments = len(self.curve) == len(self.settings.budgets(self.factor))
        return moments and len(self.speeds) == len(self.settings.num_steps)

    def at(self, seconds: float) -> Moment | None:
        """What was measured after so many seconds of the prior."""
        return next((moment for moment in self.curve if moment.seconds == seconds), None)


def result_path(out: Path, factor: int) -> Path:
    """OUT/f4/result.json."""
    return out / f"f{factor}" / "result.json"


def load_result(out: Path, factor: int) -> Result | None:
    """What there is of a factor. Raises `InputError` for a file that is none of ours."""
    path = result_path(out, factor)
    if not path.is_file():
        return None
    return from_dict(Result, read_table(path))


def save_result(out: Path, result: Result) -> Result:
    """Write it whole or not at all."""
    write_json(result_path(out, result.factor), to_dict(result))
    return result


def begin(out: Path, factor: int, settings: Settings, data: str, num_pictures: int) -> Result:
    """The result to go on with, what was measured included; `data`: the fingerprint of `num_pictures` to train on.

    Raises `InputError` where a result of other settings or pictures stands.
    """
    found = load_result(out, factor)
    if found is None:
        return Result(factor, settings, data=data, num_pictures=num_pictures)
    same = replace(found.settings, num_steps=settings.num_steps)
    if same != settings:
        raise InputError(
            f"{out / f'f{factor}'} was made with {_said(found.settings)}, and asked are {_said(settings)}: results of both "
            "cannot stand in one figure; give the same, or another --out."
        )
    if found.data not in ("", data):
        raise InputError(
            f"{out / f'f{factor}'} was made of {found.num_pictures:,} other pictures than the {num_pictures:,} of --data: "
            "results of both cannot stand in one figure; give another --out."
        )
    steps = sorted({*settings.num_steps, *(speed.num_steps for speed in found.speeds)})
    return replace(found, settings=replace(settings, num_steps=tuple(steps)), failed="", data=data, num_pictures=num_pictures)


def load_all(out: Path) -> list[Result]:
    """All results there are, by factor. Raises `InputError` for none, and for some of different settings."""
    found = [result for factor in FACTORS if (result := load_result(out, factor)) is not None]
    if not found:
        raise InputError(
            f"{out} holds no result of a compression study; run `sfumato study compression --data DIR --out {out}`."
        )
    first = found[0]
    for other in found[1:]:
        if replace(other.settings, num_steps=first.settings.num_steps) != first.settings:
            raise InputError(
                f"{out}: f{first.factor} was made with {_said(first.settings)} and f{other.factor} with "
                f"{_said(other.settings)}; only results of one setting stand in one figure."
            )
    return found


@dataclass(frozen=True)
class Recommendation:
    """The factor to take, how many steps, and why: `factor` is the fastest of those as good as the best."""

    factor: int
    num_steps: int
    best: int
    words: str


LEAST_STEPS = 100
"""Of a prior's training, for its factor to be recommended."""


def recommend(results: Sequence[Result]) -> Recommendation | None:
    """The fastest of all (factor, steps) whose interval meets that of the best.

    None where no factor has its speeds and a prior of `LEAST_STEPS` training steps or more: fewer tell nothing of a factor.
    """
    trained = [result for result in results if result.curve and result.curve[-1].steps >= LEAST_STEPS]
    every = [(result.factor, speed) for result in trained for speed in result.speeds]
    if not every:
        return None
    best_factor, best = min(every, key=lambda pair: pair[1].distance.value)
    level = [pair for pair in every if pair[1].distance.low <= best.distance.high]
    factor, chosen = max(level, key=lambda pair: pair[1].pictures_per_second)
    words = (
        f"f = {factor} with {chosen.num_steps} steps: FD {chosen.distance.value:.3g} at {chosen.pictures_per_second:.3g} "
        f"pictures a second"
    )
    if (factor, chosen) == (best_factor, best):
        words += ", the best of all and the fastest of those that cannot be told from it."
    else:
        words += (
            f", the fastest of those that cannot be told from the best (f = {best_factor} with {best.num_steps} steps: FD "
            f"{best.distance.value:.3g} at {best.pictures_per_second:.3g})."
        )
    return Recommendation(factor, chosen.num_steps, best_factor, words)


SAID = ("minutes", "size", "samples", "seed")


def _said(settings: Settings) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(settings).items() if name in SAID)
