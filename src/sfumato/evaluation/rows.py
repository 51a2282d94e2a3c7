"""The rows of a report: which pictures are drawn, and every number's computation (`protocol` says what meets what)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato.evaluation.data import EvaluationData, batches, choose
from sfumato.evaluation.provenance import provenance
from sfumato.evaluation.reconstruction import Reconstructions
from sfumato.evaluation.reference import ReferenceCache
from sfumato.evaluation.report import Row
from sfumato.evaluation.scoring import OnBatch
from sfumato.evaluation.settings import FEWEST, Generate, Progress, Sets, Settings
from sfumato.losses.perceptual import EMBEDDED_LAYERS
from sfumato.metrics.bootstrap import Interval, bootstrap, mean_interval
from sfumato.metrics.density_coverage import NEIGHBOURS, density_coverage
from sfumato.metrics.frechet import frechet_distance, moments
from sfumato.metrics.kernel import kernel_distance, kernel_interval
from sfumato.metrics.precision_recall import precision_recall
from sfumato.metrics.retrieval import chance, retrieval_at_1

MOST_RESAMPLES = 200
"""Of a Frechet distance, whose resamples take an eigendecomposition each."""


class Run:
    """One evaluation: the choice of pictures, and every row's computation.

    drawn: indices into `held` then `extra`, each once. asked: the same, again from the start where captions are repeated.
    """

    def __init__(
        self, sets: Sets, settings: Settings, device: torch.device | str, cache: ReferenceCache, progress: Progress
    ) -> None:
        self.sets, self.settings, self.device, self.cache, self.progress = sets, settings, device, cache, progress
        held, extra = len(sets.held), 0 if sets.extra is None else len(sets.extra)
        wanted = held if settings.num is None else settings.num
        self.drawn = choose(held, wanted, settings.seed)
        self.drawn += [held + i for i in choose(extra, max(0, wanted - held), settings.seed)]
        count = wanted if settings.repeat else len(self.drawn)
        self.asked = [self.drawn[i % len(self.drawn)] for i in range(count)]
        self.captions = [*sets.held.captions, *(sets.extra.captions if sets.extra is not None else ())]
        self._held: Tensor | None = None

    @property
    def own(self) -> list[int]:
        """The drawn ones among `held`."""
        return [i for i in self.drawn if i < len(self.sets.held)]

    def told(self, what: str) -> OnBatch:
        """The progress of one part."""
        return lambda done, total: self.progress(what, done, total)

    def rng(self) -> torch.Generator:
        """Of the bootstrap: the same for every row."""
        return torch.Generator().manual_seed(self.settings.seed)

    def generate(self, generate: Generate) -> Tensor:
        """One picture for each asked caption; picture i has seed + i."""
        prompts, made = [self.captions[i] for i in self.asked], torch.empty(0)
        for part in batches(len(prompts), self.settings.batch_size):
            seeds = [self.settings.seed + i for i in range(part.start, part.stop)]
            pixels = generate(prompts[part], seeds)
            if not len(made):  # as many as there will be: no second copy of 50,000 pictures
                made = pixels.new_empty((len(prompts), *pixels.shape[1:]))
            made[part] = pixels
            self.progress("generate", part.stop, len(prompts))
        return made

    def features(self, data: EvaluationData, what: str) -> Tensor:
        """Of real pictures, kept on disk."""
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
        """What the first stage loses, picture by picture."""
        count, rows = len(made.psnr), []
        scores = (
            ("psnr", "reconstruction PSNR", made.psnr, "higher", "dB"),
            ("ssim", "reconstruction SSIM", made.ssim, "higher", ""),
            ("perceptual", "reconstruction perceptual distance", made.perceptual, "lower", ""),
            ("lpips", "reconstruction LPIPS (VGG16)", made.lpips, "lower", ""),
            ("alpha_psnr", "reconstruction alpha PSNR", made.alpha_psnr, "higher", "dB"),
        )
        for key, label, values, better, unit in scores:
            if values is not None:
                rows.append(Row.of(self.mean(values), f"reconstruction/{key}", label, count, better, unit=unit))
        return rows

    def reconstruction_distance(self, features: Tensor) -> list[Row]:
        """The counterpart of the R-FID: reconstructions against the very pictures that were reconstructed, so 0 at best.

        Pairs are resampled together.
        """
        n = len(features)
        if not self.settings.distance or n < self.settings.scorer.fewest:
            return []
        real = self.held_features()[torch.tensor(self.own)]
        found = self.frechet(features, real)
        return [Row.of(found, "reconstruction/fd", "FD-MobileNetV2 of reconstructions", n, "lower", floor=0.0)]

    def mean(self, values: Tensor) -> Interval:
        """The mean of a number a picture."""
        return mean_interval(values, self.rng(), self.settings.num_resamples, self.settings.level)

    def frechet(self, a: Tensor, b: Tensor) -> Interval:
        """One index resamples both sides of one size: right for pairs, and for two independent samples."""

        def distance(index: Tensor) -> float:
            return frechet_distance(moments(a[index]), moments(b[index]))

        resamples, level = min(MOST_RESAMPLES, self.settings.num_resamples), self.settings.level
        return bootstrap(len(a), distance, self.rng(), num_resamples=resamples, level=level, centred=True)

    def sides(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(G, A, B): G and B of one size, A of that size too unless captions were repeated."""
        real = self.held_features()[torch.tensor(self.drawn)]
        if self.sets.rest is not None:
            rest = self.features(self.sets.rest, "features of other real pictures")
            n = min(len(features), len(rest))
            return features[:n], real[:n], rest[:n]
        order = torch.randperm(len(real), generator=self.rng())
        n = len(real) // 2
        return features[order[:n]], real[order[:n]], real[order[n : 2 * n]]

    def distribution_rows(self, features: Tensor) -> list[Row]:
        """Distances and manifolds of G against B, beside A against B."""
        made, real, rest = self.sides(features)
        n, level = len(made), self.settings.level
        if n < FEWEST:
            return []
        rows = self.frechet_rows(made, real, rest) if self.settings.distance else []
        kernel = kernel_interval(made, rest, self.rng(), num_subsets=min(100, self.settings.num_resamples), level=level)
        rows.append(Row.of(kernel, "kd", "KD-MobileNetV2", n, "lower", floor=kernel_distance(real, rest)))
        k, more = min(self.settings.k, n - 1), min(NEIGHBOURS, n - 1)
        flags = [*precision_recall(rest, made, k), *density_coverage(rest, made, more)]
        best = [*precision_recall(rest, real, min(k, len(real) - 1)), *density_coverage(rest, real, more)]
        names = (("precision", k), ("recall", k), ("density", more), ("coverage", more))
        for (key, near), mine, theirs in zip(names, flags, best, strict=True):
            beside = theirs.double().mean().item() if len(real) == n or key in ("precision", "density") else None
            rows.append(Row.of(self.mean(mine.double()), key, f"{key} (k = {near})", n, "higher", floor=beside))
        return rows

    def frechet_rows(self, made: Tensor, real: Tensor, rest: Tensor) -> list[Row]:
        """The distance of G and B, and where A is as large as they are, how many times its own that is."""
        n = len(made)
        floor = frechet_distance(moments(real), moments(rest)) if len(real) == n else None
        found = self.frechet(made, rest)
        rows = [Row.of(found, "fd", "FD-MobileNetV2", n, "lower", floor=floor)]
        if floor is not None:
            scaled = found.scaled(1 / max(floor, 1e-12))
            rows.append(Row.of(scaled, "fd_ratio", "FD-MobileNetV2 / floor", n, "lower", floor=1.0))
        return rows

    def retrieve(self, features: Tensor, own: Sequence[int]) -> Tensor:
        """Retrieval@1 of pictures made for `own` among all held-out ones."""
        gallery = self.held_features()[: len(self.sets.held)]
        return retrieval_at_1(features, gallery, self.sets.held.groups, own)

    def retrieval_rows(self, hits: Tensor, ceiling: Tensor | None) -> list[Row]:
        """Prompt agreement: the generated pictures' retrieval, and that of reconstructions."""
        guess = chance(self.sets.held.groups)
        named = [("retrieval", "retrieval@1", hits), ("retrieval_ceiling", "reconstructions' retrieval@1", ceiling)]
        return [
            Row.of(self.mean(found), key, label, len(found), "higher", floor=guess, floor_is="chance")
            for key, label, found in named
            if found is not None
        ]

    def perceptual_note(self) -> str:
        """What the perceptual distance sees."""
        layers = ", ".join(EMBEDDED_LAYERS)
        return f"The perceptual distance looks at layers {layers} of the embedded MobileNetV2, as the training loss can."

    def reconstruction_notes(self, count: int) -> list[str]:
        """What the perceptual distance sees, and why there is no distance of `count` reconstructions."""
        scorer, notes = self.settings.scorer, [self.perceptual_note()]
        if self.settings.distance and count < scorer.fewest:
            notes.append(
                f"The Frechet distance of reconstructions is left out: {count} pictures, and a covariance of {scorer.dims} "
                f"features needs {scorer.fewest}."
            )
        return notes

    def scores_with_training_layer(self) -> bool:
        """Whether the training loss looked at what scores."""
        return self.settings.scorer.layer in (self.settings.training_layers or ())

    def distribution_notes(self, features: Tensor) -> list[str]:
        """What the distances see, what is compared with what, and where there are few pictures."""
        layer = self.settings.scorer.layer
        used = "used" if self.scores_with_training_layer() else "did not use"
        other = "as many other real pictures" if self.sets.rest is not None else "the other half of the real pictures"
        notes = [
            f"FD, KD, precision, recall and retrieval use MobileNetV2's {layer}, averaged over places: not Inception, not FID. "
            f"The training loss {used} this layer.",
            f"Generated pictures are compared with {other}; beside it: the real pictures of the same captions in their place.",
        ]
        n = min(len(features), len(self.sets.rest)) if self.sets.rest is not None else len(features) // 2
        if n < FEWEST:
            notes.append(f"Distributions are left out: {n} pictures a side, and {NEIGHBOURS} neighbours need {FEWEST}.")
        if not self.settings.distance:
            notes.append("The Frechet distance is left out, as asked.")
        if len(self.asked) > len(self.drawn):
            notes.append(
                f"There are {len(self.asked)} generated pictures for {len(self.drawn)} held-out ones, whose captions, if any, "
                "were drawn several times: what depends on the number of real pictures has no floor of that size."
            )
        return notes

    def manifest(self, about: Mapping[str, Any], generated: Tensor | None) -> dict[str, Any]:
        """Everything that decides the numbers."""
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
