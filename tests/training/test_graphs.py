"""Steps recorded as CUDA graphs against the same steps launched one kernel at a time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.training.config import OptimConfig
from sfumato.training.graphs import WARM_UP, StepGraph
from sfumato.training.loop import Trainer
from sfumato.training.progress import Reporter
from sfumato.training.tasks.base import Task
from tiny_runs import autoencoder_task, diffusion_task, small_optim

STEPS = 2 * WARM_UP + 4  # gradients are recorded after one warm-up, updates after another


def graphed(config: OptimConfig) -> OptimConfig:
    return dataclasses.replace(config, cuda_graphs=True)


def weights_after(
    task: Task, config: OptimConfig, folder: Path, device: str, count: int = STEPS
) -> tuple[dict[str, torch.Tensor], Trainer]:
    trainer = Trainer(task, config, folder, torch.device(device), 0, Reporter(folder, "test", quiet=True))
    for step in range(count):
        assert trainer._step(step) is not None
    return {name: value.cpu().clone() for name, value in trainer.state.tensors().items()}, trainer


def test_a_cpu_has_no_graphs(tmp_path: Path) -> None:
    plain, _ = weights_after(diffusion_task(0), small_optim(), tmp_path / "a", "cpu")
    asked, trainer = weights_after(diffusion_task(0), graphed(small_optim()), tmp_path / "b", "cpu")
    assert trainer.graph is None
    assert plain.keys() == asked.keys()
    assert all(torch.equal(plain[name], asked[name]) for name in plain)


def test_phases_of_the_gan_term() -> None:
    """Before the start and after the ramp all steps are alike; on the ramp each has its own weight."""
    task = autoencoder_task(0, gan_start=2)
    assert task.start.config.ramp > 1
    end = 2 + task.start.config.ramp
    assert [task.phase(step) for step in (0, 1)] == [0.0, 0.0]
    assert [task.phase(step) for step in (2, 3, end - 2)] == [None, None, None]
    assert [task.phase(step) for step in (end, end + 5)] == [1.0, 1.0]


class Played(StepGraph):
    """Its bookkeeping without CUDA: "recording" keeps the function, and may fail."""

    def __init__(self, fails: bool = False):
        self.rng, self.warnings, self.log, self.fails = torch.Generator(), [], [], fails
        self.warn = self.warnings.append
        self.works = True
        self._forget(None)

    def _aside(self, work):  # type: ignore[no-untyped-def]
        self.log.append("plain")
        return work()

    def _record(self, batch, compute):  # type: ignore[no-untyped-def]
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.batch = {name: tensor.clone() for name, tensor in batch.items()}
        self.values = {"sum": torch.zeros(())}
        played = self

        class Graph:
            def replay(self) -> None:
                played.log.append("replay")
                played.values["sum"].copy_(compute(played.batch)["sum"])

        self.graph = Graph()  # type: ignore[assignment]


def total(batch):  # type: ignore[no-untyped-def]
    return {"sum": batch["x"].sum()}


def test_records_after_the_warm_up_and_sees_each_batch() -> None:
    graph = Played()
    sums = [float(graph("", {"x": torch.full((2,), float(i))}, total)["sum"]) for i in range(WARM_UP + 3)]
    assert sums == [2.0 * i for i in range(WARM_UP + 3)]
    assert graph.log == ["plain"] * WARM_UP + ["replay"] * 3


def test_another_phase_or_shape_is_recorded_anew() -> None:
    graph = Played()
    for key, count in (("a", WARM_UP + 1), ("b", WARM_UP + 1)):
        for _ in range(count):
            graph(key, {"x": torch.ones(2)}, total)
    assert float(graph("b", {"x": torch.ones(5)}, total)["sum"]) == 5
    once = ["plain"] * WARM_UP + ["replay"]
    assert graph.log == [*once, *once, "plain"]


def test_a_step_like_no_other_runs_as_it_is() -> None:
    graph = Played()
    assert [float(graph(None, {"x": torch.ones(i)}, total)["sum"]) for i in (1, 2, 3)] == [1, 2, 3]
    assert graph.log == ["plain"] * 3  # on the recording stream too: gradients remember theirs


def test_goes_on_without_when_recording_fails() -> None:
    graph = Played(fails=True)
    sums = [float(graph("", {"x": torch.full((2,), float(i))}, total)["sum"]) for i in range(WARM_UP + 3)]
    assert sums == [2.0 * i for i in range(WARM_UP + 3)]
    assert len(graph.warnings) == 1
    assert "operation not permitted" in graph.warnings[0]
    assert not graph.works


class Kept(Played):
    """Replays by calling what it was given first, as a CUDA graph does what it recorded."""

    def _record(self, batch, compute):  # type: ignore[no-untyped-def]
        self.batch = {name: tensor.clone() for name, tensor in batch.items()}
        kept = self

        class Graph:
            def replay(self) -> None:
                kept.log.append("replay")
                kept.values = compute(kept.batch)

        self.graph = Graph()  # type: ignore[assignment]


def test_recorded_updates_see_rates_change(tmp_path: Path) -> None:
    """The average's rate differs from step to step; it and the gradients must reach what was recorded before."""
    config = small_optim(ema_decay=0.999)
    plain, _ = weights_after(diffusion_task(0), config, tmp_path / "a", "cpu")
    trainer = Trainer(diffusion_task(0), config, tmp_path, torch.device("cpu"), 0, Reporter(tmp_path, "test", quiet=True))
    update = Kept()
    trainer.graph, trainer.update_graph = Kept(), update
    trainer.graph.rng = trainer.rng
    for step in range(STEPS):
        assert trainer._step(step) is not None
    # plain while the gradients are not recorded yet, then a warm-up of its own
    assert update.log == ["plain"] * 2 * WARM_UP + ["replay"] * (STEPS - 2 * WARM_UP)
    for name, value in trainer.state.tensors().items():
        torch.testing.assert_close(value, plain[name], rtol=1e-5, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("options", [None, {"gan_start": "never"}, {"gan_start": 0, "gan_weight": 0.0}])
def test_the_same_training_on_a_gpu(options: dict[str, Any] | None, optimizer: str, tmp_path: Path) -> None:
    def make() -> Task:
        device = torch.device("cuda")
        return diffusion_task(device=device) if options is None else autoencoder_task(device=device, **options)

    config = dataclasses.replace(small_optim(), precision="fp32", optimizer=optimizer)  # type: ignore[arg-type]
    plain, _ = weights_after(make(), config, tmp_path / "a", "cuda")
    fast, trainer = weights_after(make(), graphed(config), tmp_path / "b", "cuda")
    assert trainer.graph is not None
    assert trainer.graph.works
    assert trainer.graph.graph is not None
    assert trainer.update_graph is not None
    assert trainer.update_graph.works
    assert trainer.update_graph.graph is not None
    if optimizer == "adamw":
        for name, value in plain.items():
            torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
        return
    # Muon rounds directions to bf16 and AdamW's share of the parameters makes the noise of a zero gradient as large as a step,
    # so only matrices are compared, as a whole: a few percent of the way, as in test_muon
    begin, _ = weights_after(make(), config, tmp_path / "c", "cuda", 0)
    matrices = [name for name, value in plain.items() if name.startswith("module.") and value.ndim > 1]
    apart = sum(float((fast[name] - plain[name]).square().sum()) for name in matrices)
    assert apart < 0.05**2 * sum(float((plain[name] - begin[name]).square().sum()) for name in matrices)
