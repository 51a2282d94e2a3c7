"""Whole runs stopped, killed, locked, refused, and the time that one takes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import go, weights
from torch import Tensor

from faults import Disk, die, in_child
from sfumato.errors import InputError, MachineError
from sfumato.first_stages.kl import KLFirstStage
from sfumato.io.pretrained import load_pretrained
from sfumato.posterior import DiagonalGaussian
from sfumato.training.lock import locked
from sfumato.training.pixels import PixelSource
from sfumato.training.progress import Reporter
from sfumato.training.signals import Stopped
from sfumato.training.stages import Stage
from tiny_runs import SMALL, differences, small_config, write_folder

COMMAND = [sys.executable, "-m", "sfumato", "train", "tiny"]
SETS = [word for change in SMALL for word in ("--set", change)]


def test_stop_after_saves_and_goes_on(finished: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="stopped by the time given by --stop-after at step 0 of first_stage"):
        go(small_config(), data, tmp_path / "run", minutes=0)
    assert not (tmp_path / "run" / "model").exists()
    go(small_config(), data, tmp_path / "run")
    same = {k: v for k, v in weights(tmp_path / "run").items() if "step-00000000" not in k}
    assert differences(weights(finished), same) == []


def test_sigterm_in_the_prior(finished: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Reporter, stage: str, step: int, *args: object, **kwargs: object) -> None:
        if (stage, step) == ("prior", 5):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "step", step)
        with pytest.raises(Stopped, match="stopped by SIGTERM at step 5 of prior"):
            go(small_config(), data, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    go(small_config(), data, tmp_path / "run")
    same = {k: v for k, v in weights(tmp_path / "run").items() if not k.startswith("prior/checkpoints/step-00000005")}
    assert differences(same, {k: v for k, v in weights(finished).items() if k in same}) == []
    assert any(k.startswith("model/prior") for k in same)


def test_sigterm_while_encoding(finished: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, in_order = KLFirstStage.posterior, PixelSource.in_order
    seen: list[int] = []

    def posterior(self: KLFirstStage, x: Tensor) -> DiagonalGaussian:
        if (tmp_path / "run/latents").exists():
            seen.append(len(x))
            if len(seen) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
        return encode(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(KLFirstStage, "posterior", posterior)
        patch.setattr(PixelSource, "in_order", lambda self, size, flipped=False: in_order(self, 4, flipped))
        with pytest.raises(Stopped, match="stopped by SIGTERM while pictures are encoded; the same command encodes them anew"):
            go(small_config(), data, tmp_path / "run")
    assert seen == [4]
    go(small_config(), data, tmp_path / "run")
    assert differences(weights(finished), weights(tmp_path / "run")) == []


def test_time_that_is_up_lets_pictures_be_encoded(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else calls of a few minutes each would never get past it."""
    finish = Stage.finish

    def late(self: Stage, results: dict[str, Any]) -> dict[str, Any]:
        if self.directory.name == "first_stage":
            monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 3600)
        return finish(self, results)

    monkeypatch.setattr(Stage, "finish", late)
    with pytest.raises(Stopped, match="by --stop-after at step 0 of prior"):
        go(small_config(), data, tmp_path / "run", minutes=30)
    assert (tmp_path / "run/latents/done.json").exists()


def test_killed_runs_end_as_uninterrupted(finished: Path, data: Path, tmp_path: Path) -> None:
    """SIGKILL inside writes all over a run: stages, checkpoints, caches, the model. Then the same call finishes it."""
    out, kills = tmp_path / "run", 0

    def work(at: int) -> None:
        Disk(at, die).install(pytest.MonkeyPatch())
        go(small_config(), data, out)

    for at in (4, 33, 40, 48, 22, 31, 20):
        kills += in_child(lambda at=at: work(at)) == -9
    assert kills >= 5
    assert go(small_config(), data, out) == out / "model"
    assert differences(weights(finished), weights(out)) == []
    assert [p for p in out.rglob("*") if p.name.endswith((".tmp", ".old"))] == []


def test_sigterm_saves_and_the_same_command_goes_on(finished: Path, data: Path, tmp_path: Path) -> None:
    """The signal comes once the log shows that a stage of many steps is under way; the rest of the run is short."""
    out = tmp_path / "run"
    arguments = [*COMMAND, "--data", str(data), "--out", str(out), *SETS, "--set", "first_stage.train.steps=400"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    log = out / "first_stage" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.is_file() and log.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert stdout == ""
    assert "stopped by SIGTERM at step" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    [*_, newest] = sorted((out / "first_stage" / "checkpoints").iterdir())
    step = int(newest.name[-8:])
    assert 4 <= step < 400
    assert f"at step {step} of first_stage" in stderr  # nothing of what was done is lost
    steps = step + 10
    changes = [f"first_stage.train.steps={steps}", "first_stage.train.decay=constant"]
    torch.manual_seed(123)
    go(small_config(*changes), data, out)
    go(small_config(*changes), data, tmp_path / "whole")
    assert differences(weights(tmp_path / "whole"), weights(out)) == []


def test_a_locked_run_is_refused_and_a_dead_lock_is_free(copy: Path, data: Path) -> None:
    with locked(copy):
        arguments = [*COMMAND, "--data", str(data), "--out", str(copy), *SETS]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"in use by process {os.getpid()} on" in done.stderr
    go(small_config(), data, copy)  # run.lock is still there, its holder is not


def test_of_twenty_starts_one_wins(tmp_path: Path) -> None:
    """All try at once; the winner holds the lock until the last has tried."""
    (tmp_path / "tries").mkdir()

    def work(index: int) -> None:
        code = 2
        try:
            with locked(tmp_path / "run"):
                (tmp_path / "tries" / str(index)).touch()
                code = 0
                while len(list((tmp_path / "tries").iterdir())) < 20:
                    time.sleep(0.005)
        except InputError:
            (tmp_path / "tries" / str(index)).touch()
        finally:
            os._exit(code)

    children = []
    for index in range(20):
        child = os.fork()
        if child == 0:
            work(index)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0] + [2] * 19


def test_lock_is_let_go_after_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        go(small_config("prior.condition=class"), data, tmp_path / "run")
    with locked(tmp_path / "run"):
        pass


def test_places_that_are_no_run(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        go(small_config(), data, tmp_path / "file")
    with pytest.raises(InputError, match="file"):
        go(small_config(), data, tmp_path / "file" / "below")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        go(small_config(), data, tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.doc"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_inside_its_data_is_refused(data: Path, tmp_path: Path) -> None:
    """Its own sample sheets would become training pictures."""
    inside = Path(shutil.copytree(data, tmp_path / "pictures"))
    for out in (inside / "run", inside, inside / ".." / "pictures" / "a" / "run"):
        with pytest.raises(InputError, match=r"inside --data|other files"):
            go(small_config(), inside, out)
    assert sorted(p.name for p in inside.iterdir()) == sorted(p.name for p in data.iterdir())


def test_an_unwritable_place_is_the_machines_fault(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(MachineError, match="Permission denied"):
        go(small_config(), data, tmp_path / "run")


@pytest.mark.parametrize(("change", "words"), [
    ("data.size=17", "data.size is 17.*16 would do"),
    ("data.size=18", "multiple of 4"),  # which the first stage could do, and the U-Net halves once more
    ("first_stage.loss.discriminator_layers=3", "24 or more"),
    ("sampling.sampler=dpm", "sampler"),
    ("sampling.steps=0", "steps"),
    ("sampling.spacing=linspce", "spacing"),
    ("first_stage.init=nope", "first_stage.init: unknown model 'nope'"),
    ("prior.init=nope", "prior.init: unknown model 'nope'"),
    ("data.background=puce", "background"),
    ("data.channels=2", "channels"),
    ("first_stage.loss.perceptual=lpips", "lpips_vgg"),
])  # fmt: skip
def test_what_cannot_work_is_said_before_training(data: Path, tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        go(small_config(change), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_refused_folder_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="0 pictures"):
        go(small_config(), tmp_path / "empty", tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_the_list_of_bad_files_stays(data: Path, tmp_path: Path) -> None:
    """The message names it."""
    bad = Path(shutil.copytree(data, tmp_path / "pictures"))
    for index in range(50):
        (bad / f"bad{index}.png").write_bytes(b"")
    with pytest.raises(InputError, match="unreadable"):
        go(small_config(), bad, tmp_path / "run")
    assert (tmp_path / "run" / "audit" / "bad_files.jsonl").read_text().count("\n") == 50


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b""])
def test_a_damaged_audit_is_made_anew(data: Path, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(Stopped):
        go(small_config(), data, tmp_path / "run", minutes=0)
    found = (tmp_path / "run" / "audit" / "audit.json").read_bytes()
    (tmp_path / "run" / "audit" / "audit.json").write_bytes(content)
    with pytest.raises(Stopped):
        go(small_config(), data, tmp_path / "run", minutes=0)
    assert (tmp_path / "run" / "audit" / "audit.json").read_bytes() == found
    (tmp_path / "run" / "first_stage" / "stage.json").write_bytes(content)
    with pytest.raises(InputError, match=r"stage\.json"):
        go(small_config(), data, tmp_path / "run", minutes=0)


def test_a_name_that_is_not_utf8(data: Path, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(data, tmp_path / "pictures"))
    picture = next(odd.rglob("*.png"))
    for name in (b"caf\xe9.png", b"caf\xe9 2.png"):  # equal pixels: the report names them
        shutil.copy(picture, os.fsencode(odd) + b"/" + name)
    with pytest.raises(Stopped):
        go(small_config(), odd, tmp_path / os.fsdecode(b"r\xfcn"), minutes=0)


@pytest.mark.slow
def test_the_tiny_recipe_takes_a_minute(tmp_path: Path) -> None:
    """Both stages of `tiny` end to end, process start included, on two cores."""
    data = write_folder(tmp_path / "data", 200)
    start = time.monotonic()
    arguments = [*COMMAND, "--data", str(data), "--out", str(tmp_path / "run"), "--quiet"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "2"})
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "run" / "model")
    load_pretrained(tmp_path / "run")
    assert seconds <= 60
