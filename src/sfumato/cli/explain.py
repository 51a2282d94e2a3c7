"""`sfumato explain ANALYSIS MODEL`: analyses that say why a model does what it does, one figure each.

Rate and distortion is here; the others are in `sfumato.cli.analyses`, one file each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.analyses import attention, denoise, forward, histogram, interpolate, loss, traverse
from sfumato.errors import InputError, unknown
from sfumato.generation.limits import LIMITS, number_from_text, whole
from sfumato.generation.output import checked_file, checked_path
from sfumato.generation.request import BATCH_SIZE

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.diffusion.bounds import Estimate
    from sfumato.evaluation.data import EvaluationData
    from sfumato.explain.rate_distortion import Curve, Point
    from sfumato.explain.stream_curve import Streamed
    from sfumato.generation.pipeline import Pipeline

HELP = "Analyses of a model, one figure each: rate and distortion, noise, steps, losses, latents, attention."
ANALYSES = {one.NAME: one for one in (forward, denoise, loss, interpolate, traverse, histogram, attention)}
FORMATS = {".svg": "SVG", ".json": "JSON"}
NUM, STEPS = 64, 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The analyses and their options."""
    analyses = parser.add_subparsers(dest="analysis", required=True, metavar="ANALYSIS")
    add = analyses.add_parser("rate-distortion", help="bits paid against error seen, over reverse time").add_argument
    add("model", metavar="MODEL", help="a shipped model or a model directory")
    add("--data", required=True, metavar="DIR", help="the data set: a folder of pictures or a tar shard")
    add("--split", metavar="NAME", help="test or validation (default: test where there is one)")
    add("--num", metavar="N", default=str(NUM), help=f"held-out pictures, at most (default: {NUM})")
    add("--steps", metavar="K", default=str(STEPS), help=f"steps of the chain; fewer cost more bits (default: {STEPS})")
    add("--stream", metavar="LEVELS", help="also as a real stream of 1 to 16 levels, encoded and decoded")
    add("--seed", metavar="S", default="0", help="noise of the first picture; picture i has S + i (default: 0)")
    add("--batch-size", metavar="B", default=str(BATCH_SIZE), help=f"pictures at once (default: {BATCH_SIZE})")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--out", metavar="FILE", help="the figure as .svg or its numbers as .json (default: numbers on the screen)")
    add("--overwrite", action="store_true", help="replace an existing file")
    for name, one in ANALYSES.items():
        one.add_arguments(analyses.add_parser(name, help=one.HELP))


def run(args: argparse.Namespace) -> int:
    """The analysis that was asked for."""
    return ANALYSES[args.analysis].run(args) if args.analysis in ANALYSES else rate_distortion(args)


def rate_distortion(args: argparse.Namespace) -> int:
    """Check everything first, then load, measure, print or write."""
    from sfumato.cli.evaluate import SPLITS

    if args.split is not None and args.split not in SPLITS:
        raise unknown("split", args.split[:40], SPLITS)
    num, steps = LIMITS.num(number_from_text(args.num)), LIMITS.steps(number_from_text(args.steps))
    seed, batch_size = number_from_text(args.seed), LIMITS.batch_size(number_from_text(args.batch_size))
    seed = LIMITS.seed(seed, num)
    levels = None if args.stream is None else whole("stream", number_from_text(args.stream), 1, 16)
    data = checked_path("data", args.data)
    if not data.exists():
        raise InputError(f"data: no such folder {args.data!r}; give a folder of pictures or a tar shard.")
    out = None if args.out is None else checked_file("out", args.out, FORMATS, args.overwrite)

    from sfumato.explain.stream_curve import table as stream_table
    from sfumato.generation.pipeline import load

    pipeline = load(str(checked_path("model", args.model)), args.device)
    curve, point = measure(pipeline, data, args.split, num, steps, seed, batch_size)
    print(table(curve, point), end="")
    stream = None if levels is None else measure_stream(pipeline, data, args.split, num, levels, seed, batch_size)
    if stream is not None:
        print(stream_table(stream, curve), end="")
    if out is not None:
        write(out, pipeline, curve, point, stream)
        print(out)
    return 0


def measure(
    pipeline: Pipeline, data: Path, split: str | None, num: int, steps: int, seed: int, batch_size: int
) -> tuple[Curve, Point | None]:
    """The curve of a loaded model on its held-out pictures, and its first stage's point, None where that has none."""
    from sfumato.explain.rate_distortion import curve, first_stage_point, log_plan
    from sfumato.first_stages.identity import IdentityFirstStage
    from sfumato.priors.diffusion import DiffusionPrior

    model = pipeline.model
    if not isinstance(model.prior, DiffusionPrior):
        raise InputError(f"model: {pipeline.name} has no diffusion prior, and only that has a chain of steps to code by.")
    held = held_out(pipeline, data, split, num, seed)
    schedule, stage = model.prior.denoiser.schedule, model.encoder
    plan = log_plan(schedule, steps)

    def estimates(part: slice) -> Estimate:
        return estimate(pipeline, list(held.captions[part]), with_variance=True)

    same: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "device": pipeline.device}
    found = curve(stage, schedule, estimates, held.pixels, times=plan, variance=model.prior.variance, **same)
    point = None if isinstance(stage, IdentityFirstStage) else first_stage_point(stage, held.pixels, **same)
    return found, point


def measure_stream(
    pipeline: Pipeline, data: Path, split: str | None, num: int, levels: int, seed: int, batch_size: int
) -> Streamed:
    """The same pictures as a real stream."""
    from sfumato.explain.stream_curve import streamed
    from sfumato.priors.diffusion import DiffusionPrior

    model = pipeline.model
    assert isinstance(model.prior, DiffusionPrior)
    held = held_out(pipeline, data, split, num, seed)

    def estimates(part: slice) -> Estimate:
        return estimate(pipeline, list(held.captions[part]))

    same: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "device": pipeline.device}
    return streamed(model.encoder, model.prior.denoiser.schedule, estimates, held.pixels, levels, **same)


def held_out(pipeline: Pipeline, data: Path, split: str | None, num: int, seed: int) -> EvaluationData:
    """At most `num` held-out pictures, chosen by `seed`."""
    from sfumato.cli.evaluate import read_source
    from sfumato.evaluation.data import choose

    held = read_source(pipeline, data, split, num, seed).sets.held
    return held.take(choose(len(held), min(num, len(held)), seed))


def estimate(pipeline: Pipeline, prompts: list[str], with_variance: bool = False) -> Estimate:
    """The denoiser told `prompts`, without guidance, which would be another model; where asked, with its learned variance."""
    import torch

    from sfumato.priors.diffusion import DiffusionPrior

    model = pipeline.model
    prior, conditioner = model.prior, model.conditioner
    assert isinstance(prior, DiffusionPrior)
    with torch.no_grad():
        told = [conditioner.from_prompt(prompt, model.image_size) for prompt in prompts]
        cond = conditioner(conditioner.prepare(told).to(pipeline.device))

    def ask(x_t: Tensor, t: Tensor) -> Tensor:
        return prior.estimate(x_t, t, cond) if with_variance else prior.denoiser(x_t, t, cond).x_0

    return ask


def table(curve: Curve, point: Point | None) -> str:
    """About ten rows of the curve, and the point, as text."""
    stride = max(1, len(curve.times) // 10)
    lines = ["      t   bits/value   RMSE (0-255)"]
    for index in sorted({*range(0, len(curve.times), stride), len(curve.times) - 1}):
        lines.append(f"{curve.times[index]:7.3f} {curve.rate[index]:12.4f} {curve.rmse[index]:14.3f}")
    if curve.lossless is not None:
        lines.append(f"lossless {curve.lossless:11.4f} {0:14.3f}")
    if point is not None:
        lines.append(f"first stage, under {point.under}: {point.rate:.4f} bits/value, RMSE {point.rmse:.3f}")
    return "\n".join([*lines, f"{curve.num_pictures} pictures, {len(curve.times)} steps", ""])


def write(out: Path, pipeline: Pipeline, curve: Curve, point: Point | None, stream: Streamed | None = None) -> None:
    """The figure or the numbers, by the suffix."""
    from sfumato.explain.plane import plane
    from sfumato.io.files import write_bytes, write_json

    if out.suffix.lower() == ".svg":
        title = f"{pipeline.name}: rate and distortion"
        curves = [(pipeline.name, curve)]
        if stream is not None:
            curves.append((f"as a stream of {len(stream.times) - 1} levels", stream.curve))
        write_bytes(out, plane(curves, [] if point is None else [point], title).encode())
        return
    model = {"name": pipeline.name, "weights_sha256_10": pipeline.hash}
    found = {"model": model, "curve": curve.to_json(), "first_stage": None if point is None else point.to_json()}
    write_json(out, found if stream is None else {**found, "stream": stream.to_json()})
