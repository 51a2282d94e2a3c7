"""Speed and peak memory of generation.

    python benchmarks/generation_speed.py [--model emoji] [--num 4] [--steps 20] [--sampler NAME] [--batch-size B]
                                          [--device auto] [--prompt TEXT] [--repeats 5] [--out FILE.json]

A fresh process loads the model, makes the pictures once uncounted and then `--repeats` times; the table has the median of
the whole call and its share of a picture. Where these settings are not the model's own, a second process measures those.
Memory: on a CPU the most that the process ever held (ru_maxrss: Python, PyTorch and the weights included), on a GPU the most
that PyTorch's allocator had handed out. GB are 10^9 bytes. The goals hold for 4 pictures of the default model at 20 steps
on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import machine, table, write

GOAL_SECONDS, GOAL_GB = 10.0, 1.5


def main(argv: list[str] | None = None) -> None:
    """Print a table and, with --out, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji", help="a shipped model or a model directory")
    parser.add_argument("--num", type=int, default=4, help="pictures of one call")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sampler", help="default: the model's")
    parser.add_argument("--batch-size", type=int, default=4, help="pictures at once on a GPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prompt", default="a red dragon, 3D style")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the fresh process
    args = parser.parse_args(argv)
    if args.inside:
        print(json.dumps(measure(args)))
        return
    where = machine()
    print(where)
    results = [fresh(args, args.steps, args.sampler)]
    first = results[0]
    if [first["steps"], first["sampler"]] != first["defaults"]:
        results.append(fresh(args, *first["defaults"]))
    header = ["settings", "device", "s a call", "range s", "s a picture", "goal s", "peak GB", "goal GB"]
    print(table(header, [row(found) for found in results]))
    write(args.out, {"machine": where, "results": results})


def fresh(args: argparse.Namespace, steps: int, sampler: str | None) -> dict[str, Any]:
    """The measurement with these settings, in a process of its own."""
    given = {
        "model": args.model, "num": args.num, "steps": steps, "batch-size": args.batch_size, "device": args.device,
        "prompt": args.prompt, "repeats": args.repeats,
    } | ({} if sampler is None else {"sampler": sampler})  # fmt: skip
    command = [sys.executable, __file__, "--inside", *(f"--{name}={value}" for name, value in given.items())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the measured process ended with code {done.returncode}.")
    return json.loads(done.stdout)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Load, warm up, time, and ask for the peak."""
    import torch

    import sfumato

    pipeline = sfumato.load(args.model, args.device)
    prompts = [args.prompt] if pipeline.needs_prompt else []
    times = []
    for _ in range(1 + args.repeats):
        start = time.perf_counter()
        pictures = pipeline.generate(
            prompts, args.num, seed=0, steps=args.steps, sampler=args.sampler, batch_size=args.batch_size
        )
        times.append(time.perf_counter() - start)
    defaults, gpu = pipeline.loaded.defaults, pipeline.device.type == "cuda"
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    width, height = pictures[0].size
    return {
        "model": pipeline.name,
        "hash": pipeline.hash,
        "num": args.num,
        "size": [height, width],
        "steps": args.steps,
        "sampler": args.sampler or defaults.sampler,
        "guidance": defaults.guidance,
        "defaults": [defaults.steps, defaults.sampler],
        "batch_size": args.batch_size if gpu else 1,
        "device": torch.cuda.get_device_name(pipeline.device) if gpu else pipeline.device.type,
        "threads": torch.get_num_threads(),
        "times_s": times[1:],
        "median_s": median(times[1:]),
        "warm_up_s": times[0],
        "peak_gb": (torch.cuda.max_memory_allocated(pipeline.device) if gpu else rss) / 1e9,
    }


def row(found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    goal = found["num"] == 4 and found["steps"] == 20 and found["device"] == "cpu"
    own = " (the model's own)" if [found["steps"], found["sampler"]] == found["defaults"] else ""
    settings = f"{found['model']}, {found['num']} pictures {found['size'][0]}x{found['size'][1]}, {found['steps']} steps"
    settings += f" {found['sampler']}{own}, guidance {found['guidance']:g}, batches of {found['batch_size']}"
    times = found["times_s"]
    return [
        settings,
        found["device"] + (f", {found['threads']} threads" if found["device"] == "cpu" else ""),
        f"{found['median_s']:.2f}",
        f"{min(times):.2f} ... {max(times):.2f}",
        f"{found['median_s'] / found['num']:.3f}",
        f"{GOAL_SECONDS:g}" if goal else "-",
        f"{found['peak_gb']:.2f}",
        f"{GOAL_GB:g}" if goal else "-",
    ]


if __name__ == "__main__":
    main()
