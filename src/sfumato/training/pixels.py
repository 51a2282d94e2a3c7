"""Batches of pixels on the device, as functions of the step: resident as bytes where they fit, else streamed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch import Tensor

from sfumato.data.dataset import Batch, Batches, ImageDataset
from sfumato.data.order import batch_indices
from sfumato.generation.pixels import to_unit

RESIDENT_SHARE = 0.3


def fits(dataset: ImageDataset, device: torch.device, channels: int, size: int) -> bool:
    """Whether all pictures fit in a share of the free memory as bytes."""
    need = len(dataset) * channels * size * size
    if device.type == "cuda":
        return need < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    return need < 2 * 2**30


class PixelSource:
    """Training pictures. `resident`: all of them (N, C, H, W) uint8, or None to stream from `dataset`."""

    def __init__(self, dataset: ImageDataset, resident: Tensor | None, device: torch.device, seed: int, flip: bool = False):
        self.dataset, self.device, self.seed, self.flip = dataset, device, seed, flip
        self.resident = None if resident is None else resident.to(device)
        self._stream: Iterator[Batch] | None = None
        self._next = -1

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, step: int, batch_size: int, rng: torch.Generator) -> Tensor:
        """(B, C, H, W) fp32 in [-1, 1] on the device."""
        if self.resident is not None:
            pixels = self.resident[batch_indices(len(self), batch_size, self.seed, step).to(self.device)]
        else:
            pixels = self._streamed(step, batch_size).to(self.device, non_blocking=True)
        x = to_unit(pixels)
        if self.flip:
            mirrored = torch.rand(len(x), 1, 1, 1, generator=rng, device=self.device) < 0.5
            x = torch.where(mirrored, x.flip(3), x)
        if self.device.type == "cuda":
            x = x.contiguous(memory_format=torch.channels_last)
        return x

    def _streamed(self, step: int, batch_size: int) -> Tensor:
        if self._stream is None or self._next != step:
            workers = min(8, os.cpu_count() or 1)
            self._stream = iter(Batches(self.dataset, batch_size, self.seed, step, workers))
        self._next = step + 1
        return next(self._stream).pixels

    def in_order(self, batch_size: int, flipped: bool = False) -> Iterator[Tensor]:
        """All pictures once, in the data set's order, (B, C, H, W) in [-1, 1] on the device."""
        for start in range(0, len(self), batch_size):
            rows = range(start, min(start + batch_size, len(self)))
            if self.resident is not None:
                pixels = self.resident[rows.start : rows.stop]
            else:
                pixels = torch.stack([self.dataset.pixels(i) for i in rows]).to(self.device)
            x = to_unit(pixels)
            yield x.flip(3) if flipped else x
