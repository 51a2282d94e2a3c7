"""The protocol by which every family is judged, the same for all.

Let G be the samples, R as many real pictures of the training part, chosen once, and S as many other real ones.

    fd          Frechet distance of G and R in the features of the embedded MobileNetV2 (FD-MobileNetV2, no FID)
    precision   share of G within the manifold of R;   recall: share of R within the manifold of G
    density, coverage                                   the same by balls of R alone
    memorised   median over G of the distance to the nearest training picture, divided by that of held-out pictures
    copies      share of G nearer to a training picture than 95 % of held-out pictures are; 0.05 where nothing is memorised

Beside each stands what S scores in the place of G: a perfect model is not better. Distances depend on the number of
pictures, so that a family with fewer samples is compared with as many real ones and says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.evaluation.data import EvaluationData, choose
from sfumato.evaluation.reference import ReferenceCache
from sfumato.evaluation.scoring import Scorer
from sfumato.metrics.bootstrap import Interval, bootstrap, mean_interval
from sfumato.metrics.density_coverage import density_coverage
from sfumato.metrics.frechet import frechet_distance, moments
from sfumato.metrics.precision_recall import precision_recall
from sfumato.studies.results import Score

DIMENSIONS, FEWEST = Scorer().dims, Scorer().fewest
"""Of the features; pictures a side below which a covariance of the features has no full rank."""
CLOSE = 0.05
CHUNK = 512


@dataclass(frozen=True)
class Protocol:
    """samples: of each family. k: neighbours of precision and recall. bits: held-out pictures for bits per dimension.

    version: rises where a number comes to mean something else, so that it is measured anew. 2: bits of autoencoders are by the
    decoder's discretised Gaussian, in the place of a density of dequantized pixels. 3: bits are of held-out pictures spread by
    chance, and of none by which a prior's weights were chosen.
    """

    samples: int = 2000
    seed: int = 0
    k: int = 3
    num_resamples: int = 200
    bits: int = 128
    version: int = 3
    scorer: Scorer = field(default_factory=Scorer)

    def __post_init__(self) -> None:
        if self.samples < FEWEST:
            raise InputError(
                f"samples is {self.samples}: expected {FEWEST} or more, since the covariance of {DIMENSIONS} features needs "
                "more pictures than features."
            )


class Reference:
    """Real pictures (N, C, H, W) uint8 and their features, made once for all families; `cache` keeps the features."""

    def __init__(
        self,
        training: Tensor,
        held_out: Tensor,
        protocol: Protocol,
        device: torch.device,
        cache: Path | None,
        on_batch: Callable[[str, int, int], None] | None = None,
    ):
        check_count(len(training))
        self.training, self.held_out, self.protocol, self.device = training, held_out, protocol, device
        kept = ReferenceCache(cache)

        def features(name: str, pixels: Tensor) -> Tensor:
            blank = [""] * len(pixels)
            told = None if on_batch is None else lambda done, total: on_batch(name, done, total)
            return kept.features(EvaluationData(pixels, blank, blank, blank), protocol.scorer, device, 256, told)

        self.train_features = features("training pictures", training)
        self.held_features = features("held-out pictures", held_out) if len(held_out) else self.train_features[:0]
        rows = choose(len(training), min(protocol.samples, len(training)), 0)
        self.rows = torch.tensor(rows)
        rest = torch.ones(len(training), dtype=torch.bool)
        rest[self.rows] = False
        others = torch.cat([self.train_features[rest], self.held_features])
        self.others = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(1))]
        self.held_distances = nearest(self.held_features, self.train_features)[0] if len(held_out) else None

    def real(self, count: int) -> Tensor:
        """R: features (n, D) of `count` training pictures, or of all chosen ones where these are fewer."""
        return self.train_features[self.rows[torch.randperm(len(self.rows), generator=_rng(0))[:count]]]

    def other(self, count: int) -> Tensor:
        """S: features of as many real pictures that are not in R, or of all there are."""
        return self.others[:count]


def check_count(num_training: int) -> None:
    """Raises `InputError` for too few training pictures to be compared with."""
    if num_training < FEWEST:
        raise InputError(
            f"data: {num_training} training pictures; a comparison needs {FEWEST} or more, since the covariance of "
            f"{DIMENSIONS} features needs more pictures than features."
        )


@dataclass(frozen=True)
class Verdict:
    """scores by name; missing: why a score is not there. nearest: rows of training pictures nearest to the samples (N,)."""

    scores: dict[str, Score]
    missing: dict[str, str]
    nearest: Tensor
    distances: Tensor
    count: int


def judge(
    pixels: Tensor, reference: Reference, device: torch.device, on_batch: Callable[[int, int], None] | None = None
) -> Verdict:
    """The scores of samples (N, C, H, W) uint8."""
    protocol = reference.protocol
    made = protocol.scorer(pixels, device, 256, on_batch)
    real = reference.real(len(made))
    count = min(len(made), len(real))
    made_part, real = made[:count], real[:count]
    other = reference.other(count)
    scores, missing = dict[str, Score](), dict[str, str]()
    if count < FEWEST:
        missing["fd"] = f"{count} samples; the covariance of {DIMENSIONS} features needs {FEWEST}."
    else:
        scores["fd"] = _frechet(made_part, real, other, protocol)
    if count > max(protocol.k, 5):
        scores |= _manifolds(made_part, real, other, protocol)
    distances, rows = nearest(made, reference.train_features)
    if reference.held_distances is not None:
        scores |= _memory(distances, reference.held_distances, protocol)
    else:
        missing["memorised"] = "no picture is held out."
    return Verdict(scores, missing, rows, distances, count)


def nearest(features: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D), (M, D) -> distances (N,) to the nearest row of the gallery, and which row it is (N,)."""
    found = [torch.cdist(part.double(), gallery.double()).min(1) for part in features.split(CHUNK)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _frechet(made: Tensor, real: Tensor, other: Tensor, protocol: Protocol) -> Score:
    def distance(index: Tensor) -> float:
        return frechet_distance(moments(made[index]), moments(real[index]))

    resamples = protocol.num_resamples
    found = bootstrap(len(made), distance, _rng(protocol.seed), num_resamples=resamples, centred=True)
    floor = None
    if len(other) >= max(FEWEST, len(made)):  # with fewer it would be another number
        floor = frechet_distance(moments(other), moments(real))
    return Score.of(dataclasses.replace(found, low=max(0.0, found.low)), floor)


def _manifolds(made: Tensor, real: Tensor, other: Tensor, protocol: Protocol) -> dict[str, Score]:
    def mean(flags: Tensor) -> Interval:
        return mean_interval(flags.double(), _rng(protocol.seed), protocol.num_resamples)

    names = ("precision", "recall", "density", "coverage")
    found = (*precision_recall(real, made, protocol.k), *density_coverage(real, made))
    same: tuple[Tensor, ...] | None = None
    if len(other) >= len(made):
        same = (*precision_recall(real, other, protocol.k), *density_coverage(real, other))
    best = [None] * len(names) if same is None else [float(flags.double().mean()) for flags in same]
    return {name: Score.of(mean(flags), real_one) for name, flags, real_one in zip(names, found, best, strict=True)}


def _memory(made: Tensor, held: Tensor, protocol: Protocol) -> dict[str, Score]:
    typical, close = held.median().clamp(min=1e-12), torch.quantile(held, CLOSE)

    def ratio(index: Tensor) -> float:
        return float(made[index].median() / typical)

    copies = mean_interval((made < close).double(), _rng(protocol.seed), protocol.num_resamples)
    memorised = bootstrap(len(made), ratio, _rng(protocol.seed), num_resamples=protocol.num_resamples)
    return {"memorised": Score.of(memorised, 1.0), "copies": Score.of(copies, float((held < close).double().mean()))}


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
