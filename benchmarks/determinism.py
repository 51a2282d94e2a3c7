"""Whether a picture depends on its neighbours: one seed in any batch, at any place, with every sampler.

    python benchmarks/determinism.py [--model emoji] [--device auto] [--samplers NAME ...] [--steps K] [--seed 0]
                                     [--out FILE.json]

Eight pictures, each of a prompt and a seed (s ... s + 7) of its own, are first made alone, one call each. Then all eight
are made in one call for the batch sizes 1, 2, 3 and 8, and once more in a call that starts at the fourth, so that the
others stand at other places among other neighbours.

On a CPU pictures and the last latents must be equal bit for bit to those made alone. On a GPU the table has the largest
difference of an 8-bit value between any two of these ways and against the CPU; the goal is 2. A goal that is missed makes
the exit code 1. The digest is of the pictures made alone, to compare runs, releases and machines.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import machine, table, write

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sfumato.generation.engine import Progress
    from sfumato.generation.pipeline import Pipeline

PROMPTS = (
    "a red dragon, 3D style",
    "a blue cat",
    "grinning face with smiling eyes",
    "pizza",
    "flag of France, flat style",
    "a yellow sun behind a grey cloud",
    "car",
    "green apple on a white background",
)
BATCH_SIZES = (1, 2, 3, 8)
SHIFT = 3
GOAL = 2  # of 255, on a GPU


class Pictures:
    """Pictures (N, H, W, C) uint8 and their last latents (N, C, h, w) of one call."""

    def __init__(self, pixels: NDArray[np.uint8], latents: NDArray[np.float32]):
        self.pixels, self.latents = pixels, latents

    def difference(self, other: Pictures) -> int:
        """Largest difference of an 8-bit value."""
        return int(abs(self.pixels.astype(int) - other.pixels.astype(int)).max())

    def equal(self, other: Pictures) -> bool:
        """Whether pictures and latents are equal bit for bit."""
        return self.pixels.tobytes() == other.pixels.tobytes() and self.latents.tobytes() == other.latents.tobytes()

    def __getitem__(self, rows: slice) -> Pictures:
        return Pictures(self.pixels[rows], self.latents[rows])


def make(pipeline: Pipeline, rows: range, seed: int, batch_size: int, **settings: Any) -> Pictures:
    """The pictures of these rows of the prompts in one call."""
    import numpy as np

    last: dict[int, Any] = {}

    def keep(progress: Progress) -> None:
        if progress.step == progress.num_steps:
            for picture, z in zip(progress.pictures, progress.z_0.float().cpu().numpy(), strict=True):
                last[picture.index] = z

    prompts = [PROMPTS[i] for i in rows] if pipeline.needs_prompt else []
    num = 1 if prompts else len(rows)
    made = pipeline.generate(prompts, num, seed=seed + rows.start, batch_size=batch_size, on_step=keep, **settings)
    return Pictures(np.stack([np.asarray(image) for image in made]), np.stack([last[i] for i in range(len(rows))]))


def alone(pipeline: Pipeline, seed: int, **settings: Any) -> Pictures:
    """Every picture in a call of its own."""
    import numpy as np

    each = [make(pipeline, range(i, i + 1), seed, 1, **settings) for i in range(len(PROMPTS))]
    return Pictures(np.concatenate([p.pixels for p in each]), np.concatenate([p.latents for p in each]))


def ways(pipeline: Pipeline, seed: int, **settings: Any) -> dict[str, Pictures]:
    """The eight pictures in one call a batch size, and the last five in one call."""
    count = len(PROMPTS)
    found = {f"batches of {size}": make(pipeline, range(count), seed, size, **settings) for size in BATCH_SIZES}
    return found | {f"from the {SHIFT + 1}th": make(pipeline, range(SHIFT, count), seed, max(BATCH_SIZES), **settings)}


def rows_of(name: str) -> slice:
    """Which of the eight pictures a way holds."""
    return slice(SHIFT, None) if name.startswith("from") else slice(None)


def check_cpu(pipeline: Pipeline, sampler: str, seed: int, **settings: Any) -> dict[str, Any]:
    """Every way against the pictures made alone."""
    single = alone(pipeline, seed, sampler=sampler, **settings)
    found = ways(pipeline, seed, sampler=sampler, **settings)
    equal = {name: pictures.equal(single[rows_of(name)]) for name, pictures in found.items()}
    largest = max(pictures.difference(single[rows_of(name)]) for name, pictures in found.items())
    return {"equal": equal, "largest": largest, "good": all(equal.values()), "digest": digest(single)}


def check_gpu(pipeline: Pipeline, cpu: Pipeline, sampler: str, seed: int, **settings: Any) -> dict[str, Any]:
    """Every two ways, and every way against the CPU."""
    single = alone(pipeline, seed, sampler=sampler, **settings)
    on_cpu = alone(cpu, seed, sampler=sampler, **settings)
    found = {"alone": single, **ways(pipeline, seed, sampler=sampler, **settings)}
    whole = {name: pictures for name, pictures in found.items() if rows_of(name) == slice(None)}
    part = next(pictures for name, pictures in found.items() if name not in whole)
    others = [*whole.values()]
    among = max(a.difference(b) for i, a in enumerate(others) for b in others[:i])
    among = max(among, *(part.difference(a[slice(SHIFT, None)]) for a in others))
    against = max(pictures.difference(on_cpu[rows_of(name)]) for name, pictures in found.items())
    equal = {name: pictures.equal(single[rows_of(name)]) for name, pictures in found.items()}
    good = max(among, against) <= GOAL
    return {"equal": equal, "among": among, "against_cpu": against, "good": good, "digest": digest(single)}


def digest(pictures: Pictures) -> str:
    """Ten hex digits that stand for the pictures."""
    return hashlib.sha256(pictures.pixels.tobytes()).hexdigest()[:10]


def main(argv: list[str] | None = None) -> int:
    """Print a table, write it with --out, and return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji", help="a shipped model or a model directory")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--samplers", nargs="+", help="default: all")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    import torch

    import sfumato
    from sfumato.samplers import SAMPLERS

    where = machine()
    pipeline = sfumato.load(args.model, args.device)
    gpu = pipeline.device.type != "cpu"
    name = torch.cuda.get_device_name(pipeline.device) if pipeline.device.type == "cuda" else pipeline.device.type
    steps = args.steps or pipeline.loaded.defaults.steps
    print(f"{where}\n{pipeline.name} {pipeline.hash} on {name}, {torch.get_num_threads()} threads, {steps} steps")
    columns = [*(f"batches of {size}" for size in BATCH_SIZES), f"from the {SHIFT + 1}th", "largest difference"]
    if gpu:
        columns = ["among batches, of 255", "against the CPU, of 255", f"within {GOAL}", "bit-equal to alone"]
    print(table(["sampler", *columns, "digest"], []))
    cpu = sfumato.load(args.model, "cpu") if gpu else pipeline
    results: dict[str, Any] = {}
    for sampler in args.samplers or SAMPLERS:
        settings = {"steps": args.steps}
        if gpu:
            found = check_gpu(pipeline, cpu, sampler, args.seed, **settings)
            same = ", ".join(way for way, equal in found["equal"].items() if equal and way != "alone") or "none"
            row = [found["among"], found["against_cpu"], "yes" if found["good"] else "NO", same]
        else:
            found = check_cpu(pipeline, sampler, args.seed, **settings)
            row = [*("equal" if equal else "DIFFERS" for equal in found["equal"].values()), found["largest"]]
        print(f"| {' | '.join(map(str, [sampler, *row, found['digest']]))} |", flush=True)
        results[sampler] = found
    write(args.out, {"machine": where, "device": name, "model": pipeline.hash, "steps": steps, "samplers": results})
    return 0 if all(found["good"] for found in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
