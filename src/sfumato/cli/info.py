"""`sfumato info [MODEL]`: the shipped models, or one model's parts, sizes, defaults and card."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from sfumato.io.pretrained import LoadedModel

HELP = "List the models that ship with sfumato, or describe one."
PACKAGES = ("sfumato", "torch", "numpy", "pillow", "safetensors", "tokenizers")
CARD_LINES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sfumato info`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a shipped model's name or a model directory")
    parser.add_argument("--recipes", action="store_true", help="list what `sfumato train` can train")


def run(args: argparse.Namespace) -> int:
    """Print the description."""
    if args.recipes:
        print("\n".join(describe_recipes()))
        return 0
    print("\n".join(describe_model(args.model) if args.model is not None else describe_machine()))
    return 0


def describe_recipes() -> list[str]:
    """Every recipe with the first sentence of what it says of itself."""
    from sfumato.recipes import RECIPES

    width = max(map(len, RECIPES))
    says = {name: " ".join((make.__doc__ or "").split("\n\n")[0].split()) for name, make in RECIPES.items()}
    return [f"{name:{width}}  {says[name].partition(' Command:')[0]}" for name in RECIPES]


def describe_machine() -> list[str]:
    """Shipped models with their sizes, then device and versions."""
    import torch

    from sfumato.generation.device import find_device
    from sfumato.io.files import directory_size
    from sfumato.io.pretrained import find_model, shipped_models

    lines = ["models:"]
    for name in shipped_models():
        lines.append(f"  {name}  {directory_size(find_model(name)) / 1e6:.1f} MB")
    device = find_device("auto")
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    lines += ["device:", f"  {device} ({named if device.type != 'mps' else platform.processor()})", "versions:"]
    lines += [f"  python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    return lines + [f"  {package} {_version(package)}" for package in PACKAGES]


def describe_model(name: str) -> list[str]:
    """A model's parts with their parameter counts, its defaults and the beginning of its card."""
    from sfumato.io.pretrained import load_pretrained

    return describe(load_pretrained(name))


def describe(loaded: LoadedModel) -> list[str]:
    """The same of a model that is there already; its weights are not looked at."""
    from sfumato.io.pretrained import CARD

    card = loaded.path / CARD
    lines = [f"{loaded.name} ({loaded.hash})", *_parts(loaded), *_defaults(loaded)]
    if card.is_file():
        text = card.read_text("utf-8", errors="replace").splitlines()
        lines += ["card:", *(f"  {line}" for line in text[:CARD_LINES])]
        lines += [f"  ... {len(text) - CARD_LINES} more lines in the model's {CARD}"] if len(text) > CARD_LINES else []
    return lines


def _parts(loaded: LoadedModel) -> list[str]:
    from sfumato.io.files import directory_size

    model = loaded.model
    height, width = model.image_size
    parts: dict[str, nn.Module] = {"first stage": model.first_stage, "prior": model.prior, "conditioner": model.conditioner}
    lines = [f"  picture      {height}x{width}, latent {'x'.join(map(str, model.latent_shape(height, width)))}"]
    for title, part in parts.items():
        count = sum(p.numel() for p in part.parameters())
        lines.append(f"  {title:12} {type(part).__name__}, {count / 1e6:.2f} M parameters")
    return [*lines, f"  on disk      {directory_size(loaded.path) / 1e6:.1f} MB"]


def _defaults(loaded: LoadedModel) -> list[str]:
    d = loaded.defaults
    return [f"  defaults     sampler {d.sampler}, {d.steps} steps, guidance {d.guidance:g}"]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
