"""Samples of a trained family from fixed seeds, and how long one takes.

Sample i comes from seed + i in every family. The first batch warms the machine up: its pictures are kept and its time is not
counted, unless there is no other. A family that is too slow stops after the batch in which its time is up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.evaluation.data import batches
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.pixels import to_bytes
from sfumato.generation.request import Draft
from sfumato.noise import PictureNoise
from sfumato.priors.diffusion import DiffusionSettings

Now = Callable[[], float]


@dataclass(frozen=True)
class Drawn:
    """pixels: (N, C, H, W) uint8 on the CPU. seconds_per_sample: at `batch_size` at once. sampler: in words, or empty."""

    pixels: Tensor
    seconds_per_sample: float
    batch_size: int
    sampler: str


@torch.inference_mode()
def draw(
    pipeline: Pipeline,
    count: int,
    seed: int,
    batch_size: int,
    seconds: float,
    on_batch: Callable[[int, int], None] | None = None,
    now: Now = time.perf_counter,
) -> Drawn:
    """`count` pictures of an unconditional model, fewer when `seconds` are over. Raises `InputError`: not all finite."""
    model = pipeline.model
    request = pipeline.request(Draft(prompts=("",), num=1, seed=seed))
    settings = pipeline.settings(request)
    found: list[Tensor] = []
    took: list[tuple[float, int]] = []
    begin = now()
    for part in batches(count, batch_size):
        start = now()
        seeds = range(seed + part.start, seed + part.stop)
        prepared = model.conditioner.prepare([""] * len(seeds)).to(pipeline.device)
        x = model.sample(prepared, settings, PictureNoise(seeds))
        pixels, finite = to_bytes(x).cpu(), bool(torch.isfinite(x).all())  # both wait for the device
        took.append((now() - start, len(seeds)))
        if not finite:
            raise InputError(f"samples {part.start} to {part.stop - 1} are not finite; the model has diverged.")
        found.append(pixels)
        if on_batch is not None:
            on_batch(part.stop, count)
        if now() - begin >= seconds:
            break
    counted = took[1:] or took
    rate = sum(spent for spent, _ in counted) / sum(num for _, num in counted)
    steps = isinstance(settings, DiffusionSettings)
    return Drawn(torch.cat(found), rate, batch_size, f"{request.sampler}, {request.steps} steps" if steps else "")
