"""The protocol: which pictures meet which, in what numbers, and what stands beside every number.

Let A be the real pictures whose captions are drawn again, G what the model draws for them, B as many other real pictures.
Distances and manifolds compare G with B; the same of A with B is the floor: what a perfect model would score at this
number of pictures. Retrieval asks each picture of G for its own real picture among all held-out ones of its group.
Reconstructions are compared with their originals, one by one and as a distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.evaluation.data import EvaluationData
from sfumato.evaluation.fidelity import FEWEST as FEWEST_STANDARD
from sfumato.evaluation.fidelity import Fidelity, Scores
from sfumato.evaluation.likelihood import Bits
from sfumato.evaluation.reconstruction import Reconstructions, reconstruction
from sfumato.evaluation.reference import ReferenceCache
from sfumato.evaluation.report import Report, Row
from sfumato.evaluation.rows import Run
from sfumato.evaluation.settings import Generate, Progress, Sets, Settings
from sfumato.first_stages.base import Decoder, FirstStage

__all__ = ["Evaluation", "Generate", "Progress", "Sets", "Settings", "by_group", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """The report with what it was made from.

    drawn: indices into `held` then `extra`. hits: (M,) retrieval of those in `held`. reconstructions: None without an encoder.
    """

    report: Report
    drawn: Sequence[int]
    generated: Tensor | None
    hits: Tensor | None
    reconstructions: Reconstructions | None


def evaluate(
    first_stage: Decoder | None,
    sets: Sets,
    settings: Settings,
    generate: Generate | None = None,
    *,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    bits: Callable[[EvaluationData], Sequence[Bits]] | None = None,
    fidelity: Fidelity | None = None,
) -> Evaluation:
    """Measure a model; without `generate` only its first stage, without an encoder only its pictures.

    `about` (model, sampler, steps, ...) goes into the manifest. bits: likelihood of held-out pictures. fidelity: the standard
    scores, against `sets.rest`. Raises `InputError` where these are not to be had, and, before anything is drawn, for too few
    pictures for the Frechet distance (`Sets.check_count`).
    """
    if generate is None and not isinstance(first_stage, FirstStage):
        raise InputError("reconstruction: this model's first stage only decodes; there is nothing to measure without samples.")
    if generate is not None:
        sets.check_count(settings)
    run = Run(sets, settings, device, ReferenceCache(cache), progress or (lambda what, done, total: None))
    if fidelity is not None:
        _check_standard(fidelity, run, generate is not None, isinstance(first_stage, FirstStage))
    found = _Found()
    made, ceiling = _reconstruct(first_stage, run, found)
    generated, hits = None, None
    if generate is not None:
        generated = run.generate(generate)
        features = settings.scorer(generated, device, settings.batch_size, run.told("features of generated"))
        found.rows += run.distribution_rows(features)
        if sets.held.tells_apart:
            hits = run.retrieve(features[: len(run.own)], run.own)
            found.rows += run.retrieval_rows(hits, None if ceiling is None else run.retrieve(ceiling, run.own))
            found.groups = by_group(hits, [sets.held.groups[i] for i in run.own])
        else:
            found.notes.append("Retrieval@1 is left out: captions do not say which picture of a group is meant.")
        found.notes += run.distribution_notes(features)
    if bits is not None:
        for spent in bits(sets.held):
            row = Row.of(run.mean(spent.values), spent.key, spent.label, len(spent.values), "lower", unit="bits")
            found.rows.append(row)
            found.notes.append(spent.how)
    about = dict(about or {})
    if fidelity is not None:
        about["fidelity"] = _standard(fidelity, run, generated, made, found)
    if made is not None and made.alpha_psnr is not None:
        found.notes.append("Pictures with transparency are measured on white; alpha itself has the one row that names it.")
    report = Report(found.rows, run.manifest(about, generated), found.groups, found.notes)
    return Evaluation(report, run.drawn, generated, hits, made)


class _Found:
    """What an evaluation has gathered so far."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.groups: dict[str, float] = {}


def _reconstruct(first_stage: Decoder | None, run: Run, found: _Found) -> tuple[Reconstructions | None, Tensor | None]:
    """Reconstructions of the drawn held-out pictures, and their features."""
    if not isinstance(first_stage, FirstStage):
        if first_stage is not None:
            found.notes.append("Reconstruction is left out: this first stage only decodes.")
        return None, None
    sets, settings, device = run.sets, run.settings, run.device
    made = reconstruction(
        first_stage, sets.held.pixels[run.own], device, settings.batch_size, run.told("reconstruct"), settings.lpips
    )
    ceiling = settings.scorer(made.pixels, device, settings.batch_size, run.told("features of reconstructions"))
    found.rows += run.reconstruction_rows(made) + run.reconstruction_distance(ceiling)
    found.notes += run.reconstruction_notes(len(made.pixels))
    return made, ceiling


def _check_standard(fidelity: Fidelity, run: Run, generates: bool, encodes: bool) -> None:
    """Before anything is computed. Raises `InputError`."""
    if not generates:
        if not encodes or "fid" not in fidelity.metrics:
            raise InputError("fidelity: without samples there is only the R-FID of a first stage that encodes; ask for fid.")
        fidelity.check(len(run.own), len(run.own), ("fid",))
    elif run.sets.rest is None:
        raise InputError("fidelity: the standard scores compare with training pictures, and this data has none.")
    else:
        fidelity.check(len(run.asked), len(run.sets.rest))


def _standard(
    fidelity: Fidelity, run: Run, generated: Tensor | None, made: Reconstructions | None, found: _Found
) -> dict[str, Any]:
    """The standard scores of samples, and the R-FID where there are enough reconstructions; what the manifest says of them."""
    settings = run.settings
    same: dict[str, Any] = {
        "device": run.device,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "level": settings.level,
    }

    def cached(data: EvaluationData, network: Any) -> Tensor:
        return run.cache.features(data, network, run.device, settings.batch_size, run.told("standard features of real"))

    parts = [Scores()]
    if made is not None and "fid" in fidelity.metrics:
        if len(made.pixels) >= FEWEST_STANDARD["fid"]:
            told = run.told("standard features of reconstructions")
            own = run.sets.held.take(run.own)
            parts.append(fidelity.reconstruction(made.pixels, own, cached, on_batch=told, **same))
        else:
            found.notes.append(f"R-FID is left out: {len(made.pixels)} pictures, and it needs {FEWEST_STANDARD['fid']}.")
    if generated is not None:
        assert run.sets.rest is not None
        told = run.told("standard features of generated")
        parts.append(fidelity.scores(generated, run.sets.rest, cached, on_batch=told, **same))
    for part in parts:
        found.rows += part.rows
        found.notes += part.notes
    return {key: value for part in parts for key, value in part.manifest.items()}


def by_group(hits: Tensor, groups: Sequence[str]) -> dict[str, float]:
    """Mean of (M,) hits in every group."""
    members = {name: [i for i, g in enumerate(groups) if g == name] for name in sorted(set(groups))}
    return {name: hits[torch.tensor(index)].mean().item() for name, index in members.items()}
