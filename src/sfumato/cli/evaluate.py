"""`sfumato evaluate MODEL|DIR --data DIR`: how good a model, or a folder of samples, is beside pictures it has never seen."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.bars import part_bars
from sfumato.cli.caches import cache_folder
from sfumato.cli.evaluate_bits import AskedBits
from sfumato.errors import InputError
from sfumato.generation.limits import LIMITS, number_from_text
from sfumato.generation.output import checked_file, checked_path
from sfumato.generation.request import BATCH_SIZE, Draft

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.evaluation.asked import Asked, Preset
    from sfumato.evaluation.fidelity import Fidelity
    from sfumato.evaluation.protocol import Evaluation, Generate, Progress
    from sfumato.evaluation.report import Report
    from sfumato.evaluation.source import Source
    from sfumato.generation.pipeline import Pipeline
    from sfumato.generation.request import Request
    from sfumato.losses.perceptual import PerceptualLoss

HELP = (
    "Measure a model, or a folder of samples, on held-out pictures: reconstruction, Frechet and kernel distance, precision, "
    "recall, density, coverage, retrieval, bits per dimension."
)
SPLITS = ("test", "validation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sfumato evaluate`. Numbers arrive as text; the limits read and refuse them, as at every front door."""
    add = parser.add_argument
    add("model", metavar="MODEL|DIR", help="a shipped model, a model directory, or a folder of pictures as samples")
    add("--data", required=True, metavar="DIR", help="the data set: a folder of pictures or a tar shard")
    add("--split", metavar="NAME", help="test or validation (default: test where there is one)")
    add("--protocol", metavar="NAME", help="paper, paper-imagenet or quick: settings that do not move")
    add("--num", metavar="N", help="pictures to generate (default: one for each held-out picture)")
    add("--steps", metavar="K", help="denoising steps (default: the model's)")
    add("--guidance", metavar="W", help="how strongly the prompt pulls; 1 is off (default: the model's)")
    add("--sampler", metavar="NAME", help="default: the model's")
    add("--eta", metavar="E", help="of ddim: 0 is deterministic, 1 ancestral (default: 0)")
    add("--seed", metavar="S", help="seed of the first picture; picture i has S + i (default: 0)")
    add("--batch-size", metavar="B", help=f"pictures at once (default: {BATCH_SIZE})")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--out", metavar="FILE.json", help="write the report as JSON, and as a table beside it (.md)")
    add("--overwrite", action="store_true", help="replace an existing report")
    add("--reproduce", metavar="FILE.json", help="measure again as that report was, and say of every number whether it agrees")
    add("--reconstruction-only", action="store_true", help="measure the first stage and generate nothing")
    add("--no-fd", action="store_true", help="leave the Frechet distance out, which takes 97 pictures a side")
    add("--bits", metavar="N", help="bits per dimension, or their bound, of at most N held-out pictures")
    add("--bits-steps", metavar="K", help="steps of the chain that is bounded (default: all of the schedule)")
    add("--bits-gaussian", action="store_true", help="a Gaussian around the decoder's answer, however the decoder learned")
    add("--fidelity", metavar="NAMES", help="standard scores by torch-fidelity: all, or some of fid,is,kid,prc")
    add("--inception", metavar="FILE", help="InceptionV3's weights for fid, is, kid (default: torch-fidelity fetches them)")
    add("--vgg", metavar="FILE", help="VGG16's weights, for prc (default: torchvision fetches them) and LPIPS")
    add("--lpips", metavar="FILE", help="LPIPS's linear heads: reconstruction by LPIPS too, with --vgg")
    add("--cache", metavar="DIR", help="where features of real pictures are kept (default: the user's cache folder)")
    add("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Check everything first, then load, measure, print the table and write the report."""
    from sfumato.evaluation.asked import filled, merged, preset_of
    from sfumato.evaluation.reproduce import agree, compare, read_report

    asked, before = read_asked(args), None
    if args.reproduce is not None:
        before = read_report(checked_path("reproduce", args.reproduce))
        asked = merged(asked, before["manifest"]["asked"])
    recorded = asked.to_json()
    asked = filled(asked)
    draft = _draft(asked)
    data = checked_path("data", args.data)
    if not data.exists():
        raise InputError(f"data: no such folder {args.data!r}; give a folder of pictures or a tar shard.")
    out = None if args.out is None else _out(args.out, args.overwrite)
    cache = checked_path("cache", args.cache) if args.cache is not None else default_cache()
    fidelity, (lpips, hashes) = _fidelity(args, asked), _lpips(args)
    bits = None if asked.bits is None else AskedBits(asked.bits, asked.bits_steps, asked.bits_gaussian)
    extras = Extras(asked.eta, preset_of(asked), fidelity, lpips, hashes, bits, recorded, not asked.no_fd)
    with part_bars(args.quiet) as progress:
        report = _report(args, asked, draft, data, cache, progress, extras)
    print(report.to_markdown(), end="")
    if out is not None:
        from sfumato.evaluation.report import write_report

        for path in write_report(report, out):
            print(path)
    if before is None:
        return 0
    lines = compare(before, report)
    print("\n" + "\n".join(line.text for line in lines))
    print("Every number agrees." if agree(lines) else "Not every number agrees.")
    return 0 if agree(lines) else 1


def read_asked(args: argparse.Namespace) -> Asked:
    """The flags as values within their limits; None where nothing was said."""
    from sfumato.evaluation.asked import Asked
    from sfumato.evaluation.fidelity import metrics_from_text

    def number(name: str) -> Any:
        text = getattr(args, name)
        return None if text is None else number_from_text(text)

    return Asked(
        protocol=args.protocol,
        split=args.split,
        num=number("num"),
        steps=number("steps"),
        guidance=number("guidance"),
        sampler=args.sampler,
        eta=number("eta"),
        seed=number("seed"),
        batch_size=number("batch_size"),
        reconstruction_only=args.reconstruction_only,
        no_fd=args.no_fd,
        fidelity=() if args.fidelity is None else metrics_from_text(args.fidelity),
        bits=number("bits"),
        bits_steps=number("bits_steps"),
        bits_gaussian=args.bits_gaussian,
    )


def _draft(asked: Asked) -> Draft:
    return Draft(
        prompts=("",),
        seed=asked.seed or 0,
        steps=asked.steps,
        guidance=asked.guidance,
        sampler=asked.sampler,
        batch_size=asked.batch_size or BATCH_SIZE,
    )


def _out(text: str, overwrite: bool) -> Path:
    path = checked_file("out", text, {".json": "JSON"}, overwrite)
    checked_file("out", str(path.with_suffix(".md")), {".md": "Markdown"}, overwrite)
    return path


def _file(name: str, text: str | None) -> Path | None:
    if text is None:
        return None
    path = checked_path(name, text)
    if not path.is_file():
        raise InputError(f"{name}: no such file {text!r}; give a .pth or .safetensors file.")
    return path


def _fidelity(args: argparse.Namespace, asked: Asked) -> Fidelity | None:
    from sfumato.evaluation.fidelity import Fidelity, library

    inception, vgg = _file("inception", args.inception), _file("vgg", args.vgg)
    if vgg is not None and args.lpips is None and "prc" not in asked.fidelity:
        raise InputError("--vgg is for --lpips, or for prc among --fidelity; give one of them too.")
    if not asked.fidelity:
        if inception is not None:
            raise InputError("--inception is for --fidelity; give that too.")
        return None
    library()
    return Fidelity(asked.fidelity, inception, vgg)


def _lpips(args: argparse.Namespace) -> tuple[PerceptualLoss | None, dict[str, str]]:
    """LPIPS, and the hashes of its files."""
    if args.lpips is None:
        return None, {}
    heads, vgg = _file("lpips", args.lpips), _file("vgg", args.vgg)
    if vgg is None or heads is None:
        raise InputError("--lpips has the linear heads; give VGG16's weights too, with --vgg.")
    from sfumato.io.files import sha256
    from sfumato.losses.perceptual import PerceptualLoss

    return PerceptualLoss.lpips(vgg, heads), {"heads_sha256": sha256(heads), "vgg16_sha256": sha256(vgg)}


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/sfumato/features` or `~/.cache/sfumato/features`."""
    return cache_folder("features")


@dataclass(frozen=True)
class Extras:
    """What goes beyond a plain evaluation; `asked` is what the manifest records for `--reproduce`."""

    eta: float | None = None
    preset: Preset | None = None
    fidelity: Fidelity | None = None
    lpips: PerceptualLoss | None = None
    lpips_hashes: Mapping[str, str] = field(default_factory=dict)
    bits: AskedBits | None = None
    asked: Mapping[str, Any] | None = None
    distance: bool = True

    def settings(self) -> dict[str, Any]:
        """Of `Settings`, what the protocol and `--no-fd` decide."""
        preset, chosen = self.preset, {"distance": self.distance}
        return chosen if preset is None else {**chosen, "repeat": preset.repeat, "num_resamples": preset.num_resamples}


def _report(
    args: argparse.Namespace, asked: Asked, draft: Draft, data: Path, cache: Path, progress: Progress | None, extras: Extras
) -> Report:
    """Of a model, or of a folder of pictures where that is none."""
    from sfumato.cli.evaluate_samples import is_samples, measure_samples
    from sfumato.generation.pipeline import load

    path = checked_path("model", args.model)
    if is_samples(path):
        return measure_samples(path, data, asked, cache, progress, extras, args.device).report
    pipeline = load(str(path), args.device)
    found: Report = measure(
        pipeline, data, draft, asked.split, asked.num, cache, progress, not asked.reconstruction_only, extras
    )
    return found


def measure(
    pipeline: Pipeline,
    data: Path,
    draft: Draft,
    split: str | None,
    num: int | None,
    cache: Path | None,
    progress: Progress | None,
    generate: bool = True,
    extras: Extras | None = None,
) -> Any:
    """The report of a loaded model on a data set."""
    from sfumato.cli.evaluate_bits import bits_of, fitted_to
    from sfumato.evaluation.protocol import Settings, evaluate

    extras = extras or Extras()
    request = pipeline.request(draft)
    made = generator(pipeline, draft, extras.eta) if generate else None
    fit = fitted_to(pipeline, extras.bits)
    source = read_source(pipeline, data, split, num, request.seed, _reference_count(extras), fit)
    settings = Settings(num=num, seed=request.seed, batch_size=request.batch_size, lpips=extras.lpips, **extras.settings())
    LIMITS.seed(request.seed, num or len(source.sets.held))
    if generate:
        source.sets.check_count(settings)
    bits = None if extras.bits is None else bits_of(pipeline, source, extras.bits, request, progress)
    found: Evaluation = evaluate(
        pipeline.model.first_stage,
        source.sets,
        settings,
        made,
        device=pipeline.device,
        cache=cache,
        about=about(pipeline, request, source, data, extras),
        progress=progress,
        bits=bits,
        fidelity=extras.fidelity,
    )
    return found.report


def _reference_count(extras: Extras) -> int | None:
    """Training pictures to compare with: a protocol's own number, whatever the number of held-out captions."""
    return extras.preset.num if extras.preset is not None and extras.preset.repeat else None


def read_source(
    pipeline: Pipeline, data: Path, split: str | None, num: int | None, seed: int, rest: int | None = None, fit: int = 0
) -> Source:
    """The data set in the shape and the words of the model."""
    from sfumato.conditioners.label import ClassLabel
    from sfumato.conditioners.none import Unconditional
    from sfumato.data.folder import Record
    from sfumato.evaluation.source import caption_of, read_sets

    model = pipeline.model

    def say(record: Record) -> str:
        if isinstance(model.conditioner, Unconditional):
            return ""
        return record.label or "" if isinstance(model.conditioner, ClassLabel) else caption_of(record)

    shape = (model.first_stage.channels, *model.image_size)
    return read_sets(data, shape, name=split, num=num, say=say, seed=seed, rest=rest, fit=fit)


def generator(pipeline: Pipeline, draft: Draft, eta: float | None = None) -> Generate:
    """The model as the protocol wants it: prompts and consecutive seeds in, bytes of the model's own channels out.

    eta: of DDIM. Raises `InputError` where the model is not sampled by that.
    """
    import dataclasses

    import torch

    from sfumato.generation.engine import run as run_engine
    from sfumato.priors.diffusion import DiffusionSettings
    from sfumato.samplers import DDIM

    if eta is not None:
        known = pipeline.settings(pipeline.request(draft))
        if not isinstance(known, DiffusionSettings) or not isinstance(known.sampler, DDIM):
            raise InputError(f"eta: got {eta:g}, and {pipeline.name} is not sampled by ddim here; leave --eta out.")

    def generate(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        request = pipeline.request(dataclasses.replace(draft, prompts=tuple(prompts), seed=seeds[0]))
        if eta is None:
            return torch.stack([made.pixels for made in pipeline.stream(request)])
        settings: Any = pipeline.settings(request)
        settings = dataclasses.replace(settings, sampler=dataclasses.replace(settings.sampler, eta=eta))
        stream = run_engine(pipeline.model, request, settings, pipeline.device, None, pipeline.tiling)
        return torch.stack([made.pixels for made in stream])

    return generate


def about(pipeline: Pipeline, request: Request, source: Source, data: Path, extras: Extras) -> dict[str, Any]:
    """What the manifest says of the model, the sampling and the data."""
    from sfumato.generation.settings import has_sampler

    stepped, fit = has_sampler(pipeline.model.prior), source.fit
    return {
        "model": {"name": pipeline.name, "weights_sha256_10": pipeline.hash},
        "sampling": {
            "sampler": request.sampler if stepped else None,
            "steps": request.steps if stepped else None,
            "guidance": request.guidance,
            "size": [request.height, request.width],
        },
        "sampler": sampler_settings(pipeline, request, extras.eta),
        "dataset": {"folder": data.name, "split": source.split, "unreadable": source.unreadable},
        "asked": dict(extras.asked or {}),
        **({"lpips": dict(extras.lpips_hashes)} if extras.lpips_hashes else {}),
        **({"fit": {"count": len(fit), "pixels_sha256": fit.fingerprint}} if fit is not None else {}),
    }


def sampler_settings(pipeline: Pipeline, request: Request, eta: float | None) -> dict[str, Any]:
    """Every setting of the sampler as JSON: eta, spacing, and what of guidance a request cannot say."""
    import dataclasses
    from enum import Enum

    from sfumato.priors.diffusion import DiffusionSettings

    settings: Any = pipeline.settings(request)
    if not isinstance(settings, DiffusionSettings):  # of another kind of prior: plain values, such as a temperature
        return dataclasses.asdict(settings)
    sampler: Any = settings.sampler
    found = {f.name: getattr(sampler, f.name) for f in dataclasses.fields(sampler)} | ({} if eta is None else {"eta": eta})
    if settings.spacing is not None:
        found["spacing"] = settings.spacing
    if settings.guidance.interval is not None:
        found["guidance_interval"] = list(settings.guidance.interval)
    if settings.guidance.rescale:
        found["guidance_rescale"] = settings.guidance.rescale
    return {key: value.value if isinstance(value, Enum) else value for key, value in found.items()}
