"""Budgets of operations: what is counted against what theory says, where a stage ends, that a resumed one goes on."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_runs import go, times
from test_clock import Watch
from test_gan import pictures_task
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from sfumato.cli.train import read_config
from sfumato.errors import InputError
from sfumato.losses.adversarial import gradient_penalty
from sfumato.priors.base import Loss
from sfumato.recipes import RECIPES
from sfumato.training import operations
from sfumato.training.clock import WARM_UP, TrainingClock
from sfumato.training.config import OptimConfig
from sfumato.training.graphs import WARM_UP as UNRECORDED
from sfumato.training.graphs import StepGraph
from sfumato.training.loop import Trainer
from sfumato.training.operations import OperationCounter
from sfumato.training.run import prepare_module
from sfumato.training.signals import StopFlag
from sfumato.training.stages import Stage, key
from sfumato.training.tasks.base import Batch, Task
from tiny_runs import autoencoder_task, differences, diffusion_task, small_config, small_optim, trainer, write_folder

B, IN, HIDDEN, OUT = 4, 6, 10, 3
ENDLESS = 1e18


def cost(work: Callable[[], Any]) -> int:
    """What one step of `work` is counted as."""
    counter = OperationCounter(1.0)
    with counter.step("w"):
        work()
    return counter.done


def backward(y: Tensor) -> None:
    y.sum().backward()


class Layers(nn.Module):
    """W2 relu(W1 x)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, OUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


class LinearTask(Task):
    """|W2 relu(W1 x)|^2 on fixed numbers. In a step W1 meets 2 B in hidden operations forward and as many for its gradient, its
    input needs none; W2 has its input's gradient too."""

    name = "linear"
    STEP = 2 * (2 * B * IN * HIDDEN) + 3 * (2 * B * HIDDEN * OUT)

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = Layers()

    def modules(self) -> Mapping[str, nn.Module]:
        return {"network": self.network}

    def averaged(self) -> Mapping[str, nn.Module]:
        return self.modules()

    def parameters(self) -> Mapping[str, list[Parameter]]:
        return {"all": list(self.network.parameters())}

    def compile(self) -> None:
        self.network.compile(backend="eager")

    def batch(self, step: int, config: OptimConfig, rng: torch.Generator) -> Batch:
        return {"x": torch.randn(config.batch_size, IN, generator=rng)}

    def loss(self, name: str, batch: Batch, step: int, rng: torch.Generator) -> Loss:
        total = self.network(batch["x"]).square().mean()
        return Loss(total, {"loss": total.detach()})


def linear(directory: Path, **changes: Any) -> Trainer:
    return trainer(LinearTask(), directory, small_optim(**{"steps": 1000, "warmup_steps": 0, **changes}))


def kinds(trained: Trainer) -> dict[str, int]:
    return trained.state.clock.operations.steps


# --- what is counted


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer(bias: bool) -> None:
    layer, x = nn.Linear(IN, OUT, bias), torch.randn(B, IN)
    product = 2 * B * IN * OUT
    assert cost(lambda: layer(x)) == product
    assert cost(lambda: backward(layer(x))) == 2 * product  # the input needs no gradient
    assert cost(lambda: backward(layer(x.clone().requires_grad_()))) == 3 * product


@pytest.mark.parametrize(("side", "stride", "padding"), [(9, 1, 1), (9, 2, 0)])
def test_a_convolution(side: int, stride: int, padding: int) -> None:
    layer, x = nn.Conv2d(5, 7, 3, stride, padding), torch.randn(2, 5, side, side)
    out = (side + 2 * padding - 3) // stride + 1
    product = 2 * 2 * 7 * 5 * 9 * out**2
    assert cost(lambda: layer(x)) == product
    assert cost(lambda: backward(layer(x))) == 2 * product
    assert cost(lambda: backward(layer(x.clone().requires_grad_()))) == 3 * product


@pytest.mark.parametrize(("backend", "again"), [(SDPBackend.FLASH_ATTENTION, 1), (SDPBackend.MATH, 0)])
def test_attention_whatever_its_kernel(backend: SDPBackend, again: int) -> None:
    """q k' and p v; backward the gradients of v, p, q and k; a fused kernel finds q k' a second time."""
    q, k = torch.randn(2, 3, 5, 8, requires_grad=True), torch.randn(2, 3, 7, 8, requires_grad=True)
    v = torch.randn(2, 3, 7, 8, requires_grad=True)
    product = 2 * 2 * 3 * 5 * 7 * 8
    with sdpa_kernel(backend):
        assert cost(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * product
        assert cost(lambda: backward(F.scaled_dot_product_attention(q, k, v))) == (2 + 4 + again) * product


def test_what_is_computed_twice_counts_twice() -> None:
    layer, x = nn.Sequential(nn.Linear(IN, OUT), nn.ReLU()), torch.randn(B, IN)
    product = 2 * B * IN * OUT
    assert cost(lambda: backward(checkpoint(layer, x, use_reentrant=False))) == 3 * product


def test_a_gradient_penalty() -> None:
    """D(x) = |c * x|^2: c * x; the slope, c' * g; backward of that, c * and the weight's part; of c * x, the weight's other."""
    layer, x = nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.randn(2, 3, 8, 8, requires_grad=True)
    product = 2 * 2 * 3 * 4 * 9 * 64

    def penalty() -> None:
        value = gradient_penalty(layer(x).square().flatten(1).sum(1), x)
        torch.autograd.grad(value, layer.weight)

    assert cost(penalty) == (1 + 1 + 2 + 1) * product


def test_a_step_is_forward_backward_and_all_its_parts(tmp_path: Path) -> None:
    for changes in ({}, {"accumulate": 2}, {"precision": "bf16"}):
        trained = linear(tmp_path, flops=ENDLESS, steps=3, **changes)
        trained.run(StopFlag())
        assert trained.state.clock.operations.costs == {"all": LinearTask.STEP}
        assert trained.state.clock.operations.done == 3 * LinearTask.STEP


def test_an_optimizer_of_products_counts_too(tmp_path: Path) -> None:
    """Muon: of a matrix of m rows and n >= m columns each of its iterations is X X', its square, and their product with X."""
    plain, muon = (linear(tmp_path / name, flops=ENDLESS, optimizer=name) for name in ("adamw", "muon"))
    plain._step(0)
    found = {}
    for trained in (plain, muon):
        with trained.state.clock.step("", "w"):
            trained._step(0)
        found[trained] = trained.state.clock.operations.done
    matrices = [sorted(p.shape) for p in muon.task.parameters()["all"] if p.ndim == 2]
    once = sum(2 * (2 * m * m * n) + 2 * m**3 for m, n in matrices)
    assert found[plain] == LinearTask.STEP
    assert (found[muon] - found[plain]) % once == 0
    assert found[muon] > found[plain]


def test_recomputation_in_a_network_is_work(tmp_path: Path) -> None:
    found = []
    for again in (False, True):
        task = diffusion_task()
        config = small_optim(flops=ENDLESS, steps=1, checkpointing=again)
        for module in task.modules().values():
            prepare_module(module, config)
        trained = trainer(task, tmp_path / str(again), config)
        trained.run(StopFlag())
        found.append(trained.state.clock.operations.done)
    assert found[0] < found[1] < 4 / 3 * found[0]  # at most one forward more, which is a third of a step


@pytest.mark.parametrize("make", [diffusion_task, autoencoder_task, pictures_task])
def test_counting_changes_no_number_but_in_its_last_bits(make: Callable[[], Task], tmp_path: Path) -> None:
    """PyTorch's counter runs SiLU's backward as its formula rather than as its kernel, in the counted steps."""
    plain, counted = (trainer(make(), tmp_path / str(flops), small_optim(flops=flops)) for flops in (0.0, ENDLESS))
    for trained in (plain, counted):
        trained.run(StopFlag())
    for before, after in zip(plain.reporter.rows, counted.reporter.rows, strict=True):  # type: ignore[attr-defined]
        assert after == pytest.approx(before, rel=1e-4, abs=1e-6)


# --- kinds of steps


def test_each_kind_of_a_gan_is_counted_once_and_all_steps_are_right(tmp_path: Path) -> None:
    """The sum over kinds against a count of every single step."""
    config = small_optim(flops=ENDLESS, steps=12)
    trained = trainer(pictures_task(penalty_every=2, generator_every=3), tmp_path / "a", config)
    trained.run(StopFlag())
    found = trained.state.clock.operations
    assert found.steps == {
        "generator discriminator penalised": 2,
        "discriminator": 4,
        "discriminator penalised": 4,
        "generator discriminator": 2,
    }
    each = trainer(pictures_task(penalty_every=2, generator_every=3), tmp_path / "b", config)
    total = 0
    for step in range(12):
        total += cost(lambda step=step: each._step(step))  # type: ignore[misc]
    assert found.done == total
    assert found.costs["discriminator penalised"] > found.costs["discriminator"]


def test_without_penalties_their_steps_are_like_the_others() -> None:
    assert {pictures_task(r1=0.0, penalty_every=2).work(step) for step in range(4)} == {""}


def test_a_critic_that_joins_late_is_another_kind_and_its_ramp_is_not(tmp_path: Path) -> None:
    trained = trainer(autoencoder_task(gan_start=3), tmp_path, small_optim(flops=ENDLESS))
    trained.run(StopFlag())
    assert kinds(trained) == {"autoencoder": 3, "autoencoder discriminator": 5}
    costs = trained.state.clock.operations.costs
    assert costs["autoencoder discriminator"] > costs["autoencoder"]


def test_a_step_that_raises_or_ends_early_does_not_stand_for_its_kind(tmp_path: Path) -> None:
    counter = OperationCounter(1.0)
    with pytest.raises(ValueError, match="no"), counter.step("a"):
        raise ValueError("no")
    assert counter.state_dict() == {"flops": 0, "work": {}}
    task = LinearTask()
    first, batch = task.loss, task.batch

    def batch_of(step: int, config: OptimConfig, rng: torch.Generator) -> Batch:
        return {"x": batch(step, config, rng)["x"] * (math.nan if step == 0 else 1)}

    task.batch, task.loss = batch_of, first  # type: ignore[method-assign]
    trained = trainer(task, tmp_path, small_optim(flops=ENDLESS, steps=4, optimizer="muon"))
    trained.run(StopFlag())
    whole = trainer(LinearTask(), tmp_path / "whole", small_optim(flops=ENDLESS, steps=4, optimizer="muon"))
    whole.run(StopFlag())
    assert trained.state.clock.operations.costs == whole.state.clock.operations.costs
    assert kinds(trained) == {"all": 3}


def test_nothing_to_count_is_refused() -> None:
    """Else such a stage would never end."""
    counter = OperationCounter(1e9)
    with (
        pytest.raises(InputError, match="a step of prior has no operation that can be counted; give seconds"),
        counter.step("prior"),
    ):
        torch.randn(3).exp()


class Replayed(StepGraph):
    """A CUDA graph without CUDA. Nobody who watches operators sees anything of a replay."""

    def __init__(self, rng: torch.Generator) -> None:
        self.rng, self.works, self.log = rng, True, []
        self.warn = self.log.append
        self._forget(None)

    def _aside(self, work):  # type: ignore[no-untyped-def]
        self.log.append("plain")
        return work()

    def _record(self, batch, compute):  # type: ignore[no-untyped-def]
        self.batch = {name: tensor.clone() for name, tensor in batch.items()}
        played = self

        class Graph:
            def replay(self) -> None:
                assert torch.utils._python_dispatch._get_current_dispatch_mode() is None, "a replay was to be counted"
                played.log.append("replay")
                played.values = compute(played.batch)

        self.graph = Graph()  # type: ignore[assignment]


@pytest.mark.parametrize("make", [diffusion_task, pictures_task, lambda: autoencoder_task(gan_start=5)])
def test_under_cuda_graphs_the_count_is_the_same(make: Callable[[], Task], tmp_path: Path) -> None:
    config = small_optim(flops=ENDLESS, steps=2 * UNRECORDED + 6)
    plain = trainer(make(), tmp_path / "plain", config)
    plain.run(StopFlag())
    graphed = trainer(make(), tmp_path / "graphed", config)
    graphed.graph = graph = Replayed(graphed.rng)
    graphed.run(StopFlag())
    assert "replay" in graph.log
    assert graphed.state.clock.state_dict()["work"] == plain.state.clock.state_dict()["work"]


def test_a_compiled_network_is_counted_as_it_is_written(tmp_path: Path) -> None:
    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(step[0])
        return graph.forward

    torch.compiler.reset()
    trained, step = linear(tmp_path, flops=ENDLESS, steps=4), [0]
    trained.task.network.compile(backend=backend)  # type: ignore[attr-defined]
    single = trained._step

    def noted(number: int) -> Any:
        step[0] = number
        return single(number)

    trained._step = noted  # type: ignore[method-assign]
    trained.run(StopFlag())
    assert trained.state.clock.operations.done == 4 * LinearTask.STEP
    assert compiled == [1]  # the second step is the first that compiles


# --- where a stage ends


@pytest.mark.parametrize(("budget", "steps"), [(1.0, 1), (3.5 * LinearTask.STEP, 4), (4.0 * LinearTask.STEP, 4)])
def test_a_stage_ends_when_its_budget_is_spent(budget: float, steps: int, tmp_path: Path) -> None:
    trained = linear(tmp_path, flops=budget)
    outcome = trained.run(StopFlag())
    assert (outcome.finished, outcome.step) == (True, steps)
    kept = json.loads((tmp_path / "clock.json").read_text())
    assert kept == {
        "seconds": 0.0,  # all within the warm-up
        "steps": 0,
        "flops": steps * LinearTask.STEP,
        "work": {"all": [LinearTask.STEP, steps]},
        "budget": 0.0,
        "flops_budget": budget,
    }


def test_whichever_budget_is_spent_first_ends_it(tmp_path: Path) -> None:
    for index, (seconds, flops, steps, ended) in enumerate(
        ((2.0, ENDLESS, 1000, WARM_UP + 2), (1000.0, 3.0 * LinearTask.STEP, 1000, 3), (1000.0, ENDLESS, 5, 5))
    ):
        trained, watch = linear(tmp_path / str(index), seconds=seconds, flops=flops, steps=steps), Watch()
        trained.state.clock.now = watch
        batch = trained.task.batch

        def slow(*args: Any, batch: Any = batch, watch: Watch = watch) -> Batch:
            watch.time += 1
            return batch(*args)  # type: ignore[no-any-return]

        trained.task.batch = slow  # type: ignore[method-assign]
        assert trained.run(StopFlag()).step == ended


def test_the_cosine_ends_with_the_budget(tmp_path: Path) -> None:
    trained = linear(tmp_path, flops=8.0 * LinearTask.STEP, learning_rate=1e-3)
    rates: list[float] = []
    trained.task.after_step = lambda step, values: rates.append(  # type: ignore[method-assign]
        trained.state.optimizers["all"].param_groups[0]["lr"]
    )
    trained.run(StopFlag())
    # the first step is measured before it counts, as it is done before time is spent
    assert rates == pytest.approx([1e-3 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)], rel=1e-9)


def test_how_many_steps_are_expected() -> None:
    clock = TrainingClock(flops=100.0)
    clock.load_state_dict({"work": {"a": [10, 3], "b": [5, 2]}})
    assert (clock.operations.done, clock.share, clock.over) == (40, 0.4, False)
    assert clock.expected_steps(5, 10**6) == 5 + round(60 / 8)  # 8 a step so far
    assert clock.expected_steps(5, 9) == 9
    assert TrainingClock(flops=100.0).expected_steps(0, 50) == 50
    assert TrainingClock(flops=40.0).over is False


@pytest.mark.parametrize("make", [diffusion_task, lambda: pictures_task(penalty_every=2)])
def test_a_resumed_stage_goes_on_counting_and_ends_as_if_it_had_not_stopped(
    make: Callable[[], Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = trainer(make(), tmp_path / "probe", small_optim(flops=ENDLESS, steps=9))
    probe.run(StopFlag())
    budget = float(probe.state.clock.operations.done)
    config = small_optim(flops=budget, steps=1000)
    whole = trainer(make(), tmp_path / "whole", config)
    assert whole.run(StopFlag()).step == 9

    flag, stopped = StopFlag(), trainer(make(), tmp_path / "parts", config)
    single = stopped._step

    def step(number: int) -> Any:
        flag.reason = "test" if number == 3 else ""
        return single(number)

    stopped._step = step  # type: ignore[method-assign]
    assert not stopped.run(flag).finished
    again = trainer(make(), tmp_path / "parts", config)
    assert again.resume() == 4
    assert again.state.clock.operations.state_dict() == stopped.state.clock.operations.state_dict()

    def nothing() -> Any:
        raise AssertionError("a kind is counted a second time")

    monkeypatch.setattr(operations, "_mode", nothing)
    assert again.run(StopFlag()).step == 9
    assert differences(whole.state.tensors(), again.state.tensors()) == []
    third = trainer(make(), tmp_path / "parts", config)
    third.resume()
    assert (third.done, third.run(StopFlag()).images) == (True, 0)


def test_without_a_budget_nothing_is_kept(tmp_path: Path) -> None:
    trained = linear(tmp_path, steps=3)
    trained.run(StopFlag())
    assert "clock" not in trained.state.values()
    timed = linear(tmp_path / "timed", steps=3, seconds=100.0)
    timed.run(StopFlag())
    assert timed.state.values()["clock"].keys() == {"seconds", "steps"}


# --- stages and configs


BUDGETS = ({}, {"seconds": 5.0}, {"flops": 7e9}, {"seconds": 5.0, "flops": 7e9})


@pytest.mark.parametrize(("made", "asked"), list(itertools.product(BUDGETS, BUDGETS)))
def test_when_a_stage_is_done(made: dict[str, float], asked: dict[str, float], tmp_path: Path) -> None:
    """Each budget it was made with has to be one that is asked for: the other might have ended it."""
    Stage(tmp_path, "k", 100, **made).finish({"steps": 40 if made else 100})
    assert (Stage(tmp_path, "k", 100, **asked).results() is not None) is (made.keys() <= asked.keys())


@pytest.mark.parametrize(("asked", "done"), [(6e9, True), (7e9, True), (8e9, False)])
def test_more_operations_go_on(asked: float, done: bool, tmp_path: Path) -> None:
    Stage(tmp_path, "k", 100, flops=7e9).finish({"steps": 40})
    assert (Stage(tmp_path, "k", 100, flops=asked).results() is not None) is done


def test_a_budget_makes_no_other_stage_but_later_stages_know_of_it(tmp_path: Path) -> None:
    assert key(OptimConfig(flops=1e15)) == key(OptimConfig())
    assert Stage(tmp_path, "k", 100, flops=1e15).version == "k-100-1e+15flops"
    assert Stage(tmp_path, "k", 100, 60.0, 1e15).version == "k-100-60s-1e+15flops"


def test_runs_made_before_there_was_such_a_budget_keep_their_keys() -> None:
    """The hexadecimal numbers are what the code before it gave."""
    assert key(RECIPES["tiny"](), "x") == "38ddcb0464f6c62a"
    assert key(RECIPES["emoji"](), "x") == "3ea1595bac3b04d5"
    changed = RECIPES["tiny"]()
    prior = dataclasses.replace(changed.prior, train=dataclasses.replace(changed.prior.train, flops=1e15))
    assert key(dataclasses.replace(changed, prior=prior), "x") != "38ddcb0464f6c62a"


def test_it_is_set_like_any_field() -> None:
    config = read_config("tiny", ["prior.train.flops=1e15", "first_stage.train.flops=20000000000000000"])
    assert (config.prior.train.flops, config.first_stage.train.flops) == (1e15, 2e16)
    assert config.prior.train.length == "1e15 operations in steps"
    assert OptimConfig(seconds=60.0, flops=1e15).length == "60 s or 1e15 operations in steps"
    for wrong, words in (("-1", "flops is -1"), ("Infinity", "expected a finite number"), ('"many"', "expected a number")):
        with pytest.raises(InputError, match=words):
            read_config("tiny", [f"prior.train.flops={wrong}"])


def test_a_whole_run_in_operations(tmp_path: Path) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "run"
    budget = [f"{stage}.train.{field}" for stage in ("first_stage", "prior") for field in ("steps=100000", "flops=3e8")]
    config = small_config(*budget)
    model = go(config, data, out)
    for stage in ("first_stage", "prior"):
        done, clock = (json.loads((out / stage / name).read_text()) for name in ("done.json", "clock.json"))
        steps = done["results"]["steps"]
        costs = [cost for cost, _ in clock["work"].values()]
        assert steps == sum(count for _, count in clock["work"].values()) < 100_000
        assert 3e8 <= clock["flops"] < 3e8 + max(costs)
    before = times(out)
    assert go(config, data, out) == model
    assert times(out) == before
