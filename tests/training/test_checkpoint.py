"""The newest whole checkpoint counts, whatever happened to the disk or the process."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from faults import Disk, die, in_child, refuse
from sfumato.errors import MachineError
from sfumato.training.checkpoint import load_checkpoint, save_checkpoint
from sfumato.training.signals import StopFlag
from tiny_runs import autoencoder_task, differences, diffusion_task, run, small_optim, trainer

STAGES = {"first stage": autoencoder_task, "prior": diffusion_task}


def save(directory: Path, step: int) -> Path:
    return save_checkpoint(directory, step, {"w": torch.full((100,), float(step))}, {"note": f"n{step}", "at": [step]})


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def test_round_trip(tmp_path: Path) -> None:
    tensors = {"a.b": torch.randn(3, 4), "half": torch.randn(5).half(), "step": torch.tensor(3.0), "n": torch.tensor([7])}
    values = {"ema_updates": 3, "task": {"start": None, "sum": 0.1 + 0.2}}
    save_checkpoint(tmp_path, 12, tensors, values)
    found, warnings = load_checkpoint(tmp_path)
    assert warnings == []
    assert found is not None
    assert found.step == 12
    assert differences(found.tensors, tensors) == []
    assert found.values == {"step": 12, **values}  # floats survive JSON exactly


def test_nothing_there(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none") == (None, [])
    assert load_checkpoint(tmp_path) == (None, [])


def test_two_are_kept_and_steps_order_them_not_time(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000009", "step-00000010"]
    os.utime(tmp_path / "step-00000010", (0, 0))  # a clock that jumped back
    os.utime(tmp_path / "step-00000009", (2**31, 2**31))
    found, _ = load_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 10


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in ("step-1", "notes.txt", "step-00000009.bak"):
        (tmp_path / name).write_text("x")
    found, warnings = load_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, warnings) == (1, [])
    assert {"step-1", "notes.txt", "step-00000009.bak"} < set(names(tmp_path))


def test_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".step-00000002.77.tmp").mkdir()
    (tmp_path / ".step-00000002.77.tmp" / "state.safetensors").write_text("half")
    assert load_checkpoint(tmp_path)[1] == []
    assert names(tmp_path) == ["step-00000001"]


def test_every_damage_falls_back_with_a_warning(tmp_path: Path) -> None:
    rng = random.Random(1)
    for step in (3, 7):
        save(tmp_path / "whole", step)
    for index in range(240):
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "c")
        path = rng.choice(sorted((tmp_path / "c" / "step-00000007").iterdir()))
        data = bytearray(path.read_bytes())
        if index < 200:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
        elif index < 220:
            path.write_bytes(data[: rng.randrange(len(data))])
        elif index < 230:
            path.unlink()
        else:  # swapped with the same file of the other checkpoint
            shutil.copy(tmp_path / "c" / "step-00000003" / path.name, path)
        found, warnings = load_checkpoint(tmp_path / "c")
        assert found is not None
        assert found.step == 3, path.name
        assert torch.equal(found.tensors["w"], torch.full((100,), 3.0))
        assert len(warnings) == 1
        assert "step-00000007" in warnings[0]
        assert "before it" in warnings[0]


def test_all_damaged(tmp_path: Path) -> None:
    for step in (3, 7):
        (save(tmp_path, step) / "state.json").write_text("{}")
    found, warnings = load_checkpoint(tmp_path)
    assert found is None
    assert len(warnings) == 2


def test_damaged_checkpoint_is_replaced_by_training_on(tmp_path: Path) -> None:
    """The run falls back to step 4, says so, and ends where it would have ended."""
    whole = run(trainer(diffusion_task(), tmp_path / "a")).state.tensors()
    run(trainer(diffusion_task(), tmp_path / "b", small_optim(checkpoint_every=4)))
    weights = tmp_path / "b" / "checkpoints" / "step-00000008" / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    again = trainer(diffusion_task(seed=3), tmp_path / "b")
    assert again.resume() == 4
    assert "step-00000008" in again.reporter.warnings[0]
    assert again.run(StopFlag()).finished
    assert differences(whole, again.state.tensors()) == []
    assert load_checkpoint(tmp_path / "b" / "checkpoints")[1] == []


def test_disk_full_at_any_write_leaves_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, 1)
    at = 0
    while True:
        at += 1
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(at, refuse()).install(patch)
            try:
                save(tmp_path, 2)
            except MachineError as error:
                assert "No space left" in str(error)  # noqa: PT017
        if disk.count < at:
            break
        found, warnings = load_checkpoint(tmp_path)
        assert found is not None
        assert warnings == []
        assert names(tmp_path)[0] == "step-00000001"
        assert all(n.startswith("step-") for n in names(tmp_path))
    assert at > 15  # open, write, fsync, rename, fsync of three files, then the folder


@pytest.mark.parametrize("stage", STAGES)
def test_killed_inside_saves_it_ends_as_uninterrupted(stage: str, tmp_path: Path) -> None:
    """SIGKILL at operations 1, 6, 11, ... of the disk, again and again on one directory, a save at every step."""
    config = small_optim(steps=5, checkpoint_every=1)
    whole = run(trainer(STAGES[stage](), tmp_path / "whole", config))
    directory, kills, reached = tmp_path / "killed", 0, 0

    def work(at: int) -> None:
        Disk(at, die).install(pytest.MonkeyPatch())
        run(trainer(STAGES[stage](), directory, config))

    for at in range(1, 72, 5):
        code = in_child(lambda at=at: work(at))
        kills += code == -9
        assert code in (0, -9)
        found, warnings = load_checkpoint(directory / "checkpoints")
        assert warnings == []  # killed inside a save is never damaged
        step = 0 if found is None else found.step
        assert step >= reached  # and loses nothing that was saved
        reached = step
    assert kills >= 8
    last = run(trainer(STAGES[stage](seed=9 if reached else 0), directory, config))
    assert differences(whole.state.tensors(), last.state.tensors()) == []
    assert whole.state.values() == last.state.values()
