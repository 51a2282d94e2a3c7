"""Training speed of both stages of a recipe, and its share of the device's measured matrix rate.

    python benchmarks/training_speed.py [--recipe emoji] [--seconds 8] [--profile] [--out FILE.json]

The pictures are noise that lies on the device, so that nothing but the training step is timed. Operations are counted
by PyTorch's counter over one eager step (forward and backward of every loss of that step) and divided by the time of
a compiled one; the ceiling is a bf16 product of 8192 x 8192 matrices of random numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sfumato.build import build_conditioner, build_first_stage, build_prior
from sfumato.conditioners.text import TextConfig, TextEncoder
from sfumato.recipes import RECIPES
from sfumato.training.conditions import Stored
from sfumato.training.config import OptimConfig, RunConfig
from sfumato.training.latents import LatentSource, Moments
from sfumato.training.loop import Trainer
from sfumato.training.pixels import PixelSource
from sfumato.training.prepare import with_channels
from sfumato.training.progress import Reporter
from sfumato.training.tasks.autoencoder import AutoencoderTask
from sfumato.training.tasks.base import Task
from sfumato.training.tasks.diffusion import DiffusionTask

PICTURES = 2048


class Sized:
    """A data set of which only the length is asked."""

    def __len__(self) -> int:
        return PICTURES


def matrix_rate(device: torch.device) -> float:
    """Operations a second of a large bf16 product (fp32 and smaller on a CPU), median of 10."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(13):
        start = time.perf_counter()
        a @ b
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / sorted(times[3:])[5]


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def first_stage_task(config: RunConfig, device: torch.device, gan: bool) -> Task:
    """Stage 1 on random pictures, with the GAN term on from the start or off."""
    size, part = config.data.size, config.first_stage
    pixels = torch.randint(0, 256, (PICTURES, config.data.channels, size, size), dtype=torch.uint8)
    source = PixelSource(Sized(), pixels, device, 0)  # type: ignore[arg-type]
    first = build_first_stage(with_channels(part.model, config.data.channels)).to(device)
    if device.type == "cuda":
        first = first.to(memory_format=torch.channels_last)
    loss = dataclasses.replace(part.loss, gan_start=0 if gan else "never")
    return AutoencoderTask(first, loss, source, device)  # type: ignore[arg-type]


def prior_task(config: RunConfig, device: torch.device) -> Task:
    """Stage 2 on random latents and captions."""
    first = build_first_stage(config.first_stage.model)
    shape = first.latent.shape(config.data.size, config.data.size)  # type: ignore[union-attr]
    moments = Moments(torch.randn(PICTURES, *shape).half(), torch.full((PICTURES, *shape), -6.0).half())
    text = config.prior.conditioner
    assert isinstance(text, TextConfig), "this benchmark times recipes with captions"
    tokenizer = TextEncoder.learn_tokenizer(["a red dragon, 3D style"], text.vocabulary).to_str()
    conditioner = build_conditioner(text, tokenizer)
    network = dataclasses.replace(config.prior.model.network, context_dim=text.dim, vector_dim=text.vector_dim)
    prior = build_prior(dataclasses.replace(config.prior.model, network=network), first).to(device)
    prepared = conditioner.prepare(["a red dragon, 3D style"] * PICTURES).unsqueeze(1)
    ones = torch.ones(PICTURES, dtype=torch.int64)
    scale = (torch.zeros(shape[0]), torch.ones(shape[0]))
    source = LatentSource(moments, None, scale, Stored(prepared, ones, device), device, 0)
    return DiffusionTask(prior, conditioner.to(device), source, config.prior.dropout)


def print_profile(trainer: Trainer, first_step: int, device: torch.device) -> None:
    """The operations that three steps spend most time in."""
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CPU, activity.CUDA] if device.type == "cuda" else [activity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        for step in range(first_step, first_step + 3):
            trainer._step(step)
        synchronize(device)
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=70), file=sys.stderr)


def measure(task: Task, config: OptimConfig, device: torch.device, seconds: float, profile: bool) -> dict[str, Any]:
    """Images a second after warm-up, operations an image and the first step's time."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        eager, reporter = dataclasses.replace(config, compile=False), Reporter(directory, "bench", quiet=True)
        trainer = Trainer(task, eager, directory, device, 0, reporter)
        active = [name for name in trainer.state.optimizers if task.active(name, 0)]
        batch = task.batch(0, config, trainer.rng.manual_seed(0))
        with FlopCounterMode(display=False) as counter:  # of the losses; what Muon computes is no work on pictures
            trainer._gradients(active, batch, 0)
        trainer._step(0)
        flops = counter.get_total_flops() / config.batch_size
        if config.compile:
            task.compile()
        start = time.perf_counter()
        for step in range(1, 6):
            trainer._step(step)
        synchronize(device)
        warm = time.perf_counter() - start
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            trainer._step(6 + count)
            count += 1
        synchronize(device)
        rate = count * config.batch_size / (time.perf_counter() - start)
        if profile:
            print_profile(trainer, 6 + count, device)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    return {"images_per_second": rate, "gflop_per_image": flops / 1e9, "warm_up_seconds": warm, "peak_gib": peak}


def main() -> None:
    """Print a table and, with --out, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="emoji", choices=list(RECIPES))
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes, on standard error")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    config = RECIPES[args.recipe]()
    rate = matrix_rate(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}: {rate / 1e12:.1f} TFLOP/s on large matrices; torch {torch.__version__}")
    print("| stage | images/s | GFLOP/image | share of matrix rate | peak GiB | warm-up s |\n|---|---|---|---|---|---|")
    table: dict[str, Any] = {"device": name, "matrix_tflops": rate / 1e12}
    first, prior = config.first_stage.train, config.prior.train
    if args.eager:
        first, prior = dataclasses.replace(first, compile=False), dataclasses.replace(prior, compile=False)
    stages = {
        "first stage": (lambda: first_stage_task(config, device, gan=False), first),
        "first stage with GAN": (lambda: first_stage_task(config, device, gan=True), first),
        "prior": (lambda: prior_task(config, device), prior),
    }
    for stage, (make, optim) in stages.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with contextlib.redirect_stdout(sys.stderr):
            found = measure(make(), optim, device, args.seconds, args.profile)
        share = found["images_per_second"] * found["gflop_per_image"] * 1e9 / rate
        table[stage] = {**found, "share": share}
        print(
            f"| {stage} | {found['images_per_second']:.0f} | {found['gflop_per_image']:.2f} | {share:.1%} "
            f"| {found['peak_gib']:.1f} | {found['warm_up_seconds']:.0f} |",
            flush=True,
        )
    if args.out:
        args.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
