"""What an evaluation is asked for: settings, sets of pictures, and who draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from sfumato.errors import InputError
from sfumato.evaluation.data import EvaluationData
from sfumato.evaluation.scoring import Scorer
from sfumato.losses.perceptual import EMBEDDED_LAYERS, PerceptualLoss
from sfumato.metrics.density_coverage import NEIGHBOURS

FEWEST = NEIGHBOURS + 1
"""Pictures a side below which no measure compares distributions: a ball reaches to its fifth neighbour."""


class Generate(Protocol):
    """Makes pictures: one a prompt, from that prompt's own seed -> (N, C, H, W) uint8 on the CPU."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor: ...


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Settings:
    """num: pictures to generate (None: one for each held-out one). seed: picture i has seed + i; also the bootstrap's.

    k: neighbours of precision and recall; density and coverage have their paper's 5. repeat: captions are drawn again, with
    other seeds, where `num` is more than there are; else there are fewer pictures. training_layers: layers of the embedded
    network that the training loss used, None when it used another network or none. lpips: LPIPS from its published weights.
    distance: the Frechet distance, which takes `scorer.fewest` pictures a side; False leaves it out.
    """

    num: int | None = None
    seed: int = 0
    batch_size: int = 16
    k: int = 3
    num_resamples: int = 1000
    level: float = 0.95
    repeat: bool = False
    scorer: Scorer = field(default_factory=Scorer)
    training_layers: tuple[str, ...] | None = EMBEDDED_LAYERS
    lpips: PerceptualLoss | None = None
    distance: bool = True

    def __post_init__(self) -> None:
        if self.num is not None and self.num < 1:
            raise InputError(f"num is {self.num}; evaluate at least one picture.")


@dataclass(frozen=True)
class Sets:
    """held: held-out pictures: reconstructed, drawn again, and the gallery of retrieval.

    extra: more held-out pictures whose captions are drawn when `num` is larger than `held`.
    rest: other real pictures (B of `protocol`), best a random choice; None: half of those drawn play them.
    """

    held: EvaluationData
    extra: EvaluationData | None = None
    rest: EvaluationData | None = None

    def check_count(self, settings: Settings) -> None:
        """Raises `InputError` where a Frechet distance is asked for and there are too few pictures for its covariances."""
        if not settings.distance:
            return
        there = len(self.held) + (0 if self.extra is None else len(self.extra))
        wanted = len(self.held) if settings.num is None else settings.num
        drawn = wanted if settings.repeat else min(wanted, there)
        fewest, dims = settings.scorer.fewest, settings.scorer.dims
        if self.rest is None:
            needed, told, given = f"{2 * fewest}, {fewest} a half", "half of which are compared with the other half", drawn // 2
        else:
            needed, told, given = f"{fewest}", f"compared with {len(self.rest)} other real ones", min(drawn, len(self.rest))
        if given < fewest:
            again = "" if settings.repeat else ", draw captions again (--protocol quick)"
            more = "--num, --data" if drawn < there else f"--data: only {there} are held out"
            raise InputError(
                f"{drawn} pictures to draw, {told}: the Frechet distance needs at least {needed}, for a covariance of {dims} "
                f"features; give more ({more}){again}, or leave the distance out (--no-fd)."
            )
