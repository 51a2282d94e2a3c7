"""`sfumato explain rate-distortion MODEL [MODEL ...]`: bits paid against error seen, of all models on one pair of axes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.analyses import common
from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, shorten, whole
from sfumato.generation.output import checked_file, checked_path

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.conditioning import Conditioning
    from sfumato.diffusion.bounds import Estimate
    from sfumato.evaluation.data import EvaluationData
    from sfumato.explain.compared import Rated
    from sfumato.explain.rate_distortion import Curve
    from sfumato.explain.stream_curve import Streamed
    from sfumato.generation.pipeline import Pipeline

NAME, HELP = "rate-distortion", "bits paid against error seen, over reverse time; of several models on one pair of axes"
FORMATS = {".svg": "SVG", ".json": "JSON"}
NUM, STEPS, MOST_MODELS = 64, 100, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its flags."""
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="+", help=f"shipped models or model directories, up to {MOST_MODELS}")
    common.add_data(parser, NUM)
    add("--steps", metavar="K", default=str(STEPS), help=f"steps of a chain; fewer cost more bits (default: {STEPS})")
    add("--stream", metavar="LEVELS", help="also as a real stream of 1 to 16 levels, encoded and decoded; of one model")
    common.add_seed(parser, "noise of the first picture; picture i has S + i")
    common.add_batch_size(parser)
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--out", metavar="FILE", help="the figure as .svg or its numbers as .json (default: numbers on the screen)")
    add("--overwrite", action="store_true", help="replace an existing file")


def run(args: argparse.Namespace) -> int:
    """Check everything first, then load all, measure one after another, print and write."""
    num, steps = LIMITS.num(common.number(args, "num")), LIMITS.steps(common.number(args, "steps"))
    seed = LIMITS.seed(common.number(args, "seed"), num)
    batch_size = LIMITS.batch_size(common.number(args, "batch_size"))
    levels = None if args.stream is None else whole("stream", common.number(args, "stream"), 1, 16)
    data, places = common.data_of(args), _places(args.models, levels)
    out = None if args.out is None else checked_file("out", args.out, FORMATS, args.overwrite)

    from sfumato.explain.stream_curve import table as stream_table
    from sfumato.generation.pipeline import load

    pipelines = [load(place, args.device) for place in places]
    names = _names(pipelines, places)
    for pipeline, name in zip(pipelines, names, strict=True):
        check(pipeline, name)
    if levels is not None and not _has_chain(pipelines[0]):
        raise InputError(f"stream: {shorten(names[0])} has no diffusion prior, and only that has steps to send; leave it out.")
    same: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    rated, stream = [], None
    held_outs = [common.held_out(pipeline, data, args.split, num, seed) for pipeline in pipelines]
    for pipeline, held, name in zip(pipelines, held_outs, names, strict=True):
        check_told(pipeline, held, name)
    for pipeline, held, name in zip(pipelines, held_outs, names, strict=True):
        rated.append(measure(pipeline, held, steps, name=name, **same))
        print(table(rated[-1], headed=len(pipelines) > 1), end="", flush=True)
    if levels is not None:
        stream = measure_stream(pipelines[0], held_outs[0], levels, **same)
        assert rated[0].curve is not None
        print(stream_table(stream, rated[0].curve), end="")
    if out is not None:
        write(out, pipelines, rated, stream)
        print(out)
    return 0


def _places(models: Sequence[str], levels: int | None) -> list[str]:
    """The models as `load` takes them."""
    if levels is not None and len(models) > 1:
        raise InputError(f"stream: got {len(models)} models, expected one; a stream is drawn beside its own model's curve.")
    if len(models) > MOST_MODELS:
        raise InputError(f"model: got {len(models)}, expected at most {MOST_MODELS}, whose colours can be told apart.")
    places = [str(checked_path("model", model)) for model in models]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise InputError(f"model: {shorten(twice)} is named twice; name each model once.")
    return places


def _names(pipelines: Sequence[Pipeline], places: Sequence[str]) -> list[str]:
    """Their own, with the part of their places in which models of one name differ."""
    own, full = [pipeline.name for pipeline in pipelines], [os.path.abspath(place) for place in places]
    found = []
    for name, path in zip(own, full, strict=True):
        twins = [os.path.dirname(other) for other, its in zip(full, own, strict=True) if its == name]
        found.append(name if len(twins) == 1 else f"{name} ({os.path.relpath(path, os.path.commonpath(twins))})")
    return found


def check(pipeline: Pipeline, name: str) -> None:
    """Raises `InputError` for a model that has neither a curve nor a point."""
    from sfumato.first_stages.base import FirstStage
    from sfumato.first_stages.identity import IdentityFirstStage

    stage, prior = pipeline.model.first_stage, pipeline.model.prior
    if not isinstance(stage, FirstStage):
        raise InputError(
            f"model: {shorten(name)} is a GAN, which has no place here: nothing leads from a picture back to its noise, so no "
            "number of bits describes a given picture, and there is no error at which it comes back; leave it out."
        )
    if isinstance(stage, IdentityFirstStage) and not _is_told(pipeline):
        raise InputError(
            f"model: {shorten(name)} is a {type(prior).__name__} over pixels, which gives 8-bit pictures no bits; leave it out."
        )


def check_told(pipeline: Pipeline, held: EvaluationData, name: str) -> None:
    """Raises `InputError` for a prior that has to be told more than data says: at once, and not after an hour of others."""
    if not _is_told(pipeline):
        return
    try:
        _condition(pipeline, held, slice(0, 1))
    except InputError as error:
        raise InputError(f"model: {shorten(name)}: {error}") from None


def _has_chain(pipeline: Pipeline) -> bool:
    from sfumato.priors.diffusion import DiffusionPrior

    return isinstance(pipeline.model.prior, DiffusionPrior)


def _is_told(pipeline: Pipeline) -> bool:
    """Whether the prior is asked."""
    from sfumato.explain.prior_point import has_prior_point

    return _has_chain(pipeline) or has_prior_point(pipeline.model.encoder, pipeline.model.prior)


def measure(pipeline: Pipeline, held: EvaluationData, steps: int, *, name: str, seed: int, batch_size: int) -> Rated:
    """What a loaded model has of: the curve of its chain, its first stage's point, and its prior's."""
    from sfumato.explain.compared import Rated, stage_key
    from sfumato.explain.prior_point import has_prior_point, prior_point
    from sfumato.explain.rate_distortion import first_stage_point
    from sfumato.first_stages.identity import IdentityFirstStage

    model, stage, pixels = pipeline.model, pipeline.model.encoder, held.pixels
    same: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "device": pipeline.device}
    prior = None
    if has_prior_point(stage, model.prior):
        prior = prior_point(stage, model.prior, lambda part: _condition(pipeline, held, part), pixels, **same)
    return Rated(
        name=name,
        shape=tuple(pixels.shape[1:]),
        num_pictures=len(pixels),
        curve=_curve(pipeline, held, steps, same) if _has_chain(pipeline) else None,
        stage=None if isinstance(stage, IdentityFirstStage) else first_stage_point(stage, pixels, **same),
        prior=prior,
        stage_key=stage_key(stage),
    )


def _curve(pipeline: Pipeline, held: EvaluationData, steps: int, same: dict[str, Any]) -> Curve:
    from sfumato.explain.rate_distortion import curve, log_plan
    from sfumato.priors.diffusion import DiffusionPrior

    prior = pipeline.model.prior
    assert isinstance(prior, DiffusionPrior)
    schedule = prior.denoiser.schedule

    def estimates(part: slice) -> Estimate:
        return _estimate(pipeline, held, part, with_variance=True)

    plan = log_plan(schedule, steps)
    return curve(pipeline.model.encoder, schedule, estimates, held.pixels, times=plan, variance=prior.variance, **same)


def measure_stream(pipeline: Pipeline, held: EvaluationData, levels: int, *, seed: int, batch_size: int) -> Streamed:
    """The same pictures as a real stream."""
    from sfumato.explain.stream_curve import streamed
    from sfumato.priors.diffusion import DiffusionPrior

    prior, stage = pipeline.model.prior, pipeline.model.encoder
    assert isinstance(prior, DiffusionPrior)
    same: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "device": pipeline.device}

    def estimates(part: slice) -> Estimate:
        return _estimate(pipeline, held, part)

    return streamed(stage, prior.denoiser.schedule, estimates, held.pixels, levels, **same)


def _condition(pipeline: Pipeline, held: EvaluationData, part: slice) -> Conditioning:
    """What the prior is told of some pictures, without guidance, which would be another model."""
    from sfumato.cli.evaluate_bits import condition

    return condition(pipeline, list(held.captions[part]))


def _estimate(pipeline: Pipeline, held: EvaluationData, part: slice, with_variance: bool = False) -> Estimate:
    """The denoiser told of these pictures; where asked, with its learned variance."""
    from sfumato.priors.diffusion import DiffusionPrior

    prior, cond = pipeline.model.prior, _condition(pipeline, held, part)
    assert isinstance(prior, DiffusionPrior)

    def ask(x_t: Tensor, t: Tensor) -> Tensor:
        return prior.estimate(x_t, t, cond) if with_variance else prior.denoiser(x_t, t, cond).x_0

    return ask


def table(rated: Rated, headed: bool = False) -> str:
    """About ten rows of the curve, and the points, as text."""
    from sfumato.explain.compared import size_text

    lines = [f"{rated.name}, pictures of {size_text(rated.shape)}"] if headed else []
    curve = rated.curve
    if curve is not None:
        stride = max(1, len(curve.times) // 10)
        lines.append("      t   bits/value   RMSE (0-255)")
        for index in sorted({*range(0, len(curve.times), stride), len(curve.times) - 1}):
            lines.append(f"{curve.times[index]:7.3f} {curve.rate[index]:12.4f} {curve.rmse[index]:14.3f}")
        if curve.lossless is not None:
            lines.append(f"lossless {curve.lossless:11.4f} {0:14.3f}")
    for what, point in (("first stage", rated.stage), ("the same" if rated.stage else "pixels", rated.prior)):
        if point is not None:
            lines.append(f"{what}, under {point.under}: {point.rate:.4f} bits/value, RMSE {point.rmse:.3f}")
    chain = "" if curve is None else f", {len(curve.times)} steps"
    return "\n".join([*lines, f"{rated.num_pictures} pictures{chain}", ""])


def write(out: Path, pipelines: Sequence[Pipeline], rated: Sequence[Rated], stream: Streamed | None = None) -> None:
    """The figure or the numbers, by the suffix."""
    import dataclasses

    from sfumato.explain.compared import note, series
    from sfumato.explain.plane import planes
    from sfumato.io.files import write_bytes, write_json

    if out.suffix.lower() == ".svg":
        drawn = series(rated)
        if stream is not None:
            also = (f"as a stream of {len(stream.times) - 1} levels", stream.curve)
            drawn = [dataclasses.replace(drawn[0], curves=(*drawn[0].curves, also))]
        title = f"{rated[0].name}: rate and distortion" if len(rated) == 1 else "Rate and distortion"
        write_bytes(out, planes(drawn, title, note(rated), root=len(rated) > 1).encode())
        return
    found = [{"model": common.model_facts(p), **one.to_json()} for p, one in zip(pipelines, rated, strict=True)]
    alone = found[0] if stream is None else {**found[0], "stream": stream.to_json()}
    write_json(out, alone if len(found) == 1 else {"models": found})
