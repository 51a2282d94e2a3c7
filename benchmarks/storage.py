"""What storing a model in fewer bits costs: bytes, error of the weights, and how far its pictures move.

    python benchmarks/storage.py [--model emoji] [--num 2] [--steps K] [--device cpu] [--out FILE.json]

Compared with the model as it was loaded, in fp32. Each storage is written to a temporary folder and read back.

- size: of the model directory;
- weights: root mean square of the error over that of the tensor, for tensors of two or more dimensions (all together, the
  median tensor, the worst one);
- pictures: PSNR of --num pictures of each prompt to those of the model as it was loaded, same seeds, values 0 to 255.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import machine, table, write

import sfumato
from sfumato.io.files import directory_size
from sfumato.io.pretrained import convert_pretrained
from sfumato.io.storage import Storage

PROMPTS = ("a red dragon, 3D style", "an owl, flat style", "a woman astronaut, noto style", "a lighthouse, openmoji style")


def main(argv: list[str] | None = None) -> None:
    """Print a table and, with --out, write it and the error of every tensor as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji", help="a shipped model or a model directory")
    parser.add_argument("--num", type=int, default=2, help="pictures of each of the four prompts")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    where = machine()
    print(where)
    state, wanted = draw(args.model, args)
    found: dict[str, Any] = {}
    for storage in Storage:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / "model"
            convert_pretrained(args.model, directory, storage)
            stored, made = draw(str(directory), args)
            errors = {name: relative(stored[name], tensor) for name, tensor in state.items() if tensor.ndim > 1}
            together = [torch.cat([s[name].flatten() for name in errors]) for s in (stored, state)]
            found[storage.value] = {
                "bytes": directory_size(directory),
                "all": relative(*together),
                "psnr": psnr(made, wanted),
                "tensors": errors,
            }
    rows = [
        (k, f"{v['bytes'] / 1e6:.1f}", *(f"{100 * e:.3f} %" for e in summary(v)), f"{v['psnr']:.1f}") for k, v in found.items()
    ]
    print(table(["storage", "MB", "error of all weights", "median tensor", "worst tensor", "PSNR dB"], rows))
    write(args.out, {"machine": where, "model": args.model, "storages": found})


def draw(model: str, args: argparse.Namespace) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The weights of a model, on the CPU, and its pictures (B, H, W, C)."""
    pipeline = sfumato.load(model, args.device)
    state = {name: tensor.double().cpu() for name, tensor in pipeline.model.state_dict().items()}
    pictures = pipeline.generate(list(PROMPTS), num=args.num, seed=0, steps=args.steps)
    return state, np.stack([np.asarray(picture) for picture in pictures]).astype(np.float64)


def relative(stored: torch.Tensor, tensor: torch.Tensor) -> float:
    """Root mean square of the error over that of the tensor."""
    size = float(tensor.square().mean().sqrt())
    return float((stored - tensor).square().mean().sqrt()) / size if size else 0.0


def psnr(made: np.ndarray, wanted: np.ndarray) -> float:
    """In dB over all pictures; infinite where they are equal."""
    error = float(((made - wanted) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def summary(row: dict[str, Any]) -> tuple[float, float, float]:
    """Error of all weights together, of the median tensor, of the worst."""
    errors = row["tensors"].values()
    return row["all"], median(errors), max(errors)


if __name__ == "__main__":
    main()
