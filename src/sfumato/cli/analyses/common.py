"""What the analyses share: the flags of model, data, sampling and output, and reading them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.inputs import read_picture
from sfumato.errors import InputError, unknown
from sfumato.generation.limits import LIMITS, guidance_from_text, number_from_text
from sfumato.generation.output import checked_file, checked_path
from sfumato.generation.request import BATCH_SIZE, Draft

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.evaluation.data import EvaluationData
    from sfumato.explain.figure import Figure
    from sfumato.first_stages.base import FirstStage
    from sfumato.generation.pipeline import Pipeline
    from sfumato.generation.request import Request

FORMATS = {".svg": "SVG", ".png": "PNG", ".webp": "WEBP", ".json": "JSON"}
SPLITS = ("test", "validation")


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL and where it runs."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a shipped model, a model directory or a published checkpoint")
    add("--card", metavar="NAME", help="which published model a checkpoint is, where the file leaves that open")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or mps (default: auto)")


def add_data(parser: argparse.ArgumentParser, num: int, required: bool = True) -> None:
    """Held-out pictures; `num` of them unless told otherwise."""
    add = parser.add_argument
    add("--data", required=required, metavar="DIR", help="the data set: a folder of pictures or a tar shard")
    add("--split", metavar="NAME", help="test or validation (default: test where there is one)")
    add("--num", metavar="N", default=str(num), help=f"held-out pictures, at most (default: {num})")


def add_seed(parser: argparse.ArgumentParser, meaning: str = "of the noise") -> None:
    """--seed."""
    parser.add_argument("--seed", metavar="S", default="0", help=f"{meaning} (default: 0)")


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """--batch-size."""
    text = f"pictures at once (default: {BATCH_SIZE})"
    parser.add_argument("--batch-size", metavar="B", default=str(BATCH_SIZE), help=text)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How a picture is drawn."""
    add = parser.add_argument
    add("--steps", metavar="K", help="denoising steps (default: the model's)")
    add("--guidance", metavar="W", help="how strongly the prompt pulls; 1 is off (default: the model's)")
    add("--negative", metavar="TEXT", help="what to stay away from")
    add("--sampler", metavar="NAME", help="default: the model's")
    add("--size", metavar="HxW", help="height x width in pixels (default: the model's)")


def add_out(parser: argparse.ArgumentParser, what: str = "the figure", required: bool = True) -> None:
    """--out and --overwrite."""
    text = f"{what} as .svg, .png or .webp, or its numbers as .json"
    parser.add_argument("--out", metavar="FILE", required=required, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def number(args: argparse.Namespace, name: str) -> Any:
    """A flag's number, for a check to refuse where it is none; None where it was not given."""
    text = getattr(args, name)
    return None if text is None else number_from_text(text)


def out_of(args: argparse.Namespace, formats: Mapping[str, str] = FORMATS) -> Path:
    """The file that --out names."""
    return checked_file("out", args.out, dict(formats), args.overwrite)


def draft_of(args: argparse.Namespace, prompt: str | None, seed: int) -> Draft:
    """One picture as the flags ask for it."""
    from sfumato.generation.limits import size_from_text

    height, width = (None, None) if args.size is None else size_from_text(args.size)
    return Draft(
        prompts=() if prompt is None else (prompt,),
        negative=args.negative,
        seed=seed,
        steps=number(args, "steps"),
        guidance=None if args.guidance is None else guidance_from_text(args.guidance),  # type: ignore[arg-type]
        sampler=args.sampler,
        height=height,
        width=width,
    )


def request_of(pipeline: Pipeline, draft: Draft) -> Request:
    """The draft with the model's defaults, of a model to which a prompt is enough."""
    pipeline.model.conditioner.from_prompt("", pipeline.model.image_size)
    return pipeline.request(draft)


def load_model(args: argparse.Namespace) -> Pipeline:
    """The model on its device."""
    from sfumato.generation.pipeline import load

    return load(str(checked_path("model", args.model)), args.device, card=args.card)


def data_of(args: argparse.Namespace) -> Path:
    """The folder that --data names. Raises `InputError` where there is none, and for a split that is none."""
    if args.split is not None and args.split not in SPLITS:
        raise unknown("split", args.split[:40], SPLITS)
    data = checked_path("data", args.data)
    if not data.exists():
        raise InputError(f"data: no such folder {args.data!r}; give a folder of pictures or a tar shard.")
    return data


def held_out(pipeline: Pipeline, data: Path, split: str | None, num: int, seed: int) -> EvaluationData:
    """At most `num` held-out pictures, chosen by `seed`, in the shape and the words of the model."""
    from sfumato.cli.evaluate import read_source
    from sfumato.evaluation.data import choose

    held = read_source(pipeline, data, split, num, seed).sets.held
    return held.take(choose(len(held), min(num, len(held)), seed))


def encoder_of(pipeline: Pipeline) -> FirstStage:
    """The model's first stage. Raises `InputError` where it is a decoder alone."""
    from sfumato.first_stages.base import FirstStage

    stage = pipeline.model.first_stage
    if not isinstance(stage, FirstStage):
        raise InputError(f"model: {pipeline.name} has no encoder, so no picture has a latent in it.")
    return stage


def picture_of(pipeline: Pipeline, name: str, text: str) -> Tensor:
    """A picture file as (1, C, H, W) in [-1, 1] at the model's size, for its encoder."""
    from sfumato.generation.pixels import from_picture

    return from_picture(read_picture(name, text), encoder_of(pipeline).channels, pipeline.model.image_size)


@dataclass(frozen=True)
class Latents:
    """z (N, C, h, w) in unit scale, on the CPU; spread (C,): the mean variance of q(z | x), None where it has none."""

    z: Tensor
    spread: Tensor | None


def latents_of(pipeline: Pipeline, pixels: Tensor, seed: int, batch_size: int, *, sample: bool) -> Latents:
    """Pictures (N, C, H, W) uint8 -> unit latents on the CPU: the mean of q(z | x), or a sample by the noise of seed + i.

    Raises `InputError` for a model without an encoder.
    """
    import torch

    from sfumato.evaluation.data import batches
    from sfumato.generation.pixels import to_unit
    from sfumato.noise import PictureNoise

    stage, found, spread = encoder_of(pipeline), [], []
    with torch.inference_mode():
        for part in batches(len(pixels), batch_size):
            q = stage.posterior(to_unit(pixels[part].to(pipeline.device)))
            z = q.mean
            if q.log_variance is not None:
                spread.append(q.log_variance.exp().transpose(0, 1).flatten(2).mean(2).cpu())  # (C, B)
            if sample and q.log_variance is not None:
                z = z + torch.exp(0.5 * q.log_variance) * PictureNoise(range(seed + part.start, seed + part.stop))(z)
            found.append(z.float().cpu())
    return Latents(torch.cat(found), torch.cat(spread, 1).mean(1) if spread else None)


def model_facts(pipeline: Pipeline) -> dict[str, str]:
    """Which model numbers are of."""
    return {"name": pipeline.name, "weights_sha256_10": pipeline.hash}


def write(out: Path, figure: Figure, numbers: Mapping[str, Any], pipeline: Pipeline, overwrite: bool) -> None:
    """The figure or the numbers, by the suffix; prints the path."""
    from sfumato.explain.figure import save_figure
    from sfumato.io.files import write_json

    if out.suffix.lower() == ".json":
        write_json(out, {"model": model_facts(pipeline), **numbers})
    else:
        out = save_figure(figure, out, overwrite=overwrite)
    print(out)


def exactly_one(args: argparse.Namespace, names: Sequence[str]) -> str:
    """Which one of some flags was given. Raises `InputError` for none and for several."""
    given = [name for name in names if getattr(args, name) is not None]
    if len(given) != 1:
        flags = " or ".join(f"--{name}" for name in names)
        raise InputError(f"got {'none' if not given else 'all'} of {flags}, expected one of them.")
    return given[0]


def check_seed(value: Any, count: int = 1) -> int:
    """A seed for `count` pictures."""
    return LIMITS.seed(value, count)
