"""The one training loop, for every stage.

    for each step: batch(step) -> for each optimizer: loss, backward -> if all is finite: clip, step, average

A loss or gradient that is not finite never reaches the weights or the average: that step's update is dropped for
all optimizers and its batch is written down.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from sfumato.errors import InputError, MachineError
from sfumato.io.files import write_json
from sfumato.training.checkpoint import load_checkpoint, save_checkpoint
from sfumato.training.config import OptimConfig
from sfumato.training.graphs import StepGraph
from sfumato.training.progress import Reporter
from sfumato.training.signals import StopFlag
from sfumato.training.state import TrainState, step_seed
from sfumato.training.tasks.base import Batch, Task

T = TypeVar("T")
CLOCK = "clock.json"
"""In a stage's folder: the seconds its steps took and how many they were, by the clock of its budget, and that budget.

With a budget of operations these too: how many were done, by kind of step and in all, and that budget."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended. `seconds` and `images` count this call only."""

    finished: bool
    step: int
    seconds: float
    images: int


def learning_rate_factor(config: OptimConfig, step: int, share: float = 0.0) -> float:
    """Multiplier of the typed learning rate at `step`: linear warm-up, then constant or a cosine at the end.

    `share`: of the budget that is spent, in [0, 1]; the cosine follows steps or the budget, whichever is further on.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return 1.0
    begin = max(config.warmup_steps, round(config.steps * (1 - config.decay_fraction)))
    in_budget = (share - (1 - config.decay_fraction)) / config.decay_fraction
    progress = min(1.0, max(0.0, (step - begin) / max(1, config.steps - begin), in_budget))
    floor = config.final_learning_rate / config.learning_rate
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def autocast(config: OptimConfig, device: torch.device) -> AbstractContextManager[object]:
    """bf16 arithmetic where it is asked for, or where "auto" finds a GPU that has it; else fp32."""
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if config.precision == "bf16" or (config.precision == "auto" and supported):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


class Trainer:
    """Runs one task in one directory: `checkpoints/`, `log.jsonl`, `skipped.jsonl`; with a budget, `clock.json`."""

    def __init__(self, task: Task, config: OptimConfig, directory: Path, device: torch.device, seed: int, reporter: Reporter):
        self.task, self.config, self.directory, self.device, self.seed = task, config, directory, device, seed
        self.reporter = reporter
        self.state = TrainState(task, config, device)
        if config.compile:
            task.compile()
        self.bad_steps = 0
        self.rng = torch.Generator(device)
        graphed = config.cuda_graphs and device.type == "cuda"
        self.graph = StepGraph(device, self.rng, reporter.warn) if graphed else None
        self.update_graph = StepGraph(device, None, reporter.warn) if graphed else None
        self.rate = torch.zeros((), device=device)  # of the average, where the update is recorded
        if graphed:
            self.state.make_recordable(device)

    def resume(self) -> int:
        """Go on from the newest whole checkpoint, if any; returns the step."""
        checkpoint, warnings = load_checkpoint(self.directory / "checkpoints")
        for warning in warnings:
            self.reporter.warn(warning)
        if checkpoint is not None:
            self.state.load(checkpoint)
        return self.state.step

    def save(self) -> None:
        """Write a checkpoint of the present step."""
        save_checkpoint(self.directory / "checkpoints", self.state.step, self.state.tensors(), self.state.values())

    def run(
        self,
        stop: StopFlag,
        on_sample: Callable[[int], None] | None = None,
        measure: Callable[[int], Mapping[str, float]] | None = None,
    ) -> Outcome:
        """Train until the configured steps are done, a budget is spent or `stop` is set; the state is always saved.

        `measure` is called every `held_out_every` steps and after the last; what it returns is logged with that step.
        """
        config, begin, start = self.config, self.state.step, time.monotonic()
        saved = begin if begin else -1
        while not self.done and not stop:
            with self.state.clock.step(self._active(self.state.step), self._work(self.state.step)):
                values = self._guarded(partial(self._step, self.state.step))
            self.state.step += 1
            step = self.state.step
            measured: Mapping[str, float] = {}
            if measure is not None and (step % config.held_out_every == 0 or self.done):
                measured = self._guarded(partial(measure, step))
            if values is not None:
                total = self.state.clock.expected_steps(step, config.steps)
                log = step % config.log_every == 0 or bool(measured)
                self.reporter.step(self.task.name, step, total, config.batch_size, {**values, **measured}, log=log)
            if step % config.checkpoint_every == 0:
                self.save()
                saved = step
            if on_sample is not None and (step % config.sample_every == 0 or self.done):
                on_sample(step)
        if saved != self.state.step:
            self.save()
        if config.seconds > 0 or config.flops > 0:
            budgets = {"budget": config.seconds} | ({"flops_budget": config.flops} if config.flops > 0 else {})
            write_json(self.directory / CLOCK, self.state.clock.state_dict() | budgets)
        images, seconds = (self.state.step - begin) * config.batch_size, time.monotonic() - start
        return Outcome(self.done, self.state.step, seconds, images)

    @property
    def done(self) -> bool:
        """Whether all steps are done or a budget is spent."""
        return self.state.step >= self.config.steps or self.state.clock.over

    def _active(self, step: int) -> tuple[str, ...]:
        return tuple(name for name in self.state.optimizers if self.task.active(name, step))

    def _work(self, step: int) -> str:
        """Equal for steps that do the same operations: their optimizers, and what the task says of them."""
        return " ".join(filter(None, (*self._active(step), self.task.work(step))))

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except torch.OutOfMemoryError:
            size = self.config.batch_size // self.config.accumulate
            raise MachineError(
                f"out of GPU memory with {size} pictures at a time; try --set {self.task.section}.train.accumulate="
                f"{2 * self.config.accumulate} (same result, half the memory) or train.checkpointing=true."
            ) from None

    def _step(self, step: int) -> Mapping[str, float] | None:
        config, task, state = self.config, self.task, self.state
        seed = step_seed(self.seed, task.name, step)
        self.rng.manual_seed(seed)
        torch.manual_seed(seed)  # dropout inside networks draws from the global generator
        batch = task.batch(step, config, self.rng)
        names = list(self._active(step))
        if self.graph is None:
            values = self._gradients(names, batch, step)
        else:
            values = self.graph(task.phase(step), batch, lambda inputs: self._gradients(names, inputs, step))
        numbers = dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))  # the step's one wait
        if not all(math.isfinite(v) for v in numbers.values()):
            self._skip(step, numbers)
            return None
        self.bad_steps = 0
        factor = learning_rate_factor(config, step, state.clock.share)
        for name in names:
            state.set_learning_rate(name, task.learning_rate(name, config) * factor)
        self._update(names)
        task.after_step(step, numbers)
        return numbers

    def _update(self, names: list[str]) -> None:
        """Step the optimizers `names`, then the average."""
        state = self.state
        rate: float | Tensor = state.ema.next_rate() if state.ema is not None else 0.0

        def update(_: Batch) -> dict[str, Tensor]:
            for name in names:
                state.optimizers[name].step()
            if state.ema is not None:
                state.ema.update(rate)
            return {}

        if self.graph is None or self.update_graph is None:
            update({})
            return
        rate = self.rate.fill_(rate)
        # gradients lie where the graph that makes them was recorded: another record of it, another record of the update
        recorded = self.graph.graph
        self.update_graph(None if recorded is None else (*names, id(recorded)), {}, update)

    def _gradients(self, names: list[str], batch: Batch, step: int) -> dict[str, Tensor]:
        """Every optimizer's gradients, clipped, and what there is to report."""
        for name in names:
            self.state.optimizers[name].zero_grad(set_to_none=True)
        values: dict[str, Tensor] = {}
        for part, share in _split(batch, self.config.accumulate):
            for name in names:
                with autocast(self.config, self.device):
                    loss = self.task.loss(name, part, step, self.rng)
                (loss.total * share).backward()
                for key, value in {**loss.parts, f"{name}/total": loss.total.detach()}.items():
                    values[key] = values.get(key, torch.zeros((), device=self.device)) + value.float() * share
        for name in names:
            values[f"{name}/grad_norm"] = self._clip(name)
        return values

    def _clip(self, name: str) -> Tensor:
        parameters = [p for group in self.state.optimizers[name].param_groups for p in group["params"]]
        limit = self.config.grad_clip or math.inf
        return torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=self.device.type == "cuda").detach()

    def _skip(self, step: int, numbers: Mapping[str, float]) -> None:
        self.bad_steps += 1
        self.state.clock.operations.leave_out()
        bad = {k: str(v) for k, v in numbers.items() if not math.isfinite(v)}
        line = {"step": step, "not_finite": bad, "seed": step_seed(self.seed, self.task.name, step)}
        with open(self.directory / "skipped.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.reporter.warn(f"step {step}: {', '.join(bad)} not finite; the update is dropped.")
        if self.bad_steps >= self.config.max_bad_steps:
            self.save()
            raise InputError(
                f"{self.task.name}: {self.bad_steps} steps in a row were not finite, last at step {step}. "
                f"Lower {self.task.section}.train.learning_rate, set train.grad_clip=1, or use train.precision=fp32."
            )


def _split(batch: Batch, parts: int) -> list[tuple[Batch, float]]:
    """The batch in at most `parts` parts, each with its share of the pictures."""
    if parts == 1:
        return [(batch, 1.0)]
    names, pieces = list(batch), zip(*(tensor.tensor_split(parts) for tensor in batch.values()), strict=True)
    count = len(next(iter(batch.values())))
    return [(dict(zip(names, piece, strict=True)), len(piece[0]) / count) for piece in pieces]
