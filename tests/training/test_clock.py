"""Time budgets: what counts, that the stage and its cosine end with them, and that a resumed stage goes on counting."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from small_runs import go, times

from sfumato.errors import InputError
from sfumato.training.clock import WARM_UP, TrainingClock
from sfumato.training.config import OptimConfig
from sfumato.training.loop import Trainer, learning_rate_factor
from sfumato.training.signals import StopFlag
from sfumato.training.stages import Stage, key
from tiny_runs import diffusion_task, small_config, small_optim, trainer, write_folder


class Watch:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def timed(directory: Path, seconds_a_step: float = 1.0, **changes: object) -> tuple[Trainer, Watch]:
    """A trainer whose steps take `seconds_a_step` of the watch."""
    watch, task = Watch(), diffusion_task()
    batch = task.batch

    def slow_batch(*args: object) -> object:
        watch.time += seconds_a_step
        return batch(*args)  # type: ignore[arg-type]

    task.batch = slow_batch  # type: ignore[method-assign, assignment]
    trained = trainer(task, directory, small_optim(**{"steps": 1000, **changes}))
    trained.state.clock.now = watch
    return trained, watch


def test_a_stage_ends_when_its_budget_is_spent(tmp_path: Path) -> None:
    trained, _ = timed(tmp_path, seconds=3.5)
    outcome = trained.run(StopFlag())
    assert (outcome.finished, outcome.step) == (True, WARM_UP + 4)  # the step that spends the last of it is done
    assert json.loads((tmp_path / "clock.json").read_text()) == {"seconds": 4.0, "steps": 4}


def test_steps_can_end_it_first(tmp_path: Path) -> None:
    trained, _ = timed(tmp_path, seconds=1000.0, steps=12)
    outcome = trained.run(StopFlag())
    assert (outcome.finished, outcome.step) == (True, 12)


def test_what_lies_between_steps_does_not_count(tmp_path: Path) -> None:
    trained, watch = timed(tmp_path, seconds=4.0, sample_every=3)
    seen: list[int] = []

    def on_sample(step: int) -> None:
        seen.append(step)
        watch.time += 100

    assert trained.run(StopFlag(), on_sample).step == WARM_UP + 4
    assert seen == [3, 6, 9, 12, 14]  # in the cadence, and at the end


def test_a_resumed_stage_goes_on_counting(tmp_path: Path) -> None:
    """Only the warm-up is had again: another process compiles anew."""
    trained, _ = timed(tmp_path, seconds=5.0)
    flag, step_of = StopFlag(), trained._step

    def step(number: int) -> object:
        flag.reason = "test" if number + 1 == WARM_UP + 2 else ""
        return step_of(number)

    trained._step = step  # type: ignore[method-assign, assignment]
    assert not trained.run(flag).finished
    again, _ = timed(tmp_path, seconds=5.0)
    assert (again.resume(), again.state.clock.elapsed, again.state.clock.steps) == (WARM_UP + 2, 2.0, 2)
    assert again.run(StopFlag()).step == (WARM_UP + 2) + WARM_UP + 3
    third, _ = timed(tmp_path, seconds=5.0)
    third.resume()
    assert (third.done, third.run(StopFlag()).images) == (True, 0)


def test_the_cosine_ends_with_the_budget(tmp_path: Path) -> None:
    trained, _ = timed(tmp_path, seconds=8.0, warmup_steps=0, learning_rate=1e-3)
    rates: list[float] = []
    trained.task.after_step = lambda step, values: rates.append(  # type: ignore[method-assign]
        next(iter(trained.state.optimizers.values())).param_groups[0]["lr"]
    )
    trained.run(StopFlag())
    spent = [max(0, step - WARM_UP) for step in range(WARM_UP + 8)]
    # 1000 steps are the other end, which in so few are hardly nearer: the later of both counts
    expected = [1e-3 * 0.5 * (1 + math.cos(math.pi * max(s / 8, n / 1000))) for n, s in enumerate(spent)]
    assert rates == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_time_takes_the_place_of_steps(fraction: float) -> None:
    """The rate after a share of the time is the rate after that share of the steps."""
    config = OptimConfig(steps=1000, warmup_steps=0, decay="cosine", decay_fraction=fraction, final_learning_rate=1e-5)
    for step in (0, 250, 500, 799, 800, 950, 1000):
        assert learning_rate_factor(config, 0, step / 1000) == pytest.approx(learning_rate_factor(config, step))
    assert learning_rate_factor(config, 0, 1.3) == pytest.approx(0.1)


def test_without_a_budget_nothing_is_kept_of_time(tmp_path: Path) -> None:
    trained, _ = timed(tmp_path, steps=3)
    trained.run(StopFlag())
    assert "clock" not in trained.state.values()
    assert not (tmp_path / "clock.json").exists()


def test_each_kind_of_step_warms_up_for_itself() -> None:
    """Steps of a generator alone, then of both in turn: the first of each kind compile."""
    watch = Watch()
    clock = TrainingClock(100.0, watch)
    for kind in ["g"] * 15 + ["g", "d"] * 12:
        with clock.step(kind):
            watch.time += 1
    assert (clock.elapsed, clock.steps) == (15 + 24 - 2 * WARM_UP, 15 + 24 - 2 * WARM_UP)
    assert clock.expected_steps(39, 10**6) == 39 + (100 - 19)
    assert clock.expected_steps(39, 50) == 50


def test_a_step_that_raises_counts_nothing() -> None:
    clock = TrainingClock(1.0, Watch())
    with pytest.raises(ValueError, match="no"), clock.step(""):
        raise ValueError("no")
    assert clock.state_dict() == {"seconds": 0.0, "steps": 0}


@pytest.mark.parametrize(
    ("made", "asked", "steps", "done"),
    [
        ((100, 5.0), (100, 5.0), 40, True),
        ((100, 5.0), (100, 3.0), 40, True),
        ((100, 5.0), (100, 9.0), 40, False),  # more time: it goes on
        ((100, 5.0), (100, 0.0), 40, False),  # all the steps
        ((100, 5.0), (100, 0.0), 100, True),  # which had been done in time
        ((100, 0.0), (100, 5.0), 100, True),
        ((100, 5.0), (200, 5.0), 40, False),
    ],
)
def test_when_a_stage_is_done(
    made: tuple[int, float], asked: tuple[int, float], steps: int, done: bool, tmp_path: Path
) -> None:
    Stage(tmp_path, "k", *made).finish({"steps": steps})
    assert (Stage(tmp_path, "k", *asked).results() is not None) is done


def test_a_budget_makes_no_other_stage_but_later_stages_know_of_it(tmp_path: Path) -> None:
    assert key(OptimConfig(seconds=60.0)) == key(OptimConfig())
    assert Stage(tmp_path, "k", 100).version == "k-100"
    assert Stage(tmp_path, "k", 100, 60.0).version == "k-100-60s"


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(InputError, match="seconds is -1"):
        OptimConfig(seconds=-1.0)


def test_a_whole_run_in_seconds(tmp_path: Path) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "run"
    budget = [f"{stage}.train.{field}" for stage in ("first_stage", "prior") for field in ("steps=100000", "seconds=0.2")]
    config = small_config(*budget)
    model = go(config, data, out)
    for stage in ("first_stage", "prior"):
        done, clock = (json.loads((out / stage / name).read_text()) for name in ("done.json", "clock.json"))
        assert WARM_UP + clock["steps"] <= done["results"]["steps"] < 100_000
        assert clock["seconds"] >= 0.2
    before = times(out)
    assert go(config, data, out) == model
    assert times(out) == before
