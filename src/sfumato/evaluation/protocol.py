"""The protocol: which pictures meet which, in what numbers, and what stands beside every number.

Let A be the real pictures whose captions are drawn again, G what the model draws for them, B as many other real pictures.
Distances and manifolds compare G with B; the same of A with B is the floor: what a perfect model would score at this
number of pictures. Retrieval asks each picture of G for its own real picture among all held-out ones of its group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.evaluation.data import EvaluationData, batches, choose
from sfumato.evaluation.provenance import provenance
from sfumato.evaluation.reconstruction import Reconstructions, reconstruction
from sfumato.evaluation.reference import ReferenceCache
from sfumato.evaluation.report import Report, Row
from sfumato.evaluation.scoring import OnBatch, Scorer
from sfumato.first_stages.base import FirstStage
from sfumato.losses.perceptual import EMBEDDED_LAYERS
from sfumato.metrics.bootstrap import bootstrap, mean_interval
from sfumato.metrics.frechet import frechet_distance, moments
from sfumato.metrics.kernel import kernel_distance, kernel_interval
from sfumato.metrics.precision_recall import precision_recall
from sfumato.metrics.retrieval import chance, retrieval_at_1

FEWEST = 8
"""Pictures a side below which distributions are not compared."""


class Generate(Protocol):
    """Makes pictures: one a prompt, from that prompt's own seed -> (N, C, H, W) uint8 on the CPU."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor: ...


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Settings:
    """num: pictures to generate (None: one for each held-out one). seed: picture i has seed + i; also the bootstrap's.

    k: neighbours of precision and recall. training_layers: layers of the embedded network that the training loss used, None
    when it used another network or none.
    """

    num: int | None = None
    seed: int = 0
    batch_size: int = 16
    k: int = 3
    num_resamples: int = 1000
    level: float = 0.95
    scorer: Scorer = field(default_factory=Scorer)
    training_layers: tuple[str, ...] | None = EMBEDDED_LAYERS

    def __post_init__(self) -> None:
        if self.num is not None and self.num < 1:
            raise InputError(f"num is {self.num}; evaluate at least one picture.")


@dataclass(frozen=True)
class Sets:
    """held: held-out pictures: reconstructed, drawn again, and the gallery of retrieval.

    extra: more held-out pictures whose captions are drawn when `num` is larger than `held`.
    rest: other real pictures (B above), best a random choice; None: half of those drawn play them.
    """

    held: EvaluationData
    extra: EvaluationData | None = None
    rest: EvaluationData | None = None


@dataclass(frozen=True)
class Evaluation:
    """The report with what it was made from.

    drawn: indices into `held` then `extra`. hits: (M,) retrieval of those in `held`.
    """

    report: Report
    drawn: Sequence[int]
    generated: Tensor | None
    hits: Tensor | None
    reconstructions: Reconstructions


def evaluate(
    first_stage: FirstStage,
    sets: Sets,
    settings: Settings,
    generate: Generate | None = None,
    *,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model; without `generate` only its first stage. `about` (model, sampler, steps, ...) goes into the manifest."""
    run = _Run(sets, settings, device, ReferenceCache(cache), progress or (lambda what, done, total: None))
    own = [i for i in run.drawn if i < len(sets.held)]
    made = reconstruction(first_stage, sets.held.pixels[own], device, settings.batch_size, run.told("reconstruct"))
    rows, notes, groups = run.reconstruction_rows(made), [run.perceptual_note()], dict[str, float]()
    generated, hits = None, None
    if generate is not None:
        generated = run.generate(generate)
        features = settings.scorer(generated, device, settings.batch_size, run.told("features of generated"))
        rows += run.distribution_rows(features)
        if sets.held.tells_apart:
            ceiling = settings.scorer(made.pixels, device, settings.batch_size, run.told("features of reconstructions"))
            hits = run.retrieve(features[: len(own)], own)
            rows += run.retrieval_rows(hits, run.retrieve(ceiling, own))
            groups = by_group(hits, [sets.held.groups[i] for i in own])
        else:
            notes.append("Retrieval@1 is left out: captions do not say which picture of a group is meant.")
        notes += run.distribution_notes()
    if made.alpha_psnr is not None:
        notes.append("Pictures with transparency are measured on white; alpha itself has the one row that names it.")
    report = Report(rows, run.manifest(about or {}, generated), groups, notes)
    return Evaluation(report, run.drawn, generated, hits, made)


def by_group(hits: Tensor, groups: Sequence[str]) -> dict[str, float]:
    """Mean of (M,) hits in every group."""
    members = {name: [i for i, g in enumerate(groups) if g == name] for name in sorted(set(groups))}
    return {name: hits[torch.tensor(index)].mean().item() for name, index in members.items()}


class _Run:
    """One evaluation: the choice of pictures, and every row's computation."""

    def __init__(
        self, sets: Sets, settings: Settings, device: torch.device | str, cache: ReferenceCache, progress: Progress
    ) -> None:
        self.sets, self.settings, self.device, self.cache, self.progress = sets, settings, device, cache, progress
        held, extra = len(sets.held), 0 if sets.extra is None else len(sets.extra)
        wanted = held if settings.num is None else settings.num
        self.drawn = choose(held, wanted, settings.seed)
        self.drawn += [held + i for i in choose(extra, max(0, wanted - held), settings.seed)]
        self.captions = [*sets.held.captions, *(sets.extra.captions if sets.extra is not None else ())]
        self._held: Tensor | None = None

    def told(self, what: str) -> OnBatch:
        return lambda done, total: self.progress(what, done, total)

    def rng(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.settings.seed)

    def generate(self, generate: Generate) -> Tensor:
        """One picture for each drawn caption; picture i has seed + i."""
        prompts, parts = [self.captions[i] for i in self.drawn], []
        for part in batches(len(prompts), self.settings.batch_size):
            seeds = [self.settings.seed + i for i in range(part.start, part.stop)]
            parts.append(generate(prompts[part], seeds))
            self.progress("generate", part.stop, len(prompts))
        return torch.cat(parts)

    def features(self, data: EvaluationData, what: str) -> Tensor:
        return self.cache.features(data, self.settings.scorer, self.device, self.settings.batch_size, self.told(what))

    def held_features(self) -> Tensor:
        """Of all held-out pictures, then of the extra ones."""
        if self._held is None:
            parts = [
                self.features(data, "features of held-out") for data in (self.sets.held, self.sets.extra) if data is not None
            ]
            self._held = torch.cat(parts)
        return self._held

    def reconstruction_rows(self, made: Reconstructions) -> list[Row]:
        count, rows = len(made.psnr), []
        scores = (
            ("psnr", "reconstruction PSNR", made.psnr, "higher", "dB"),
            ("ssim", "reconstruction SSIM", made.ssim, "higher", ""),
            ("perceptual", "reconstruction perceptual distance", made.perceptual, "lower", ""),
            ("alpha_psnr", "reconstruction alpha PSNR", made.alpha_psnr, "higher", "dB"),
        )
        for key, label, values, better, unit in scores:
            if values is not None:
                rows.append(Row.of(self.mean(values), f"reconstruction/{key}", label, count, better, unit=unit))
        return rows

    def mean(self, values: Tensor) -> Any:
        return mean_interval(values, self.rng(), self.settings.num_resamples, self.settings.level)

    def sides(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(G, A, B) of one size."""
        real = self.held_features()[torch.tensor(self.drawn)]
        if self.sets.rest is not None:
            rest = self.features(self.sets.rest, "features of other real pictures")
            n = min(len(features), len(rest))
            return features[:n], real[:n], rest[:n]
        order = torch.randperm(len(real), generator=self.rng())
        n = len(real) // 2
        return features[order[:n]], real[order[:n]], real[order[n : 2 * n]]

    def distribution_rows(self, features: Tensor) -> list[Row]:
        """Frechet and kernel distance, precision and recall of G against B, beside A against B."""
        made, real, rest = self.sides(features)
        n, level = len(made), self.settings.level
        if n < FEWEST:
            return []

        def distance(side: Tensor, index: Tensor) -> float:
            # one index for both sides: they are independent samples of one size, so that it resamples both at once
            return frechet_distance(moments(side[index]), moments(rest[index]))

        resamples = min(200, self.settings.num_resamples)
        frechet = bootstrap(n, lambda i: distance(made, i), self.rng(), num_resamples=resamples, level=level, centred=True)
        floor = distance(real, torch.arange(n))
        rows = [
            Row.of(frechet, "fd", "FD-MobileNetV2", n, "lower", floor=floor),
            Row.of(frechet.scaled(1 / max(floor, 1e-12)), "fd_ratio", "FD-MobileNetV2 / floor", n, "lower", floor=1.0),
        ]
        kernel = kernel_interval(made, rest, self.rng(), num_subsets=min(100, self.settings.num_resamples), level=level)
        rows.append(Row.of(kernel, "kd", "KD-MobileNetV2", n, "lower", floor=kernel_distance(real, rest)))
        k = min(self.settings.k, n - 1)
        precise, covered = precision_recall(rest, made, k)
        real_precise, real_covered = precision_recall(rest, real, k)
        for key, flags, best in (("precision", precise, real_precise), ("recall", covered, real_covered)):
            value = self.mean(flags.double())
            rows.append(Row.of(value, key, f"{key} (k = {k})", n, "higher", floor=best.double().mean().item()))
        return rows

    def retrieve(self, features: Tensor, own: Sequence[int]) -> Tensor:
        gallery = self.held_features()[: len(self.sets.held)]
        return retrieval_at_1(features, gallery, self.sets.held.groups, own)

    def retrieval_rows(self, hits: Tensor, ceiling: Tensor) -> list[Row]:
        guess = chance(self.sets.held.groups)
        label, of = "retrieval@1", "reconstructions' retrieval@1"
        return [
            Row.of(self.mean(hits), "retrieval", label, len(hits), "higher", floor=guess, floor_is="chance"),
            Row.of(self.mean(ceiling), "retrieval_ceiling", of, len(hits), "higher", floor=guess, floor_is="chance"),
        ]

    def perceptual_note(self) -> str:
        layers = ", ".join(EMBEDDED_LAYERS)
        return f"The perceptual distance looks at layers {layers} of the embedded MobileNetV2, as the training loss can."

    def scores_with_training_layer(self) -> bool:
        return self.settings.scorer.layer in (self.settings.training_layers or ())

    def distribution_notes(self) -> list[str]:
        layer = self.settings.scorer.layer
        used = "used" if self.scores_with_training_layer() else "did not use"
        other = "as many other real pictures" if self.sets.rest is not None else "the other half of the real pictures"
        return [
            f"FD, KD, precision, recall and retrieval use MobileNetV2's {layer}, averaged over places: not Inception, not FID. "
            f"The training loss {used} this layer.",
            f"Generated pictures are compared with {other}; beside it: the real pictures of the same captions in their place.",
        ]

    def manifest(self, about: Mapping[str, Any], generated: Tensor | None) -> dict[str, Any]:
        sets, settings = self.sets, self.settings
        parts = {"held": sets.held, "extra": sets.extra, "rest": sets.rest}
        data = {k: {"count": len(v), "pixels_sha256": v.fingerprint} for k, v in parts.items() if v is not None}
        return {
            **about,
            "seed": settings.seed,
            "counts": {"drawn": len(self.drawn), "generated": 0 if generated is None else len(generated)},
            "image_size": list(sets.held.pixels.shape[1:]),
            "data": data,
            "extractor": settings.scorer.describe(),
            "training_layers": None if settings.training_layers is None else list(settings.training_layers),
            "scoring_layer_in_training_loss": self.scores_with_training_layer(),
            "k": settings.k,
            "num_resamples": settings.num_resamples,
            "interval_level": settings.level,
            "made_by": provenance(self.device),
        }
