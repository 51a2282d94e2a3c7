"""The flags that the verbs which make pictures share. Numbers arrive as text; the limits read and refuse them."""

from __future__ import annotations

import argparse

from sfumato.generation.limits import AUTO, DTYPE_NAMES, SAMPLER_NAMES
from sfumato.generation.request import BATCH_SIZE


def add_model_flags(parser: argparse.ArgumentParser, default: str) -> None:
    """Which model; `default` says what is taken without --model."""
    add = parser.add_argument
    add(
        "--model",
        metavar="NAME|PATH",
        help=f"a shipped model, a directory, a checkpoint or owner/name on the hub (default: {default})",
    )
    add("--card", metavar="NAME", help="which published model a checkpoint is, where the file leaves that open")
    add(
        "--weights",
        metavar="KIND",
        default="ema",
        help="of a checkpoint: ema (averages where there are any) or raw (default: ema)",
    )
    add(
        "--lora",
        metavar="FILE[:SCALE[:TEXT]]",
        action="append",
        default=[],
        help="add a LoRA to a checkpoint (again for another); TEXT: its scale in text encoders (default: SCALE)",
    )
    add("--vocabulary", metavar="FILE", help="BERT's vocab.txt, for the checkpoints that read words with it")
    add(
        "--verify",
        action="store_true",
        help="hash a checkpoint again and compare with the hash remembered of it (a model directory always is)",
    )


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """How many pictures, and how they are sampled."""
    add = parser.add_argument
    add("--num", metavar="N", default="1", help="pictures of each prompt (default: 1)")
    add("--seed", metavar="S", help="seed of the first picture; picture i has S + i (default: by chance)")
    add("--steps", metavar="K", help="denoising steps (default: the model's)")
    add("--guidance", metavar="W", help="how strongly the prompt pulls; 1 is off; by part: text=3,map=1.5")
    add("--negative", metavar="TEXT", help="what to stay away from")
    add("--sampler", metavar="NAME", help=f"{', '.join(SAMPLER_NAMES)} (default: the model's)")


def add_truncation_flags(parser: argparse.ArgumentParser) -> None:
    """How models that are no diffusion are sampled."""
    add = parser.add_argument
    add("--temperature", metavar="T", help="of a model of codes, a flow or a GAN: below 1 likelier and more alike pictures")
    add("--top-k", metavar="K", help="of a model of codes: draw from the K likeliest")
    add("--top-p", metavar="P", help="of a model of codes: draw from the likeliest that sum to P")


def add_size_flag(parser: argparse.ArgumentParser, default: str = "the model's") -> None:
    """--size."""
    parser.add_argument("--size", metavar="HxW", help=f"height x width in pixels (default: {default})")


def add_background_flag(parser: argparse.ArgumentParser, default: str = "white") -> None:
    """--background."""
    meaning = f"white, transparent, a colour's name or #rrggbb (default: {default})"
    parser.add_argument("--background", metavar="COLOR", help=meaning)


def add_running_flags(parser: argparse.ArgumentParser) -> None:
    """Where and how it runs."""
    add = parser.add_argument
    add("--batch-size", metavar="B", default=str(BATCH_SIZE), help=f"pictures at once on a GPU (default: {BATCH_SIZE})")
    add("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add(
        "--dtype",
        metavar="TYPE",
        default=AUTO,
        help=f"what the networks run in: {', '.join(DTYPE_NAMES)} (default: auto, float32; float16 for checkpoints on CUDA)",
    )


def add_output_flags(parser: argparse.ArgumentParser, name: str = "prompt") -> None:
    """Where pictures go; without --out they are named after `name` and seed."""
    add = parser.add_argument
    add("--out", metavar="FILE|DIR", help=f"a PNG file or a directory (default: here, named after {name} and seed)")
    add("--grid", metavar="FILE", help="also write all pictures on one sheet (png, jpg, webp; jpg is never transparent)")


def add_manner_flags(parser: argparse.ArgumentParser) -> None:
    """--overwrite and --quiet."""
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
