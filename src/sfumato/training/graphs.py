"""CUDA graphs: record what a step launches once, then launch it as one piece.

A narrow network's kernels are done sooner than the next can be launched: a U-Net of 96 channels computes for 33 ms a step and
takes 74 ms to launch (docs/lab-log.md). A replayed graph has no launches to wait for. Same kernels, same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sfumato.training.tasks.base import Batch

WARM_UP = 3  # steps run as they are before recording: compilation and the choice of kernels must not be recorded

Values = dict[str, Tensor]


class StepGraph:
    """Calls `compute(batch)` as it is at first, then records it and replays the record.

    `rng` is the generator that `compute` draws from, None for none; the caller seeds it before every call. What `compute`
    leaves in gradients and returns lies in the graph's memory and is overwritten by the next call. `warn` gets one line
    when recording fails; from then on everything runs as it is.
    """

    def __init__(self, device: torch.device, rng: torch.Generator | None, warn: Callable[[str], None]):
        self.rng, self.warn = rng, warn
        self.stream = torch.cuda.Stream(device)
        self.works = True
        self._forget(None)

    def __call__(self, key: Any, batch: Batch, compute: Callable[[Batch], Values]) -> Values:
        """`key`: equal for steps that do the same with their tensors; None for a step that is like no other."""
        if key is None or not self.works:
            self._forget(None)
            return self._aside(lambda: compute(batch))
        shapes = (key, {name: (tensor.shape, tensor.dtype) for name, tensor in batch.items()})
        if shapes != self.key:
            self._forget(shapes)
        if self.graph is None and self.seen < WARM_UP:
            self.seen += 1
            return self._aside(lambda: compute(batch))
        if self.graph is None:
            try:
                self._record(batch, compute)
            except RuntimeError as error:
                self.works = False
                self._forget(None)
                self.warn(f"no CUDA graph could be recorded ({str(error).splitlines()[0][:200]}); training goes on without.")
                return self._aside(lambda: compute(batch))
        for name, tensor in batch.items():
            self.batch[name].copy_(tensor)
        assert self.graph is not None
        self.graph.replay()
        return dict(self.values)

    def _forget(self, key: Any) -> None:
        self.key, self.seen = key, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: Mapping[str, Tensor] = {}
        self.values: Values = {}

    def _record(self, batch: Batch, compute: Callable[[Batch], Values]) -> None:
        self.batch = {name: tensor.clone() for name, tensor in batch.items()}
        graph = torch.cuda.CUDAGraph()
        if self.rng is not None:
            graph.register_generator_state(self.rng)
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self.values = compute(self.batch)
        self.graph = graph

    def _aside(self, work: Callable[[], Values]) -> Values:
        """On the stream that will record: gradients remember the stream they were first made on."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            values = work()
        torch.cuda.current_stream().wait_stream(self.stream)
        return values
